"""Pairs from a folder of images and nothing else: `MinedPairs` has the settings, `_Mining` does the steps."""

import json
from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.files import whole_file, write_json
from contextcir.synthesis.clip import Floats
from contextcir.synthesis.mining.duplicates import DuplicateRule, NearDuplicates, SameFile
from contextcir.synthesis.mining.encoder import ClipEncoder, ImageEncoder
from contextcir.synthesis.mining.neighbours import NeighbourTable, find_groups
from contextcir.synthesis.mining.search import NeighbourSearch, SearchBySize
from contextcir.synthesis.mining.selection import Band, MostSimilar, Preference, Uses, choose_pairs
from contextcir.synthesis.mining.store import EmbeddingStore, Loading
from contextcir.synthesis.pairs import ImageSource, pair_key
from contextcir.synthesis.photos import Photos, photos_of
from contextcir.synthesis.records import Pair


class MinedPairs(ImageSource):
    """Pairs of images that look alike, but not too much, found by their embeddings.

    Images are embedded, duplicates are left out (the first by path stays), the nearest neighbours of each image are
    searched, and neighbours whose similarity is inside a band become pairs. Each pair has a group of similar images.

    Args:
        encoder: Computes the embeddings; null for open_clip's ViT-B-32 of LAION-2B.
        loading: How images are read.
        duplicates: Which images are duplicates; null for near-duplicates.
        search: How neighbours are searched; null for exact search up to 20,000 images, approximate beyond.
        neighbours: Number of neighbours of each image.
        band: How similar the images of a pair are.
        uses: How often an image is used.
        preference: Which possible image becomes the target; null for the most similar.
        group: Images in a group, with reference and target; 0 for no groups.
        most: Pairs at most; null for all.
        seed: Draws the order of the references.
        source: Value of `Pair.source`.
        images: Folder of the images, or where else they are; null for those of the synthesis.
        work: Folder for intermediate results; null for pairs-work in that of the synthesis. Several syntheses of the
            same images may share one, one after the other: their images are embedded once.

    Raises:
        InputError: if a number is out of range.
    """

    def __init__(
        self,
        encoder: ImageEncoder | None = None,
        loading: Loading = Loading(),  # noqa: B008  (immutable, as the next two)
        duplicates: DuplicateRule | None = None,
        search: NeighbourSearch | None = None,
        neighbours: int = 50,
        band: Band = Band(),  # noqa: B008
        uses: Uses = Uses(),  # noqa: B008
        preference: Preference | None = None,
        group: int = 6,
        most: int | None = None,
        seed: int = 0,
        source: str = "mined",
        images: Path | Photos | None = None,
        work: Path | None = None,
    ) -> None:
        whole(neighbours, 1, "pairs.neighbours")
        whole(group, 0, "pairs.group", 6)
        if most is not None:
            whole(most, 1, "pairs.most")
        whole(seed, 0, "pairs.seed", 2**63 - 1)
        self.encoder = encoder or ClipEncoder()
        self.loading = loading
        self.duplicates = duplicates or NearDuplicates()
        self.search = search or SearchBySize()
        self.neighbours = neighbours
        self.band = band
        self.uses = uses
        self.preference = preference or MostSimilar()
        self.group = group
        self.most = most
        self.seed = seed
        self.source = source
        self.images = images
        self.work = work
        self.links = False
        self.none_found = (
            f"no pairs: no two images have a similarity from {band.low} to {band.high}; report.json in the folder "
            "pairs-work has the similarities of nearest neighbours: choose band by them"
        )

    def within(self, images: Path | Photos | None, work: Path, links: bool = False) -> "MinedPairs":
        """Return the source for the images below a folder; the settings ``images`` and ``work`` come before these."""
        located = copy(self)
        located.images, located.work, located.links = self.images or images, self.work or work, links
        return located

    def prepare(self, index: int, count: int) -> str:
        """Embed part ``index`` of ``count`` of the images; return a line about it.

        Raises:
            InputError: as `pairs`.
        """
        left = self._mining().store.embed(index, count)
        done = f"part {index} of {count} is embedded"
        if left:
            return f"{done}, {left:,} images are left to other parts"
        return f"{done}, and so are all others: run the stage once more without a shard"

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs, the same ones in the same order every time.

        Raises:
            InputError: if there are no images, none can be read, or the model can't be loaded.
        """
        return self._mining().pairs()

    def _mining(self) -> "_Mining":
        if self.images is None or self.work is None:
            missing = "images" if self.images is None else "pairs.work"
            raise InputError("mined pairs need a folder of images and one for their work, got none", setting=missing)
        images, work = photos_of(self.images, self.links), Path(self.work).expanduser()
        images.begin(work)
        return _Mining(self, EmbeddingStore(work, images, self.encoder, self.loading, self.links), work)


@dataclass
class _Mining:
    """The steps of `MinedPairs` on one folder of images, whose results are kept in ``work``.

    ``unreadable.json`` and ``duplicates.jsonl`` name all images that are left out; ``report.json`` has the counts.
    """

    settings: MinedPairs
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
        """Return the positions of images that are no duplicates; a file lists the others."""
        digests, prints = self.store.array("digests"), self.store.array("prints")
        same = SameFile().originals(digests, prints)
        originals = self.settings.duplicates.originals(digests, prints)
        left_out = np.flatnonzero(originals != np.arange(len(originals)))
        with whole_file(self.work / "duplicates.jsonl") as file:
            for place in left_out.tolist():
                file.write(_line(images, names, place, int(originals[place]), bool(same[place] != place)))
        return np.flatnonzero(originals == np.arange(len(originals)))

    def _report(self, others: dict[str, int], readable: int, similarities: Floats, counts: Counter[str]) -> None:
        """Write the counts, and deciles of the similarity of nearest neighbours, by which a band is chosen."""
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
    """Return plain values by which settings are compared."""
    if hasattr(value, "__dict__"):
        return {"class": type(value).__name__, **{name: _described(each) for name, each in vars(value).items()}}
    return value


def _line(images: list[str], names: NDArray[np.int64], place: int, original: int, same: bool) -> bytes:
    values = {"image": images[names[place]], "of": images[names[original]], "same_file": same}
    return json.dumps(values).encode() + b"\n"
