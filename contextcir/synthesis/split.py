"""A split into training and validation without shared images."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from random import Random

import numpy as np


class Components:
    """Groups of images that are joined by pairs, found as pairs come (union-find with path halving)."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, images: Sequence[str]) -> None:
        """Put images into one group, with all that is in theirs."""
        first = self.find(images[0])
        for image in images[1:]:
            other = self.find(image)
            # the lesser name leads, so that a group is called the same whatever the order
            first, other = min(first, other), max(first, other)
            self._parents[other] = first

    def find(self, image: str) -> str:
        """Return the name of an image's group: the least image name in it."""
        parents = self._parents
        parents.setdefault(image, image)
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image


def choose(sizes: dict[str, int], share: float, seed: int) -> set[str]:
    """Return groups whose sizes add up as near to a share of all as any choice can, and never to all of it.

    Drawn by the seed; the same for the same groups. Of two choices that are equally near, the smaller one.

    Args:
        sizes: triplets by name of the group.
        share: from 0 to below 1.
        seed: of the draw.

    Raises:
        ValueError: if the share is not in range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"--write.val_share must be at least 0 and below 1, got {share}")
    total = sum(sizes.values())
    wanted = min(round(share * total), total - 1)
    names = sorted(sizes)
    Random(seed).shuffle(names)
    chosen, left = set(), wanted
    for name in names:  # nearly always exact, as most groups are small
        if sizes[name] <= left:
            chosen.add(name)
            left -= sizes[name]
    return chosen if left == 0 else _nearest(names, sizes, wanted, total)


def _nearest(names: Sequence[str], sizes: dict[str, int], wanted: int, total: int) -> set[str]:
    """Return the best choice, by the sums that can be reached (a knapsack with bundles of groups of equal size)."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_size[sizes[name]].append(name)
    limit = min(2 * wanted, total - 1)  # what is farther off than nothing at all is of no use
    reached = np.zeros(limit + 1, bool)
    reached[0] = True
    made_by = np.full(limit + 1, -1)  # the bundle that reached a sum first: the sum without it was reached before
    bundles: list[list[str]] = []
    for size, members in by_size.items():
        for bundle in _bundles(members):
            weight = size * len(bundle)
            if weight <= limit:
                new = np.flatnonzero(reached[: limit + 1 - weight] & ~reached[weight:]) + weight
                reached[new] = True
                made_by[new] = len(bundles)
            bundles.append(bundle)
    sums = np.flatnonzero(reached)
    best = int(sums[np.argmin(np.abs(sums - wanted))])  # the first, so the smaller, of two
    chosen: set[str] = set()
    while best:
        bundle = bundles[made_by[best]]
        chosen.update(bundle)
        best -= sizes[bundle[0]] * len(bundle)
    return chosen


def _bundles(members: Sequence[str]) -> Iterable[list[str]]:
    """Yield bundles of 1, 2, 4, ... and the rest, of which every number of members can be made."""
    start, count = 0, 1
    while start < len(members):
        yield list(members[start : start + count])
        start, count = start + count, 2 * count
