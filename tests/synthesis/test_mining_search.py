"""Neighbours: the exact ones are those of a plain loop, the approximate ones nearly all of them."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.synthesis.mining.encoder import Vectors
from contextcir.synthesis.mining.search import ApproximateSearch, ExactSearch, NeighbourSearch, SearchBySize
from tests.helpers.mining_cases import grouped, save_vectors


def by_loops(vectors: np.ndarray, count: int) -> list[list[int]]:
    found = []
    for one, vector in enumerate(vectors):
        others = [(-float(vector @ other), place) for place, other in enumerate(vectors) if place != one]
        places = [place for _, place in sorted(others)[:count]]
        found.append(places + [-1] * (count - len(places)))
    return found


def all_of(search: NeighbourSearch, vectors: Vectors, count: int) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(search.search(vectors, count, 0))
    assert [block.start for block in blocks] == np.cumsum([0, *(len(block.places) for block in blocks)])[:-1].tolist()
    return np.concatenate([block.places for block in blocks]), np.concatenate([b.similarities for b in blocks])


@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=12),
    count=st.integers(1, 8),
    block=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_exact_neighbours_are_those_of_a_loop_also_among_ties(rows: list[list[int]], count: int, block: int) -> None:
    vectors = np.array(rows, float)
    with tempfile.TemporaryDirectory() as folder:
        places, similarities = all_of(ExactSearch(block), save_vectors(Path(folder) / "v.npy", vectors), count)
    assert places.tolist() == by_loops(vectors, count)
    for one, row in enumerate(places.tolist()):
        for place, similarity in zip(row, similarities[one].tolist(), strict=True):
            assert similarity == (vectors[one] @ vectors[place] if place >= 0 else -np.inf)


def test_some_rows_of_a_file_are_searched_as_if_they_were_all(tmp_path: Path) -> None:
    vectors = grouped(40, 8, 4)
    rows = np.array([1, 2, 5, 11, 30, 39])
    save_vectors(tmp_path / "all.npy", vectors)
    some = all_of(ExactSearch(), Vectors(tmp_path / "all.npy", rows), 3)[0]
    alone = all_of(ExactSearch(), save_vectors(tmp_path / "some.npy", vectors[rows]), 3)[0]
    assert some.tolist() == alone.tolist()


def test_approximate_neighbours_are_nearly_all_of_the_exact_ones_and_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors = save_vectors(tmp_path / "v.npy", grouped(3000, 16, 60))
    search = ApproximateSearch(lists=50, probes=8, threads=1)
    places, similarities = all_of(search, vectors, 10)
    exact, cosines = all_of(ExactSearch(), vectors, 10)
    shared = [len(set(some) & set(all_)) for some, all_ in zip(places.tolist(), exact.tolist(), strict=True)]
    assert np.mean(shared) > 9.5
    assert (np.diff(similarities, axis=1) <= 0).all() and not (places == np.arange(3000)[:, None]).any()
    same = places == exact
    assert np.allclose(similarities[same], cosines[same], atol=1e-5)  # half precision is what the vectors are in
    assert all_of(search, vectors, 10)[0].tolist() == places.tolist()


def test_approximate_search_that_looks_everywhere_is_exact(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors = save_vectors(tmp_path / "v.npy", grouped(200, 16, 9))
    found = all_of(ApproximateSearch(lists=4, probes=4, threads=1), vectors, 5)[0]
    assert found.tolist() == all_of(ExactSearch(), vectors, 5)[0].tolist()


def test_fewer_images_than_neighbours_leave_places_empty(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors = save_vectors(tmp_path / "v.npy", grouped(3, 8, 1))
    for search in (ExactSearch(), ApproximateSearch(threads=1)):
        places, similarities = all_of(search, vectors, 4)
        assert (places[:, 2:] == -1).all() and (places[:, :2] >= 0).all()
        assert np.isneginf(similarities[:, 2:]).all()


def test_the_search_goes_by_the_number_of_images(tmp_path: Path) -> None:
    class Named(ExactSearch, ApproximateSearch):
        def __init__(self, name: str) -> None:
            self.name = name

        def search(self, vectors: Vectors, count: int, seed: int) -> str:  # type: ignore[override]
            return self.name

    search = SearchBySize(10, exact=Named("exact"), approximate=Named("approximate"))
    sizes = {size: search.search(save_vectors(tmp_path / "v.npy", grouped(size, 4, 1)), 1, 0) for size in (10, 11)}
    assert sizes == {10: "exact", 11: "approximate"}


@pytest.mark.parametrize("wrong", [{"lists": 0}, {"probes": 0}, {"sample": 0}, {"threads": 0}])
def test_numbers_out_of_range_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"whole number from 1 on, got 0 \(pairs\.search\.\w+\)"):
        ApproximateSearch(**wrong)
    with pytest.raises(ValueError, match=r"\(pairs\.search\.block\)"):
        ExactSearch(0)
