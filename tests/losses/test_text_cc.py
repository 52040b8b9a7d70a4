"""The published and the spatial loss: their values by loops, and where their gradients go."""

import pytest
import torch

from contextcir.losses.maps import ConceptMaps
from contextcir.losses.text_cc import SpatialConsistency, TextConceptConsistency
from tests.helpers.concept_cases import HEADS, LAYERS, TEXT, VISION, maps
from tests.losses.test_maps import loop_divergence, loop_shares_at_contrast


def naive_loss(given: ConceptMaps, epsilon: float) -> float:
    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    def attended(layers, row, tokens, patch):
        return mean(
            layer[row, head, patch, token].item()
            for layer in layers
            for head in range(HEADS)
            for token in range(len(tokens))
            if tokens[token]
        )

    phrases = []
    for p in range(len(given.owner)):
        if not any(given.context_tokens[p]):
            continue
        excess = []
        for patch in range(1, VISION):
            context = attended(given.context, given.owner[p], given.context_tokens[p], patch)
            alone = attended(given.isolated, p, given.isolated_tokens[p], patch)
            excess.append(max(0.0, abs(context - alone) - epsilon))
        phrases.append(mean(excess))
    return mean(phrases)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.1])
def test_it_equals_loops_over_phrases_patches_and_tokens(epsilon):
    given = maps([0, 2, 2, 1])
    found = TextConceptConsistency(epsilon=epsilon).from_maps(given)
    assert found > 0
    torch.testing.assert_close(found.item(), naive_loss(given, epsilon))


def test_phrases_without_a_token_in_their_caption_are_left_out():
    given = maps([0, 2, 2, 1])
    given.context_tokens[1] = False
    torch.testing.assert_close(TextConceptConsistency().from_maps(given).item(), naive_loss(given, 0.0))
    assert naive_loss(given, 0.0) != naive_loss(maps([0, 2, 2, 1]), 0.0)


@pytest.mark.parametrize("alone", ["empty maps", "no maps"])
def test_without_phrases_it_is_zero_and_can_be_differentiated(alone):
    given = maps([])
    loss = TextConceptConsistency().from_maps(given if alone == "empty maps" else given._replace(isolated=()))
    assert loss.item() == 0.0
    loss.backward()
    assert all((layer.grad == 0).all() for layer in given.context)


def test_without_any_phrase_found_it_is_zero():
    given = maps([0, 1])
    given.context_tokens[:] = False
    loss = TextConceptConsistency().from_maps(given)
    loss.backward()
    assert loss.item() == 0.0 and all((layer.grad == 0).all() for layer in given.context)


def test_equal_attention_costs_nothing():
    given = maps([0, 1])
    same = tuple(layer[:2] for layer in given.context)
    given = given._replace(isolated=same, isolated_tokens=given.context_tokens)
    assert TextConceptConsistency().from_maps(given).item() == 0.0


def test_rounding_errors_between_equal_maps_have_no_gradient():
    given = maps([0, 1])
    nearly = tuple(layer[:2].detach() + 1e-8 * torch.randn(2, HEADS, VISION, TEXT) for layer in given.context)
    given = given._replace(isolated=nearly, isolated_tokens=given.context_tokens)
    loss = TextConceptConsistency().from_maps(given)
    loss.backward()
    assert loss.item() == 0.0 and all((layer.grad == 0).all() for layer in given.context)


def test_spatial_consistency_equals_loops_over_phrases_patches_and_tokens() -> None:
    found, expected = maps([0, 2, 2, 1]), []
    for p in range(4):
        sides = []
        for layers, row, tokens in (
            (found.context, found.owner[p], found.context_tokens[p]),
            (found.isolated, p, found.isolated_tokens[p]),
        ):
            values = [
                [layer[row, head, patch, token].item() for layer in layers for head in range(HEADS)
                 for token in tokens.nonzero().flatten()]
                for patch in range(1, VISION)
            ]  # fmt: skip
            assert len(values[0]) == LAYERS * HEADS * int(tokens.sum())
            sides.append(loop_shares_at_contrast([sum(row) / len(row) for row in values], 1.5))
        expected.append(loop_divergence(*sides))
    loss = SpatialConsistency(contrast=1.5).from_maps(found).item()
    assert loss == pytest.approx(sum(expected) / 4, abs=1e-10)


def test_a_contrast_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0\.01 to 100\.0, got 0 \(model\.concept\.contrast\)$"):
        SpatialConsistency(contrast=0)
