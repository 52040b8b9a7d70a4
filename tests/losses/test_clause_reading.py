"""Losses on attention maps with a fusion that edits image tokens, and with one that reads captions clause by clause."""

import pytest
import torch

from contextcir.batch import Clauses, QueryBatch, phrases_of
from contextcir.fusion import ConceptComposer, EditedImageFusion, Fusion
from contextcir.losses import ConceptLoss, ConceptReading
from contextcir.losses.maps import phrase_attention
from contextcir.training.module import ContextCIR
from tests.helpers import tiny
from tests.losses.test_every_loss import CONCEPT

CAPTIONS = ["make the dog red and add a ball", "a hat on the dog", "a red ball, then a cat"]
CLAUSES = [[(0, 16), (21, 31)], [], [(0, 10), (17, 22)]]
SPANS = [[(5, 12), (25, 31), (17, 20)], [(0, 5), (9, 16)], [(0, 10), (17, 22)]]  # "and" is between two clauses
IMAGES = torch.tensor([7, 5, 3])
composers = pytest.mark.parametrize("fusion", [EditedImageFusion, ConceptComposer])
map_losses = pytest.mark.parametrize("kind", [kind for kind in CONCEPT if kind.needs_phrases])


def model_of(fusion: type[Fusion]) -> ContextCIR:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone(), fusion=fusion)
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def read(model: ContextCIR, clauses: list | None, rows: tuple[int, ...] = (0, 1, 2)) -> ConceptReading:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()[list(rows)]
    places = None if clauses is None else phrases_of([clauses[row] for row in rows])
    given = None if places is None else Clauses(places.owner, places.spans)
    captions, phrases = [CAPTIONS[row] for row in rows], phrases_of([SPANS[row] for row in rows])
    batch = QueryBatch(torch.arange(len(rows)), pixels, captions, phrases, given)
    return ConceptReading(model.fusion, model.encode_query(batch), IMAGES[list(rows)])


@composers
@map_losses
def test_a_loss_on_maps_is_finite_and_trains_the_blocks(fusion: type[Fusion], kind: type[ConceptLoss]) -> None:
    model = model_of(fusion)
    value = kind()(read(model, CLAUSES))
    value.backward()
    assert value.isfinite() and value > 0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    if kind.needs_maps:
        for block in model.fusion.blocks:
            assert block.attention.query.weight.grad.abs().max() > 0
            assert block.attention.key.weight.grad.abs().max() > 0
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@composers
@map_losses
def test_a_caption_that_is_one_clause_gives_what_it_gives_without_clauses(
    fusion: type[Fusion], kind: type[ConceptLoss]
) -> None:
    model, loss = model_of(fusion), kind()
    expected = loss(read(model, None))
    torch.testing.assert_close(loss(read(model, [[(0, len(caption))] for caption in CAPTIONS])), expected)
    if fusion is ConceptComposer and kind.needs_maps:
        assert (loss(read(model, CLAUSES)) - expected).abs() > 1e-6


def test_a_phrase_between_clauses_has_no_tokens() -> None:
    model = model_of(ConceptComposer)
    by_clause, whole = read(model, CLAUSES), read(model, None)
    assert whole.in_context()[1].all()
    assert by_clause.in_context()[1].tolist() == [True, True, False, True, True, True, True]
    assert by_clause.detached_maps().context_tokens.any(dim=1).tolist() == by_clause.in_context()[1].tolist()
    maps = phrase_attention(model.fusion, by_clause.features)
    assert maps.isnan().all(dim=1).tolist() == [False, False, True, False, False, False, False]
    assert not maps[[0, 1, 3, 4, 5, 6]].isnan().any()


@map_losses
def test_such_a_phrase_changes_no_loss_on_maps(kind: type[ConceptLoss], monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(kind, "values"):
        pytest.skip("its other part reads the words of every phrase, also of those that are not in the maps")
    model, loss = model_of(ConceptComposer), kind()
    values = loss.values(read(model, CLAUSES))
    assert values.isneginf().tolist() == [False, False, True, False, False, False, False]
    assert loss(read(model, CLAUSES)).isfinite()
    monkeypatch.setattr("tests.losses.test_clause_reading.SPANS", [SPANS[0][:2], *SPANS[1:]])
    torch.testing.assert_close(loss.values(read(model, CLAUSES)), values[[0, 1, 3, 4, 5, 6]])
