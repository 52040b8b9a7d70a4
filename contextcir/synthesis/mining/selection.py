"""Which neighbours become pairs: inside a band of similarity, no image too often, determined by the seed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contextcir.checks import between, whole
from contextcir.errors import InputError
from contextcir.synthesis.clip import Floats


@dataclass(frozen=True)
class Band:
    """How similar the two images of a pair are, as cosines of their embeddings, both ends included.

    Args:
        low: Less similar images have too little in common for a modification text.
        high: More similar images do not differ visibly.
    """

    low: float = 0.7
    high: float = 0.95

    def __post_init__(self) -> None:
        between(self.low, -1, 1, "pairs.band.low")
        between(self.high, -1, 1, "pairs.band.high")
        if self.low > self.high:
            raise InputError(f"expected low up to high, got {self.low} and {self.high}", setting="pairs.band")

    def holds(self, similarities: Floats) -> NDArray[np.bool_]:
        """Return which similarities are inside."""
        return (similarities >= np.float32(self.low)) & (similarities <= np.float32(self.high))


@dataclass(frozen=True)
class Uses:
    """How often an image is used at most; members of a group are not counted.

    Args:
        as_reference: Pairs whose reference it is.
        as_target: Pairs whose target it is.
    """

    as_reference: int = 1
    as_target: int = 1

    def __post_init__(self) -> None:
        whole(self.as_reference, 1, "pairs.uses.as_reference")
        whole(self.as_target, 1, "pairs.uses.as_target")


class Preference(ABC):
    """Which of the possible targets of a reference is taken."""

    @abstractmethod
    def choose(self, count: int, random: np.random.Generator) -> int:
        """Return the index of one of ``count`` targets, which are sorted from the most similar on."""


class MostSimilar(Preference):
    """The most similar one inside the band."""

    def choose(self, count: int, random: np.random.Generator) -> int:
        return 0


class AnyInBand(Preference):
    """Any one inside the band: pairs of all degrees of similarity."""

    def choose(self, count: int, random: np.random.Generator) -> int:
        return int(random.integers(count))


class Chosen(NamedTuple):
    """A pair of images, by their positions among the vectors."""

    reference: int
    target: int
    similarity: float


def choose_pairs(
    places: NDArray[np.int32],
    similarities: Floats,
    band: Band,
    uses: Uses,
    preference: Preference,
    seed: int,
) -> Iterator[Chosen]:
    """Yield pairs of an image and one of its neighbours.

    References come in an order drawn by the seed, each once before one comes again, so that the first pairs are a
    sample of all. No pair comes again in reverse.

    Args:
        places: (N, K) positions of the neighbours of each image, the most similar first, -1 where there are fewer.
        similarities: (N, K) to them.
        band: of the similarity.
        uses: how often an image is used.
        preference: which neighbour is taken.
        seed: of the order, and of the preference.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(places))
    targets: list[list[int]] = [[] for _ in range(len(places))]
    used = np.zeros(len(places), np.int32)  # as a target
    for _ in range(uses.as_reference):
        for reference in order.tolist():
            inside = np.flatnonzero(band.holds(similarities[reference]) & (places[reference] >= 0))
            possible = [
                column
                for column, place in zip(inside.tolist(), places[reference][inside].tolist(), strict=True)
                if used[place] < uses.as_target and place not in targets[reference] and reference not in targets[place]
            ]
            if possible:
                column = possible[preference.choose(len(possible), random)]
                target = int(places[reference, column])
                targets[reference].append(target)
                used[target] += 1
                yield Chosen(reference, target, float(similarities[reference, column]))
