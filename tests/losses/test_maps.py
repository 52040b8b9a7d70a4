"""Attention maps of phrases, as shares of the patches, and their divergence: against loops, limits, invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.losses.maps import (
    ends_of,
    jensen_shannon,
    log_deviations,
    lost_contrast,
    peakedness,
    phrase_maps,
    shares,
    shares_at_contrast,
    without_gradient_to_ends,
)

MAP = st.lists(st.floats(0.01, 1.0), min_size=5, max_size=5)


def loop_shares(row: list[float]) -> list[float]:
    return [x / sum(row) for x in row]


def loop_shares_at_contrast(row: list[float], contrast: float) -> list[float]:
    logarithm = [math.log(x) for x in row]
    mean = sum(logarithm) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logarithm) / len(row) + 1e-4)
    return loop_shares([math.exp(contrast * (x - mean) / deviation) for x in logarithm])


def loop_divergence(first: list[float], second: list[float]) -> float:
    mean = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    halves = [sum(x * math.log2(x / m) for x, m in zip(side, mean, strict=True) if x) for side in (first, second)]
    return sum(halves) / 2


@settings(deadline=None, max_examples=50)
@given(MAP, MAP, st.floats(0.3, 3.0))
def test_shares_and_divergences_equal_loops(first: list[float], second: list[float], contrast: float) -> None:
    rows = torch.tensor([first, second], dtype=torch.double)
    torch.testing.assert_close(shares(rows).tolist(), [loop_shares(first), loop_shares(second)])
    expected = [loop_shares_at_contrast(first, contrast), loop_shares_at_contrast(second, contrast)]
    torch.testing.assert_close(shares_at_contrast(rows, contrast).tolist(), expected)
    left, right = (torch.tensor([row], dtype=torch.double) for row in expected)
    divergence = jensen_shannon(left, right).item()
    assert divergence == pytest.approx(loop_divergence(*expected), abs=1e-9) and -1e-9 < divergence < 1 + 1e-9
    entropy = -sum(x * math.log(x) for x in expected[0])
    assert peakedness(left).item() == pytest.approx(1 - entropy / math.log(5), abs=1e-9)


def test_divergence_and_peakedness_know_their_limits() -> None:
    ends = torch.eye(4)
    assert jensen_shannon(ends[:1], ends[1:2]).item() == pytest.approx(1.0)
    assert jensen_shannon(ends, ends).abs().max() < 1e-6
    assert peakedness(ends).tolist() == [1.0] * 4 and peakedness(torch.full((1, 4), 0.25)).abs().item() < 1e-6


@settings(deadline=None, max_examples=30)
@given(MAP, st.floats(0.01, 1.0), st.floats(0.5, 2.0))
def test_a_factor_and_a_power_change_no_shares_at_contrast(row: list[float], factor: float, power: float) -> None:
    row = [0.01, *row]  # a map with some structure: at least its smallest value differs
    maps = torch.tensor([row], dtype=torch.double) + torch.tensor([0.0, 0, 0, 0, 0, 0.5])
    torch.testing.assert_close(
        shares_at_contrast(factor * maps**power, 1.0), shares_at_contrast(maps, 1.0), atol=2e-3, rtol=0
    )


@settings(deadline=None, max_examples=30)
@given(MAP, st.floats(0.02, 2.0))
def test_contrast_that_a_map_lacks_equals_loops_and_peaked_maps_lack_none(row: list[float], wanted: float) -> None:
    logarithm = [math.log(x) for x in row]
    mean = sum(logarithm) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logarithm) / len(row) + 1e-4)
    maps = torch.tensor([row], dtype=torch.double)
    assert log_deviations(maps)[1].item() == pytest.approx(deviation)
    lacking = max(0.0, 1 - deviation / wanted) ** 2
    assert lost_contrast(maps, torch.tensor([[wanted]])).item() == pytest.approx(lacking, abs=1e-6)


def test_flattening_a_map_costs_contrast() -> None:
    maps = torch.rand(3, 6, dtype=torch.double) + 0.1
    wanted = log_deviations(maps)[1]
    costs = [lost_contrast(maps**power, wanted) for power in (1.5, 1.0, 0.5, 0.1)]
    assert costs[0].abs().max() == costs[1].abs().max() == 0
    assert (costs[2] > 0.2).all() and (costs[3] > costs[2]).all()


def test_a_map_without_structure_has_equal_shares_and_a_finite_gradient() -> None:
    for level in (0.0, 1e-9, 0.1):
        flat = torch.full((1, 5), level, requires_grad=True)
        found = shares_at_contrast(flat, 1.0)
        jensen_shannon(found, torch.eye(5)[:1]).sum().backward()
        torch.testing.assert_close(found, torch.full((1, 5), 0.2))
        assert flat.grad.isfinite().all()


def test_ends_are_the_first_and_the_last_of_the_valid_tokens() -> None:
    valid = torch.arange(5) < torch.tensor([[5], [3], [2]])
    assert ends_of(valid).int().tolist() == [[1, 0, 0, 0, 1], [1, 0, 1, 0, 0], [1, 1, 0, 0, 0]]


def test_without_gradient_to_ends_the_values_are_the_same_but_the_ends_have_no_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 4, 6, dtype=torch.double, requires_grad=True)
    valid = torch.arange(6) < torch.tensor([[6], [4], [2]])  # the last caption has no words
    attention = logits.masked_fill(~valid[:, None, None], float("-inf")).softmax(dim=-1)
    (found,) = without_gradient_to_ends((attention,), ends_of(valid))
    words = valid & ~ends_of(valid)
    torch.testing.assert_close(found.movedim(-1, 1)[words], attention.movedim(-1, 1)[words])
    weights = torch.randn(3, 2, 4, 6, dtype=torch.double) * words[:, None, None]
    (found * weights).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad.movedim(-1, 1)[ends_of(valid)].abs() < 1e-12).all()
    assert (logits.grad.movedim(-1, 1)[words].abs() > 1e-6).all()


def test_a_phrase_map_is_a_mean_over_its_tokens() -> None:
    layer = torch.zeros(1, 1, 3, 4)
    layer[0, 0, 1] = torch.tensor([0.1, 0.2, 0.4, 0.3])
    found = phrase_maps((layer,), torch.tensor([0]), torch.tensor([[False, True, True, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.0]]))
