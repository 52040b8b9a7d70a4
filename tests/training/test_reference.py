"""The recorded run of the published implementation is reproduced from its weights."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from contextcir.batch import Phrases, QueryBatch, TripletBatch
from contextcir.encoders.text import Tokenizer
from contextcir.losses.maps import ConceptReading
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training import reference

RELATIVE = 1e-5


@pytest.fixture(scope="module")
def folder(golden) -> Path:
    return golden


@cache
def load(folder: Path):
    return reference.load(folder)


def norm_wise(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).norm() / expected.norm()).item()


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5 as a whole, and nowhere off by more than that of the largest entry."""
    assert norm_wise(found, expected) < RELATIVE
    torch.testing.assert_close(found, expected, rtol=RELATIVE, atol=RELATIVE * expected.abs().max().item())


def find_phrases(case: dict, tokenizer: Tokenizer) -> Phrases:
    """Where each recorded phrase first occurs in its caption; those that don't are left out."""
    owner, spans = [], []
    for row, (caption, phrases) in enumerate(zip(case["captions"], case["noun_phrases"], strict=True)):
        for phrase in phrases:
            start = tokenizer.clean(caption).find(phrase.lower())
            if start >= 0:
                owner.append(row)
                spans.append([start, start + len(phrase)])
    return Phrases(torch.tensor(owner), torch.tensor(spans), torch.full((len(owner), 4), float("nan")))


@cache
def run(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that is recorded, computed by our model; gradients under the names of the record."""
    model = load(folder)
    case = json.loads((folder / "case.json").read_text())
    images = load_file(folder / "images.safetensors")
    tokenizer, captions = model.backbone.tokenizer, case["captions"]
    phrases = find_phrases(case, tokenizer)
    assert len(phrases.owner) == case["n_noun_phrases_used"] == 13

    batch = QueryBatch(torch.arange(6), images["reference"], captions, phrases)
    query = model.encode_query(batch)
    target = model.backbone.encode_image(images["target"])
    losses = model.losses(TripletBatch(batch, images["target"], torch.arange(6), torch.arange(6, 12)))
    model.zero_grad()
    losses["loss"].backward()
    gradients = {}
    for prefix, part in (("clip", model.backbone.clip), ("fusion", model.fusion)):
        for name, parameter in part.named_parameters():
            theirs = reference.published_names(f"{prefix}.{name}")
            if parameter.grad is not None and len(theirs) == 1:
                transposed = f"{prefix}.{name}" in reference.TRANSPOSED
                gradients[f"grad:{theirs[0]}"] = parameter.grad.T if transposed else parameter.grad
    return {
        "query": query.fused.embedding,
        "target": target.embedding,
        "reference": query.image.embedding,
        "vision_tokens": query.image.tokens,
        "text_tokens": query.text.tokens,
        "text_mask": query.text.valid,
        "attention_per_layer": torch.stack(query.fused.attention),
        "loss_infonce": losses["contrastive"],
        "loss_cc_eps0": losses["concept"],
        "loss_cc_eps0.05": TextConceptConsistency(epsilon=0.05)(ConceptReading(model.fusion, query)),
        "loss_total": losses["loss"],
        **gradients,
    }


VALUES = ("query", "target", "reference", "vision_tokens")
LOSSES = ("loss_infonce", "loss_cc_eps0", "loss_cc_eps0.05", "loss_total")
GRADIENTS = (
    "grad:attn_pooler.queries",
    "grad:cross_attn_layers.0.q_proj.weight",
    "grad:cross_attn_layers.3.k_proj.weight",
    "grad:query_projection.weight",
    "grad:vision_encoder.model.embeddings.patch_embedding.weight",
    "grad:visual_projection.weight",
)
CUT = ("text_tokens", "text_mask", "attention_per_layer")  # recorded at the full context length


@pytest.mark.parametrize("name", VALUES + LOSSES + GRADIENTS)
def test_recorded_values_are_reproduced(folder, name):
    check(run(folder)[name], load_file(folder / "expected.safetensors")[name])


def test_recorded_text_tokens_and_attention_are_reproduced(folder):
    found, expected = run(folder), load_file(folder / "expected.safetensors")
    length = found["text_mask"].shape[1]
    assert torch.equal(found["text_mask"], expected["text_mask"][:, :length].bool())
    assert expected["text_mask"][:, length:].sum() == expected["attention_per_layer"][..., length:].sum() == 0
    valid = found["text_mask"]
    check(found["text_tokens"][valid], expected["text_tokens"][:, :length][valid])
    for layer, recorded in zip(found["attention_per_layer"], expected["attention_per_layer"], strict=True):
        check(layer, recorded[..., :length])


def test_nothing_recorded_is_left_unchecked(folder):
    assert set(load_file(folder / "expected.safetensors")) == {*VALUES, *LOSSES, *GRADIENTS, *CUT}


def test_loss_settings_are_those_recorded(folder):
    model = load(folder)
    assert (model.contrastive.temperature, model.concept.weight, model.concept.epsilon) == (0.07, 0.08, 0.0)
    assert not model.training


def test_without_a_published_text_projection_it_is_zero_and_frozen(folder):
    projection = load(folder).backbone.clip.text_projection
    assert not projection.any() and not projection.requires_grad


def test_no_two_parameters_share_a_published_name(folder):
    model = load(folder)
    names = [f"clip.{name}" for name in model.backbone.clip.state_dict() if name != "logit_scale"]
    names += [f"fusion.{name}" for name in model.fusion.state_dict()]
    published = [theirs for name in names for theirs in reference.published_names(name)]
    assert len(published) == len(set(published))
    assert set(published) - {"text_projection.weight"} == set(load_file(folder / "state_dict.safetensors"))
