"""Pairs and groups, against plain loops over all neighbours."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.synthesis.mining.neighbours import BLOCK, find_groups
from contextcir.synthesis.mining.search import ExactSearch
from contextcir.synthesis.mining.selection import AnyInBand, Band, Chosen, MostSimilar, Preference, Uses, choose_pairs
from tests.helpers.mining_cases import grouped, save_vectors

Table = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return neighbours(tmp_path_factory.mktemp("v") / "v.npy")


def neighbours(path: Path, images: int = 60, count: int = 20) -> Table:
    (found,) = ExactSearch(1000).search(save_vectors(path, grouped(images, 8, 4)), count, 0)
    return found.places, found.similarities


def chosen(table: Table, band: Band, uses: Uses, preference: Preference, seed: int) -> list[Chosen]:
    return list(choose_pairs(*table, band, uses, preference, seed))


def may_be(table: Table, band: Band, pair: tuple[int, int]) -> bool:
    row = table[0][pair[0]].tolist()
    return pair[1] in row and band.low <= table[1][pair[0]][row.index(pair[1])] <= band.high


@given(
    low=st.floats(-0.5, 0.9),
    width=st.floats(0, 0.5),
    uses=st.builds(Uses, st.integers(1, 3), st.integers(1, 3)),
    preference=st.sampled_from([MostSimilar(), AnyInBand()]),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_pairs_are_inside_the_band_no_image_is_used_too_often_and_nothing_possible_is_left(
    table: Table, low: float, width: float, uses: Uses, preference: Preference, seed: int
) -> None:
    band = Band(float(np.float32(low)), float(np.float32(min(low + width, 1))))
    pairs = chosen(table, band, uses, preference, seed)
    sides = [(pair.reference, pair.target) for pair in pairs]
    assert all(may_be(table, band, side) for side in sides)
    assert len({frozenset(side) for side in sides}) == len(sides)  # none comes again, or the other way round
    references, targets = Counter(side[0] for side in sides), Counter(side[1] for side in sides)
    assert max(references.values(), default=0) <= uses.as_reference
    assert max(targets.values(), default=0) <= uses.as_target
    known = {frozenset(side) for side in sides}
    for reference, row in enumerate(table[0].tolist()):
        for target in row:
            free = references[reference] < uses.as_reference and targets[target] < uses.as_target
            if free and target >= 0 and frozenset((reference, target)) not in known:
                assert not may_be(table, band, (reference, target))


def test_the_most_similar_one_that_is_free_is_taken_in_the_order_of_the_seed(table: Table) -> None:
    band, uses = Band(0.3, 0.9), Uses(2, 2)
    expected: list[tuple[int, int]] = []
    order = np.random.default_rng(4).permutation(len(table[0])).tolist()
    for _ in range(2):
        for reference in order:
            for target, similarity in zip(table[0][reference].tolist(), table[1][reference].tolist(), strict=True):
                taken = sum(pair[1] == target for pair in expected)
                known = (reference, target) in expected or (target, reference) in expected
                if 0.3 <= similarity <= np.float32(0.9) and taken < 2 and not known:
                    expected.append((reference, target))
                    break
    assert [pair[:2] for pair in chosen(table, band, uses, MostSimilar(), 4)] == expected


def test_the_same_seed_gives_the_same_pairs_and_another_one_others(table: Table) -> None:
    for preference in (MostSimilar(), AnyInBand()):
        first = chosen(table, Band(0.2, 1), Uses(), preference, 0)
        assert first == chosen(table, Band(0.2, 1), Uses(), preference, 0)
        assert first != chosen(table, Band(0.2, 1), Uses(), preference, 1)


def test_all_references_come_once_before_one_comes_again(table: Table) -> None:
    references = [pair.reference for pair in chosen(table, Band(-1, 1), Uses(2, 60), MostSimilar(), 0)]
    assert sorted(references[:60]) == list(range(60))


@pytest.mark.parametrize("size", [0, 3, 6])
def test_groups_are_those_of_a_loop(size: int, tmp_path: Path) -> None:
    table = neighbours(tmp_path / "v.npy", 600, 60)
    vectors, band = save_vectors(tmp_path / "v.npy", grouped(600, 8, 4)), Band(0.3, 0.85)
    rows = vectors.take(np.arange(600))
    pairs = chosen(table, band, Uses(3, 3), MostSimilar(), 0)
    found = list(find_groups(pairs, *table, vectors, band, size))
    assert [pair for pair, _ in found] == pairs and len(pairs) > BLOCK
    for pair, group in found:
        expected = [pair.reference, pair.target] if size else []
        for place, similarity in zip(table[0][pair.reference], table[1][pair.reference], strict=True):
            apart = all(rows[place] @ rows[other] <= band.high for other in expected[1:])
            if len(expected) < size and band.low <= similarity <= band.high and place != pair.target and apart:
                expected.append(int(place))
        assert list(group) == expected
    if size:
        assert {len(group) for _, group in found} >= {size}


@pytest.mark.parametrize("wrong", [(0.9, 0.7), (-2, 0), (0, 1.5), (float("nan"), 1)])
def test_a_band_out_of_range_is_told(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"expected .*, got .* \(pairs\.band[.\w]*\)"):
        Band(*wrong)
    with pytest.raises(ValueError, match=r"\(pairs\.uses\.as_reference\)"):
        Uses(0, 1)
