"""The published loss: its value by loops, and where its gradient goes."""

import pytest
import torch

from contextcir.losses.maps import ConceptMaps, phrase_maps
from contextcir.losses.text_cc import TextConceptConsistency
from tests.helpers.concept_cases import HEADS, TEXT, VISION, maps


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


def test_only_the_context_side_gets_a_gradient_and_only_for_patches():
    given = maps([0, 2])
    TextConceptConsistency().from_maps(given).backward()
    assert all(layer.grad is None for layer in given.isolated)
    for layer in given.context:
        assert (
            (layer.grad[[0, 2], :, 1:] != 0).any() and (layer.grad[:, :, 0] == 0).all() and (layer.grad[1] == 0).all()
        )


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


def test_the_weight_is_left_to_the_caller():
    given = maps([0, 1])
    assert TextConceptConsistency(weight=0.08).weight == 0.08
    assert torch.equal(
        TextConceptConsistency(weight=0.08).from_maps(given), TextConceptConsistency(weight=3.0).from_maps(given)
    )


def test_a_phrase_map_is_a_mean_over_its_tokens():
    layer = torch.zeros(1, 1, 3, 4)
    layer[0, 0, 1] = torch.tensor([0.1, 0.2, 0.4, 0.3])
    found = phrase_maps((layer,), torch.tensor([0]), torch.tensor([[False, True, True, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.0]]))
