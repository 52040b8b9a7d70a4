"""The toy data of `toy_evaluation` with pictures and records, as data modules give them to callbacks."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from contextcir.evaluation.protocol import Protocol
from data_modules.loading.images import ImagePlace
from data_modules.records import PhraseRecord, QueryRecord
from tests.helpers.make_data import colour_of
from tests.helpers.toy_evaluation import GALLERY, PHRASES, QUERIES, ToyData, caption, make_protocol, reference


class PicturedData(ToyData):
    """Images are files of one colour each in ``root``; what callbacks ask for is written down in ``shown``.

    Args:
        root: folder for the images.
        several: whether every query has a second right answer, five images further on.
        words: put before each caption.
    """

    def __init__(self, root: Path, several: bool = False, words: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.root, self.several, self.words = root, several, words
        self.shown: list[tuple[str, int]] = []
        root.mkdir(parents=True, exist_ok=True)
        for index in range(GALLERY):
            Image.new("RGB", (30, 20), colour_of(f"image-{index}")).save(root / f"image-{index}.png")

    def protocols(self, stage: str) -> list[Protocol]:
        protocols = super().protocols(stage)
        if not self.several:
            return protocols
        return [replace(protocol, targets=several_targets(), graded_targets=None) for protocol in protocols]

    def gallery_image(self, stage: str, protocol_index: int, index: int) -> Image.Image:
        self.shown.append((stage, index))
        return Image.new("RGB", (30, 20), colour_of(f"image-{index}"))

    def reference_image(self, stage: str, protocol_index: int, index: int) -> Image.Image:
        return Image.new("RGB", (30, 20), colour_of(f"image-{reference(index)}"))

    def query_records(self, stage: str, protocol_index: int) -> Sequence[QueryRecord]:
        records = []
        for index in range(QUERIES):
            text = self.words + caption(index, self.phrases)
            spans = [(text.index(words), text.index(words) + len(words)) for words in PHRASES if words in text]
            phrases = tuple(PhraseRecord(start, end) for start, end in spans)
            records.append(QueryRecord(f"image-{reference(index)}", text, phrases, id=100 + index))
        return records

    def image_places(self, stage: str, protocol_index: int, names: Iterable[str]) -> dict[str, ImagePlace]:
        return {name: ImagePlace(self.root / f"{name}.png") for name in names}


def several_targets() -> tuple[tuple[int, ...], ...]:
    """Two right answers of each query, none of which is its reference."""
    rows = make_protocol("val").targets
    return tuple((first, (first + 4) % GALLERY) for (first,) in rows)
