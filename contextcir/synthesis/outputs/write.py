"""The last stage: the manifest, its data card, and a page of samples."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from contextcir.files import write_text
from contextcir.phrases.parser import PhraseParser
from contextcir.synthesis.outputs.card import count, write_card
from contextcir.synthesis.outputs.exports import Export
from contextcir.synthesis.outputs.manifest import FOLDER, write_manifest
from contextcir.synthesis.outputs.sheet import LinkedImages, SheetImages, write_sheet
from contextcir.synthesis.stages import Run, Stage, Tally


@dataclass(frozen=True)
class WriteSettings:
    """How the manifest is written.

    Args:
        phrases: Finds the noun phrases of the records; null to find them later with `experiments.phrases`.
        val_share: Share of triplets for validation; no image is in both splits.
        samples: Number of texts on the page of samples.
        images: How that page refers to images; null for links.
        exports: Formats of other sets that are written to the folder exports as well.
    """

    phrases: PhraseParser | None = None
    val_share: float = 0.1
    samples: int = 60
    images: SheetImages | None = None
    exports: list[Export] = field(default_factory=list)


class WriteStage(Stage):
    """Writes ``manifest/``: a file of records for each split, the data card, and the page of samples.

    Args:
        images: folder that image paths are below.
        settings: see there; exports are stages of their own (`exports.ExportStage`).
        seed: of the synthesis.
        config: all settings as YAML, for the data card.
    """

    name: ClassVar[str] = "write"
    sharded: ClassVar[bool] = False

    def __init__(self, images: Path, settings: WriteSettings, seed: int = 0, config: str = "") -> None:
        self.images = images
        self.settings = settings
        self.seed = seed
        self.config = config

    def run(self, run: Run) -> Tally:
        settings, folder = self.settings, run.folder
        written = write_manifest(folder, settings.phrases, settings.val_share, self.seed)
        card = folder / FOLDER / "card.md"
        write_text(card, write_card(count(folder), written, self.config))
        sheet = write_sheet(folder, self.images, settings.images or LinkedImages(), settings.samples, self.seed)
        splits = ", ".join(f"{number:,} in {split}" for split, number in written.triplets.items())
        total = written.triplets.total()
        return Tally(self.name, total=total, done=total, note=f"{splits}; {folder / FOLDER}/*.jsonl, {card}, {sheet}")
