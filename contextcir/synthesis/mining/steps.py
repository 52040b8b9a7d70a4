"""The work of `MinedPairs`: from the images of a folder to pairs, step by step, each kept on the disk."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contextcir.synthesis.mining.duplicates import SameFile
from contextcir.synthesis.mining.groups import find_groups
from contextcir.synthesis.mining.neighbours import NeighbourTable
from contextcir.synthesis.mining.selection import choose_pairs
from contextcir.synthesis.mining.store import EmbeddingStore
from contextcir.synthesis.mining.vectors import Floats
from contextcir.synthesis.mining.whole_files import whole_file, write_json
from contextcir.synthesis.pair_files import pair_key
from contextcir.synthesis.records import Pair

if TYPE_CHECKING:
    from contextcir.synthesis.mining.source import MinedPairs


@dataclass
class Mining:
    """`MinedPairs` at work on a folder of images.

    ``unreadable.json`` and ``duplicates.jsonl`` in ``work`` name all images that are left out, ``report.json`` counts.
    """

    settings: "MinedPairs"
    store: EmbeddingStore
    work: Path

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs."""
        self.store.embed()
        self.store.assemble()
        listing = self.store.listing()
        table = NeighbourTable(self.work, self.store.vectors)
        settings = self.settings
        names = self.store.array("places")
        about = {name: _described(getattr(settings, name)) for name in ("duplicates", "search", "neighbours", "seed")}
        kept = table.make(about, lambda: self._distinct(listing.images, names), settings.search, settings.neighbours)
        vectors, (places, similarities) = table.vectors(kept), table.read()
        chosen = choose_pairs(places, similarities, settings.band, settings.uses, settings.preference, settings.seed)
        counts: Counter[str] = Counter()
        paths = [listing.images[place] for place in names[kept].tolist()]
        groups = find_groups(
            islice(chosen, settings.most), places, similarities, vectors, settings.band, settings.group
        )
        for pair, group in groups:
            counts["pairs"] += 1
            counts["pairs with a smaller group"] += 0 < len(group) < settings.group
            reference, target = paths[pair.reference], paths[pair.target]
            members = tuple(paths[place] for place in group)
            similarity = round(pair.similarity, 6)
            yield Pair(pair_key(reference, target), reference, target, members, similarity, settings.source)
        self._report(listing.others, len(names), similarities, counts)

    def _distinct(self, images: list[str], names: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which images are no duplicates; the others go to a file."""
        digests, prints = self.store.array("digests"), self.store.array("prints")
        same = SameFile().originals(digests, prints)
        originals = self.settings.duplicates.originals(digests, prints)
        left_out = np.flatnonzero(originals != np.arange(len(originals)))
        with whole_file(self.work / "duplicates.jsonl") as file:
            for place in left_out.tolist():
                file.write(_line(images, names, place, int(originals[place]), bool(same[place] != place)))
        return np.flatnonzero(originals == np.arange(len(originals)))

    def _report(self, others: dict[str, int], readable: int, similarities: Floats, counts: Counter[str]) -> None:
        """Count, with how similar the nearest neighbours are: by that a band is chosen."""
        inside = [self.settings.band.holds(block).any(axis=1) for block in np.array_split(similarities, 64)]
        nearest = similarities[:, 0][np.isfinite(similarities[:, 0])]
        tenths = np.quantile(nearest, np.arange(0.1, 1, 0.1)).round(4).tolist() if len(nearest) else []
        report: dict[str, Any] = {
            "files that are no images": others,
            "unreadable": self.store.unreadable(),
            "readable": readable,
            "duplicates": readable - len(similarities),
            "searched": len(similarities),
            "without a neighbour inside the band": len(similarities) - int(np.concatenate(inside).sum()),
            "similarity of the nearest neighbour, tenths": tenths,
            **counts,
        }
        write_json(self.work / "report.json", report)


def _described(value: Any) -> Any:
    """Return plain values that tell settings apart."""
    if hasattr(value, "__dict__"):
        return {"class": type(value).__name__, **{name: _described(each) for name, each in vars(value).items()}}
    return value


def _line(images: list[str], names: NDArray[np.int64], place: int, original: int, same: bool) -> bytes:
    values = {"image": images[names[place]], "of": images[names[original]], "same_file": same}
    return json.dumps(values).encode() + b"\n"
