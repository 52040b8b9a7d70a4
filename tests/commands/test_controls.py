"""Controls of studies: as the loss they stand for, but with the map of a wrong phrase."""

import torch

from contextcir.losses.text_cc import SpatialConsistency
from experiments.study.controls import MismatchedConsistency
from tests.helpers.concept_cases import equal_maps, gradient, maps


def test_the_mismatched_loss_compares_with_the_map_of_another_phrase() -> None:
    given = maps([0, 2, 2, 1])
    found = MismatchedConsistency().from_maps(given)
    others = given._replace(alone=torch.tensor([2, 3, 0, 1]))
    torch.testing.assert_close(found, SpatialConsistency().from_maps(others), rtol=0, atol=0)
    assert found != SpatialConsistency().from_maps(given)


def test_phrases_that_look_alike_both_times_still_cost_something() -> None:
    given = equal_maps([0, 2, 1, 0])
    assert SpatialConsistency().from_maps(given) < 1e-12 < 1e-3 < MismatchedConsistency().from_maps(given)
    assert gradient(MismatchedConsistency().from_maps(given), given).abs().max() > 0


def test_without_phrases_it_is_zero() -> None:
    assert MismatchedConsistency().from_maps(maps([])).item() == 0.0
