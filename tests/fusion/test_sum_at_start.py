"""Fusions that begin as a sum: before training their queries equal those without any interaction."""

from copy import deepcopy

import open_clip
import pytest
import torch
from torch import nn

from contextcir.batch import Clauses, QueryBatch, phrases_of
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.fusion import CaptionComposer, ClauseSum, ConceptComposer, EditedImageFusion, RawSum, Sum
from contextcir.training.module import ContextCIR
from tests.helpers import tiny

CAPTIONS = ["make the dog bigger and add a red ball", "without the cat", " "]
CLAUSES = Clauses(torch.tensor([0, 0, 1]), torch.tensor([[0, 19], [24, 38], [0, 15]]))
PAIRS = [(EditedImageFusion, Sum), (CaptionComposer, RawSum), (ConceptComposer, ClauseSum)]
TOWERS = {
    "class token": {},
    "mean of patches": {"pool_type": "avg"},
    "norm after the pool": {"pool_type": "avg", "final_ln_after_pool": True},
    "class token, norm after": {"final_ln_after_pool": True},
}


def backbone(tower: str, head: str) -> OpenCLIPBackbone:
    torch.manual_seed(0)
    config = deepcopy(tiny.CONFIG)
    config["vision_cfg"] |= TOWERS[tower]
    if head == "no projection":
        config["embed_dim"] = config["vision_cfg"]["width"]
    clip = open_clip.CLIP(**config)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if head == "no projection":
        clip.visual.proj = None
    if head == "no norm":
        clip.visual.ln_post = nn.Identity()
    return OpenCLIPBackbone.wrap(clip, tiny.tokenizer(), "tiny")


def query_of(given: OpenCLIPBackbone, kind: type) -> torch.Tensor:
    torch.manual_seed(1)
    model = ContextCIR(given, fusion=kind).double().eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    batch = QueryBatch(torch.arange(3), images, CAPTIONS, phrases_of([[]] * 3), CLAUSES)
    with torch.no_grad():
        return model.encode_query(batch).fused.embedding


@pytest.mark.parametrize("head", ["norm and projection", "no projection", "no norm"])
@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize(("kind", "sum_of"), PAIRS)
def test_a_query_of_edited_tokens_equals_the_sum_before_training(kind, sum_of, tower, head) -> None:
    given = backbone(tower, head)
    found, expected = query_of(given, kind), query_of(given, sum_of)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_clause_sum_is_the_image_and_the_scaled_clauses() -> None:
    given = backbone("mean of patches", "norm and projection").double()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    image = given.encode_image(images).embedding
    texts = [["make the dog bigger", "add a red ball"], ["without the cat"], [" "]]
    for row, parts in enumerate(texts):
        text = sum(given.encode_text(given.tokenizer([part])).embedding[0] for part in parts)
        expected = image[row] / image[row].norm() + text / 30
        torch.testing.assert_close(query_of(given, ClauseSum)[row], expected)


def test_reading_clause_by_clause_matters_to_captions_of_several_only() -> None:
    given = backbone("mean of patches", "norm and projection")
    by_clause, whole = query_of(given, ClauseSum), query_of(given, RawSum)
    torch.testing.assert_close(by_clause[1:], whole[1:])
    assert (by_clause[0] - whole[0]).abs().max() > 1e-3


def test_the_head_stays_a_part_of_the_backbone() -> None:
    model = ContextCIR(tiny.backbone(), fusion=EditedImageFusion)
    assert all(name.startswith("blocks.") for name, _ in model.fusion.named_parameters())
    copied = deepcopy(model)
    assert copied.fusion.head.__self__ is copied.backbone
