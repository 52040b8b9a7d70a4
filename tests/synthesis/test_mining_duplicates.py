"""Duplicates: found as by comparing each image with each, among hashes and among real image files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from contextcir.synthesis.mining.duplicates import NearDuplicates, SameFile
from contextcir.synthesis.mining.images import perceptual_hash

DIGESTS = np.zeros((0, 16), np.uint8)


def by_loops(prints: list[int], bits: int) -> list[int]:
    """For each, the first one that is kept and within so many bits of it, or itself."""
    kept: list[int] = []
    originals = []
    for place, one in enumerate(prints):
        near = [other for other in kept if bin(prints[other] ^ one).count("1") <= bits]
        originals.append(near[0] if near else place)
        if not near:
            kept.append(place)
    return originals


def packed(prints: list[int]) -> np.ndarray:
    return np.array([list(one.to_bytes(8, "big")) for one in prints], np.uint8)


flips = st.lists(st.integers(0, 63), max_size=7)


@given(
    centres=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3),
    changes=st.lists(st.tuples(st.integers(0, 2), flips), min_size=1, max_size=25),
    bits=st.sampled_from([0, 1, 2, 4, 7, 15]),
)
@settings(max_examples=150, deadline=None)
def test_near_duplicates_are_those_of_a_loop(
    centres: list[int], changes: list[tuple[int, list[int]]], bits: int
) -> None:
    pytest.importorskip("faiss")
    prints = [centres[number % len(centres)] ^ sum(1 << bit for bit in set(bits_)) for number, bits_ in changes]
    assert NearDuplicates(bits).originals(DIGESTS, packed(prints)).tolist() == by_loops(prints, bits)


def test_near_duplicates_of_more_hashes_than_a_block() -> None:
    pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    prints = random.integers(0, 256, (20_000, 8), dtype=np.uint8)
    prints[15_000:15_050] = prints[:50] ^ np.array([1, 0, 0, 2, 0, 0, 0, 64], np.uint8)
    originals = NearDuplicates(4).originals(DIGESTS, prints)
    assert originals[15_000:15_050].tolist() == list(range(50))
    assert (originals[:15_000] == np.arange(15_000)).all()


def test_many_equal_hashes_take_no_longer_than_one() -> None:
    pytest.importorskip("faiss")
    prints = np.zeros((200_000, 8), np.uint8)  # blank pages: pairs of them would be 20 billion
    assert not NearDuplicates(4).originals(DIGESTS, prints).any()


def test_same_files_are_those_with_the_same_digest() -> None:
    digests = np.array([[1] * 16, [2] * 16, [1] * 16, [3] * 16, [2] * 16], np.uint8)
    assert SameFile().originals(digests, np.zeros((5, 8), np.uint8)).tolist() == [0, 1, 0, 3, 1]


def test_another_size_and_a_little_blur_keep_the_perceptual_hash_but_another_image_does_not() -> None:
    pytest.importorskip("imagehash")
    random = np.random.default_rng(1)
    one, other = (
        Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((240, 180), Image.Resampling.BICUBIC)
        for _ in range(2)
    )

    def distance(first: Image.Image, second: Image.Image) -> int:
        numbers = [int.from_bytes(perceptual_hash(image), "big") for image in (first, second)]
        return bin(numbers[0] ^ numbers[1]).count("1")

    assert distance(one, one.resize((120, 90))) <= 4
    assert distance(one, one.filter(ImageFilter.GaussianBlur(2))) <= 4
    assert distance(one, other) > 15


@pytest.mark.parametrize("bits", [-1, 16])
def test_a_distance_out_of_range_is_told(bits: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 15, got -?\d+ \(pairs\.duplicates\.bits\)"):
        NearDuplicates(bits)
