"""Near-duplicates are shown as copies of the best one, others are not."""

from collections.abc import Iterable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from contextcir.search.folding import LEAST_COSINE, MOST_BITS, fold
from contextcir.search.index import Hit, Photo


def photo(path: str, look: int) -> Photo:
    return Photo(path, 1, 1, path, look, None, "JPEG", 1, 1, b"")


def same(paths: Iterable[str]) -> dict[str, Tensor]:
    """All embeddings are alike: the hashes decide."""
    return {path: torch.tensor([1.0, 0.0]) for path in paths}


def hits(*looks: int) -> list[Hit]:
    return [Hit(photo(f"{rank}", look), 1 - rank / 100) for rank, look in enumerate(looks)]


def test_copies_follow_the_best_of_them() -> None:
    far = 0xFFFF
    found = fold(hits(0, far, 0b1, 0b1111, far ^ 1, 0b11111), 10, same)
    assert [(result.rank, result.photo.path) for result in found] == [(1, "0"), (2, "1"), (3, "5")]
    assert [[copy.path for copy in result.copies] for result in found] == [["2", "3"], ["4"], []]
    assert found[0].score == 1.0 and MOST_BITS == 4


def test_what_looks_alike_to_the_hash_alone_is_no_copy() -> None:
    angle = torch.acos(torch.tensor(LEAST_COSINE))
    for factor, folded in ((0.99, True), (1.01, False)):
        other = torch.stack([torch.cos(factor * angle), torch.sin(factor * angle)])
        found = fold(hits(0, 0), 10, lambda paths, other=other: {"0": torch.tensor([1.0, 0.0]), "1": other})
        assert len(found) == (1 if folded else 2)


def test_copies_of_results_are_shown_after_the_last_result() -> None:
    far, further = 0xFFFF, 0xFFFF0000
    found = fold(hits(0, far, further, 0b1), 2, same)
    assert [result.photo.path for result in found] == ["0", "1"]
    assert [copy.path for copy in found[0].copies] == ["3"]


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 7), max_size=30), st.integers(1, 8))
def test_every_photo_is_once_at_most_and_results_differ(looks: list[int], count: int) -> None:
    given_hits = hits(*looks)
    found = fold(given_hits, count, same)
    shown = [photo.path for result in found for photo in (result.photo, *result.copies)]
    assert len(shown) == len(set(shown)) and len(found) <= count
    assert [result.score for result in found] == sorted((result.score for result in found), reverse=True)
    for result in found:
        for other in found:
            assert result is other or (result.photo.look ^ other.photo.look).bit_count() > 4
        assert all((copy.look ^ result.photo.look).bit_count() <= 4 for copy in result.copies)
    if len(found) < count:
        assert len(shown) == len(looks)
