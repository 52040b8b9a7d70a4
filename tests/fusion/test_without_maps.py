"""Attention without maps where nobody reads them: the same results, and the same maps if they are asked for."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import contextcir.fusion
from contextcir.batch import QueryBatch, phrases_of
from contextcir.encoders.features import Fused
from contextcir.fusion import ConceptAttentionFusion, CrossAttentionFusion, Fusion, blocks
from contextcir.fusion.blocks import BlockFusion
from contextcir.losses import PhraseAlignment, TextConceptConsistency
from contextcir.training.module import ContextCIR
from tests.helpers import tiny
from tests.helpers.classes import concrete_classes
from tests.helpers.gradient_cases import new_batch

ATTENDING = [kind for kind in concrete_classes(contextcir.fusion, Fusion) if issubclass(kind, BlockFusion)]
CAPTIONS = ["make the dog bigger and add a red ball", "without the cat", " "]
SPANS = [[(5, 12), (28, 38)], [(8, 15)], []]


def composed(kind: type[Fusion], at_once: bool) -> tuple[Fused, dict[str, Tensor]]:
    """The queries of a fusion, and the gradients of all weights for queries and maps."""
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone(), fusion=kind)
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    query = QueryBatch(torch.arange(3), images, CAPTIONS, phrases_of(SPANS))
    image = model.backbone.encode_image(query.reference)
    model.compose(image, CAPTIONS, query.phrases)  # which sets it as the loss needs it
    model.fusion.maps_at_once = at_once
    text = model.fusion.encode_text(model.backbone, CAPTIONS, None)
    texts = contextcir.encoders.phrase_texts.PhraseTexts(model.backbone, CAPTIONS, query.phrases)
    fused = model.fusion(image, text, texts)
    (fused.embedding.square().sum() + sum((layer**2).sum() for layer in fused.attention)).backward()
    return fused, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], ids=["products", "fused kernel"])
@pytest.mark.parametrize("kind", ATTENDING)
def test_queries_maps_and_gradients_are_those_with_maps(
    kind: type[Fusion], backend: SDPBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, wanted = composed(kind, at_once=True)
    monkeypatch.setattr(blocks, "kernel", lambda device: sdpa_kernel([backend, SDPBackend.MATH]))
    found, given = composed(kind, at_once=False)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-5, atol=1e-5)
    assert len(found.attention) == len(expected.attention) > 0
    for mine, theirs in zip(found.attention, expected.attention, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert given.keys() == wanted.keys()
    largest = max(gradient.abs().max() for gradient in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(given[name], gradient, rtol=1e-4, atol=1e-5 * largest.item(), msg=name)


@pytest.mark.parametrize(
    ("loss", "training", "maps"),
    [
        (TextConceptConsistency(), True, True),
        (TextConceptConsistency(), False, False),
        (PhraseAlignment(), True, False),
        (None, True, False),
    ],
)
def test_maps_are_made_with_the_queries_only_for_a_loss_that_reads_them(
    loss: object, training: bool, maps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    softmax = blocks.Attention._softmax
    counting = staticmethod(lambda scores, valid: made.append(1) or softmax(scores, valid))
    monkeypatch.setattr(blocks.Attention, "_softmax", counting)
    model = ContextCIR(tiny.backbone(), fusion=lambda widths: CrossAttentionFusion(widths, layers=3), concept=loss)
    made.clear()
    features = model.train(training).encode_query(new_batch(2, torch.float32).query)
    assert len(made) == (3 if maps else 0)  # never those of the pooling
    assert len(features.fused.attention) == 3 and len(made) == 3
    assert features.fused.attention is features.fused.attention


def test_concepts_are_keys_without_maps_too() -> None:
    model = ContextCIR(tiny.backbone(), fusion=ConceptAttentionFusion).eval()
    with torch.no_grad():
        features = model.encode_query(new_batch(3, torch.float32).query)
    assert not features.fused.attention[0].requires_grad
    torch.testing.assert_close(features.fused.attention[0].sum(-1), torch.ones(3, 8, 17))


def test_maps_have_gradients_whoever_asks_for_them_first() -> None:
    model = ContextCIR(tiny.backbone())
    features = model.encode_query(new_batch(2, torch.float32).query)
    with torch.no_grad():
        assert all(layer.requires_grad for layer in features.fused.attention)
