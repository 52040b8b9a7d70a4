"""The last stage: the manifest, its data card, and a page of samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from contextcir.checks import between, whole
from contextcir.errors import InputError
from contextcir.files import parse_json, write_text
from contextcir.images import read_header
from contextcir.phrases.parser import PhraseParser
from contextcir.shards.keys import SeenKeys
from contextcir.synthesis.outputs.card import count, write_card
from contextcir.synthesis.outputs.exports import Export
from contextcir.synthesis.outputs.manifest import FOLDER, SPLITS, write_manifest
from contextcir.synthesis.outputs.sheet import EmbeddedImages, LinkedImages, SheetImages, write_sheet
from contextcir.synthesis.photos import FolderPhotos, Photos, photos_of
from contextcir.synthesis.stages import Run, Stage, Tally

SHARE = "write.val_share"


@dataclass(frozen=True)
class WriteSettings:
    """How the manifest is written.

    Args:
        phrases: Finds the noun phrases of the records; null to find them later with `experiments.phrases`.
        val_share: Share of triplets for validation; no image is in both splits.
        samples: Number of texts on the page of samples.
        images: How that page refers to images; null for links, or for small copies where they are no files.
        exports: Formats of other sets that are written to the folder exports as well.
    """

    phrases: PhraseParser | None = None
    val_share: float = 0.1
    samples: int = 60
    images: SheetImages | None = None
    exports: list[Export] = field(default_factory=list)

    def __post_init__(self) -> None:
        if between(self.val_share, 0, 1, "write.val_share") == 1:
            raise InputError("expected a share below 1, so that something is left to train on", setting=SHARE)
        whole(self.samples, 0, "write.samples")


class WriteStage(Stage):
    """Writes ``manifest/``: a file of records for each split, the data card, and the page of samples.

    Args:
        images: the images, or the folder that their paths are below.
        settings: see there; exports are stages of their own (`exports.ExportStage`).
        seed: of the synthesis.
        config: the settings, as plain values; the data card shows those that are public.
        links: let links lead out of the folder of images.
    """

    name: ClassVar[str] = "write"
    sharded: ClassVar[bool] = False

    def __init__(
        self,
        images: Path | Photos,
        settings: WriteSettings,
        seed: int = 0,
        config: Mapping[str, Any] = {},
        links: bool = False,
    ) -> None:
        self.images = photos_of(images, links)
        self.settings = settings
        self.seed = seed
        self.config = config

    def begin(self, run: Run) -> None:
        self.images.begin(run.folder)

    def run(self, run: Run) -> Tally:
        settings, folder = self.settings, run.folder
        written = write_manifest(folder, settings.phrases, settings.val_share, self.seed)
        written.turned = turned(folder, self.images)
        card = folder / FOLDER / "card.md"
        write_text(card, write_card(count(folder), written, self.config))
        files = isinstance(self.images, FolderPhotos)
        show = settings.images or (LinkedImages() if files else EmbeddedImages())
        sheet = write_sheet(folder, self.images, show, settings.samples, self.seed)
        splits = ", ".join(f"{number:,} in {split}" for split, number in written.triplets.items())
        if written.turned:
            splits += f" ({written.turned:,} images have an EXIF orientation, which training ignores: see card.md)"
        total = written.triplets.total()
        return Tally(self.name, total=total, done=total, note=f"{splits}; {folder / FOLDER}/*.jsonl, {card}, {sheet}")


def turned(folder: Path, images: Path | Photos, links: bool = False) -> int:
    """Return how many images of a manifest are stored otherwise than upright, by their EXIF orientation.

    The texts were made for upright images, and training reads them as they are stored. Images that can't be read are
    not counted.
    """
    photos, seen, count = photos_of(images, links), SeenKeys(), 0
    for split in SPLITS:
        path = folder / FOLDER / f"{split}.jsonl"
        if not path.is_file():
            continue
        with path.open(encoding="utf-8") as file:
            for line in file:
                record = parse_json(line, path)
                for image in (record["reference"], record["target"]):
                    if seen.add(image):
                        count += _orientation(photos, image) != 1
    return count


def _orientation(photos: Photos, image: str) -> int:
    try:
        return read_header(photos.image(image)).orientation
    except InputError:
        return 1
