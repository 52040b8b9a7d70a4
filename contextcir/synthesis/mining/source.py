"""Pairs from a folder of images and nothing else."""

from collections.abc import Iterator
from copy import copy
from pathlib import Path

from contextcir.synthesis.mining.duplicates import DuplicateRule, NearDuplicates
from contextcir.synthesis.mining.encoder import ClipEncoder, ImageEncoder
from contextcir.synthesis.mining.search import NeighbourSearch, SearchBySize
from contextcir.synthesis.mining.selection import Band, MostSimilar, Preference, Uses
from contextcir.synthesis.mining.steps import Mining
from contextcir.synthesis.mining.store import EmbeddingStore, Loading
from contextcir.synthesis.records import Pair


class MinedPairs:
    """Pairs of images that look alike, but not too much, found by their embeddings.

    Images are embedded, duplicates left out (the first by path stays), the nearest neighbours of each image found, and
    of these the pairs chosen whose similarity is inside a band. A pair has a group of images that look like it.

    Args:
        encoder: Makes embeddings; null for open_clip's ViT-B-32 of LAION-2B.
        loading: How images are read.
        duplicates: Which images are the same; null for near-duplicates.
        search: How neighbours are found; null for exactly up to 20,000 images, and approximately beyond.
        neighbours: How many are found for each image.
        band: How similar the images of a pair are.
        uses: How often an image is used.
        preference: Which image of those possible is the target; null for the most similar.
        group: Images in a group, with reference and target; 0 for no groups.
        most: Pairs at most; null for all.
        seed: Draws the order of the references.
        source: What `Pair.source` is to say.
        images: Folder of the images; null for that of the synthesis.
        work: Folder for what is found on the way; null for pairs-work in that of the synthesis. Several syntheses of
            the same images may share one, one after the other: their images are embedded once.

    Raises:
        ValueError: if a number is out of range.
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
        images: Path | None = None,
        work: Path | None = None,
    ) -> None:
        if neighbours < 1 or not 0 <= group <= 6 or (most is not None and most < 1):
            raise ValueError(
                f"neighbours and most must be at least 1, and group from 0 to 6, got {neighbours}, {most} and {group}: "
                "change --pairs.neighbours, --pairs.most or --pairs.group"
            )
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

    def within(self, images: Path, work: Path) -> "MinedPairs":
        """Return the pairs of the images below a folder; settings of its own for these two go before."""
        located = copy(self)
        located.images, located.work = self.images or images, self.work or work
        return located

    def prepare(self, index: int, count: int) -> str:
        """Embed part ``index`` of ``count`` of the images; return a line about it.

        Raises:
            ValueError, FileNotFoundError: as `pairs`.
        """
        left = self._mining().store.embed(index, count)
        done = f"pairs: part {index} of {count} is embedded"
        return (
            f"{done}, {left:,} images are left to other parts"
            if left
            else f"{done}, and so are all: go on without --shard"
        )

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs, the same ones in the same order every time.

        Raises:
            ValueError, FileNotFoundError: if there are no images, none can be read, or the model can't be loaded.
        """
        return self._mining().pairs()

    def _mining(self) -> Mining:
        if self.images is None or self.work is None:
            raise ValueError("mined pairs need a folder of images and one to work in: set images and work")
        images, work = Path(self.images).expanduser(), Path(self.work).expanduser()
        return Mining(self, EmbeddingStore(work, images, self.encoder, self.loading), work)
