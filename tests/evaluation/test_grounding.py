"""Grounding on attention that is known: patches in boxes, the pointing game, mass inside, phrases counted once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.evaluation.grounding import (
    AttentionInside,
    PointingGame,
    attention_inside,
    covered_patches,
    touched_patches,
)
from tests.helpers.distributed import run_ranks
from tests.helpers.toy_evaluation import GRID, NAN


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 24), min_size=4, max_size=4), st.integers(1, 5), st.integers(1, 5))
def test_a_patch_is_touched_if_its_centre_is_within_half_a_patch_of_the_box(
    corners: list[int], rows: int, columns: int
) -> None:
    x0, x1, y0, y1 = (value / 24 for value in (*sorted(corners[:2]), *sorted(corners[2:])))
    expected = [
        x0 - 0.5 / columns < (column + 0.5) / columns - 1e-9
        and (column + 0.5) / columns + 1e-9 < x1 + 0.5 / columns
        and y0 - 0.5 / rows < (row + 0.5) / rows - 1e-9
        and (row + 0.5) / rows + 1e-9 < y1 + 0.5 / rows
        and x0 < x1
        and y0 < y1
        for row in range(rows)
        for column in range(columns)
    ]
    assert touched_patches(torch.tensor([[x0, y0, x1, y1]]), (rows, columns)).tolist() == [expected]


def play(game: PointingGame, query: int, peak: int, box: list[float]) -> None:
    maps = torch.zeros(1, GRID[0] * GRID[1])
    maps[0, peak] = 1.0
    game.update(torch.tensor([query]), torch.tensor([0]), maps, torch.tensor([box]))


def test_repeated_queries_count_once_and_unusable_phrases_not_at_all() -> None:
    game = PointingGame(5, GRID)
    for _ in range(3):
        play(game, 2, 0, [0.0, 0.0, 0.25, 0.25])
    play(game, 0, 1, [0.0, 0.0, 0.25, 0.25])
    play(game, 1, 0, [NAN] * 4)
    play(game, 4, 0, [1.0, 1.0, 1.2, 1.2])
    no_token = torch.full((1, 16), NAN)
    game.update(torch.tensor([3]), torch.tensor([0]), no_token, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    figures = {name: value.item() for name, value in game.compute().items()}
    assert figures == pytest.approx({"pointing_game": 50.0, "pointing_game_chance": 100 / 16})


def test_a_game_without_phrases_has_no_score() -> None:
    game = PointingGame(3, GRID)
    game.update(torch.tensor([0]), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 16), torch.zeros(0, 4))
    assert game.compute() == {}


def play_on_rank(rank: int) -> dict[str, float]:
    game = PointingGame(4, GRID)
    plays = [[(0, 0), (1, 5), (2, 9)], [(3, 9), (0, 0)]][rank]  # query 0 is seen by both ranks
    for query, peak in plays:
        play(game, query, peak, [0.0, 0.0, 0.5, 0.5])
    return {name: value.item() for name, value in game.compute().items()}


def test_two_ranks_count_a_query_that_both_saw_once() -> None:
    assert run_ranks(play_on_rank, 2) == [{"pointing_game": 50.0, "pointing_game_chance": 25.0}] * 2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 24), min_size=4, max_size=4), st.integers(1, 5), st.integers(1, 5))
def test_the_covered_share_of_a_patch_is_that_of_points_spread_over_it(
    corners: list[int], rows: int, columns: int
) -> None:
    x0, x1, y0, y1 = (value / 24 for value in (*sorted(corners[:2]), *sorted(corners[2:])))
    fine = 48  # points along a side of a patch
    expected = [
        sum(x0 <= (column + (i + 0.5) / fine) / columns < x1 for i in range(fine))
        * sum(y0 <= (row + (i + 0.5) / fine) / rows < y1 for i in range(fine))
        / fine**2
        for row in range(rows)
        for column in range(columns)
    ]
    found = covered_patches(torch.tensor([[x0, y0, x1, y1]]), (rows, columns))
    assert found[0].tolist() == pytest.approx(expected, abs=2.5 / fine)


def test_mass_inside_is_that_of_the_part_of_each_patch_in_the_box() -> None:
    maps = torch.zeros(4, 16)
    maps[0, 5], maps[0, 10] = 3.0, 1.0  # the box holds all of patch 5 and a quarter of patch 10
    maps[1] = 0.7
    maps[2, 15] = 1.0
    boxes = torch.tensor([[0.25, 0.25, 0.625, 0.625]] * 3 + [[NAN] * 4])
    found = attention_inside(maps, boxes, GRID)
    assert found[:3].tolist() == pytest.approx([3.25 / 4, 0.375**2, 0.0]) and found[3].isnan()


def test_mass_inside_is_averaged_over_the_phrases_of_known_place_once() -> None:
    metric = AttentionInside(4, GRID)
    peaked, flat, empty = torch.zeros(16), torch.full((16,), 0.2), torch.zeros(16)
    peaked[0] = 2.0
    maps, owner = torch.stack([peaked, flat, flat, empty]), torch.tensor([0, 0, 1, 1])
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5], [NAN] * 4, [0.0, 0.0, 1.0, 1.0]])
    for _ in range(2):
        metric.update(torch.tensor([3, 1]), owner, maps, boxes)
    figures = {name: value.item() for name, value in metric.compute().items()}
    assert figures == pytest.approx({"attention_inside": 62.5, "attention_inside_chance": 25.0})
