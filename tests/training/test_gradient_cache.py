"""Gradient caching: the losses and gradients of the whole batch, at the memory of a chunk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.losses.grounded import GroundedConsistency, PhraseAlignment
from contextcir.training.encoding import Distinct, WholeBatch, distinct_images
from contextcir.training.gradient_cache import GradientCache, add, plan_chunks
from contextcir.training.module import ContextCIR
from tests.helpers import tiny
from tests.helpers.gradient_cases import CACHE, MODELS, assert_same, gradients, new_batch, new_model

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_the_whole_batch(name: str, precision: torch.dtype) -> None:
    batch = new_batch(11, precision)
    expected = gradients(new_model(name, WholeBatch(), precision), batch)
    assert expected.get("(concept)", torch.ones(1)) > 0 and len(expected) > 20
    for chunk in (1, 4, 11, 50):
        assert_same(gradients(new_model(name, GradientCache(chunk), precision), batch), expected, TOLERANCE[precision])


@pytest.mark.parametrize("frozen", ["image", "towers"])
def test_frozen_towers_get_no_gradients(frozen: str) -> None:
    batch = new_batch(8, torch.float64)
    expected = gradients(new_model("Text-CC", WholeBatch(), torch.float64, frozen), batch)
    found = gradients(new_model("Text-CC", CACHE, torch.float64, frozen), batch)
    assert not any("visual" in name for name in found) and any("transformer" in n for n in found) == (frozen == "image")
    assert_same(found, expected, 1e-10)


@pytest.mark.parametrize("phrases", [0, 1])
def test_chunks_without_phrases_are_like_any_other(phrases: int) -> None:
    batch = new_batch(7, torch.float64, phrases)
    expected, found = (
        gradients(new_model("Text-CC", encoding, torch.float64), batch) for encoding in (WholeBatch(), GradientCache(2))
    )
    assert (expected["(concept)"] == 0) == (phrases == 0)
    assert_same(found, expected, 1e-10)


def test_gradients_accumulate_over_batches() -> None:
    batches = [new_batch(size, torch.float64, seed=size) for size in (5, 8)]
    models = [new_model("Text-CC", encoding, torch.float64) for encoding in (WholeBatch(), CACHE)]
    for model in models:
        for batch in batches:
            model.losses(batch)["loss"].backward()
    expected, found = ({n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in models)
    assert_same(found, expected, 1e-10)


def test_dropout_is_the_same_in_both_passes_and_moves_on_afterwards() -> None:
    batch = new_batch(6, torch.float64)
    model = new_model("no concept loss", CACHE, torch.float64, dropout=True).train()
    torch.manual_seed(7)
    loss = model.losses(batch)["loss"]
    after = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), after)
    parameter = model.fusion.blocks[0].feed_forward[-1].bias
    analytic = parameter.grad[3].item()
    values = []
    for step in (1e-6, -2e-6):  # the slope of the loss with the same random numbers
        with torch.no_grad():
            parameter[3] += step
        torch.manual_seed(7)
        values.append(model.losses(batch)["loss"].item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(analytic, rel=1e-4) and abs(analytic) > 1e-6
    assert model.losses(batch)["loss"].item() != values[1], "the random numbers don't go on"


def test_backward_may_be_run_again() -> None:
    model = new_model("Text-CC", CACHE, torch.float64)
    losses, weights = model.losses(new_batch(6, torch.float64)), list(model.fusion.parameters())
    parts = [
        torch.autograd.grad(losses[name], weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        for name in ("contrastive", "concept", "loss")
    ]
    for contrastive, concept, loss in zip(*parts, strict=True):
        torch.testing.assert_close(contrastive + model.concept.weight * concept, loss)


def test_without_gradients_there_is_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, seen = new_model("Text-CC", CACHE, torch.float32), new_batch(9, torch.float32), []
    encode = model.backbone.encode_image
    monkeypatch.setattr(model.backbone, "encode_image", lambda images: seen.append(len(images)) or encode(images))
    with torch.no_grad():
        loss = model.losses(batch)["loss"]
    assert not loss.requires_grad and len(seen) == 3
    model.losses(batch)["loss"].backward()
    assert len(seen) == 9 and max(seen) <= 6


@pytest.mark.parametrize("concept", [PhraseAlignment(), GroundedConsistency()])
def test_losses_that_compare_rows_are_refused(concept: torch.nn.Module) -> None:
    named = rf"{type(concept).__name__} compares .* TextConceptConsistency or .*no GradientCache \(model\.concept\)$"
    with pytest.raises(ValueError, match=named):
        ContextCIR(tiny.backbone(), concept=concept, encoding=CACHE)
    model = ContextCIR(tiny.backbone(), encoding=CACHE)
    model.concept = concept
    with pytest.raises(ValueError, match=named):
        model.losses(new_batch(4, torch.float32))


def test_an_empty_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a whole number from 1 on, got 0 \(model\.encoding\.chunk\)"):
        GradientCache(0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 15)), min_size=1, max_size=30), st.integers(1, 12))
def test_chunks_hold_every_row_and_every_image_once(ids: list[tuple[int, int]], size: int) -> None:
    reference, target = torch.tensor(ids).T
    distinct = distinct_images(reference, target)
    names = torch.cat([reference, target])[distinct.first]
    assert names[distinct.reference].tolist() == reference.tolist()
    assert names[distinct.target].tolist() == target.tolist()
    chunks = plan_chunks(distinct, size)
    assert sorted(row for chunk in chunks for row in chunk.rows.tolist()) == list(range(len(ids)))
    assert sorted(image for c in chunks for image in c.images[c.kept].tolist()) == list(range(len(names)))
    for chunk in chunks:
        assert len(chunk.rows) <= size and len(chunk.images) <= 2 * size
        assert len(set(chunk.images.tolist())) == len(chunk.images)
        assert torch.equal(chunk.images[chunk.reference], distinct.reference[chunk.rows])
    assert sum(len(chunk.images) for chunk in chunks) < len(names) + len(chunks), "only at borders, one each"


def test_a_plan_of_few_images_in_numbers() -> None:
    distinct = Distinct(torch.tensor([0, 1, 3, 4]), torch.tensor([0, 1, 0]), torch.tensor([2, 3, 0]))
    first, second = plan_chunks(distinct, 2)
    assert [part.tolist() for part in first] == [[0, 2], [0, 2], [0, 0], [0, 1]]
    assert [part.tolist() for part in second] == [[1], [1, 3], [0], [0, 1]]


def test_one_tensor_that_is_the_gradient_of_two_parameters_is_not_added_to_itself() -> None:
    totals, gradient = [None, None, None], torch.ones(2, dtype=torch.bfloat16)
    for _ in range(300):
        add(totals, (gradient, gradient, None))
    assert totals[2] is None and gradient.tolist() == [1, 1]
    assert [total.tolist() for total in totals[:2]] == [[300, 300]] * 2  # bfloat16 stops at 256
