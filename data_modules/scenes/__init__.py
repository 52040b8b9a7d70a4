"""Scenes: the embedded benchmark. Drawn when asked, then read like CIRR and CIRCO from ordinary files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from contextcir.files import read_json
from data_modules.circo import CIRCOReader, RelativeCaption
from data_modules.cirr import CIRRReader
from data_modules.reading.annotations import AnnotationFile, Record
from data_modules.reading.reader import Counts
from data_modules.records import Evaluation

STATE = "scenes.json"  # what was drawn
SHARED = "circo_"  # splits whose queries have several right answers, and CIRCO's file format


class Roles(Record):
    """The roles of the images in a query's set, by name: ``swapped``, ``wrong object`` and others."""

    pairid: int
    roles: dict[str, str] | None = None


class ScenesReader(CIRRReader):
    """Procedural images of shapes with composed edits (CIRR's format), and queries with several answers (CIRCO's).

    Splits: train; val and test; test_unseen, whose queries make colour and shape meet that never do in training;
    circo_val and circo_test, where additions leave attributes unsaid, so that several images are right.
    """

    benchmark = "scenes"
    expected: ClassVar[Counts] = {
        split: {} for split in ("train", "val", "test", "test_unseen", "circo_val", "circo_test")
    }

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._shared = CIRCOReader(self.root / "circo", query_text=RelativeCaption())

    def image_folders(self) -> list[Path]:
        """Return the image folders of both formats; their file names differ."""
        return super().image_folders() + self._shared.image_folders()

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split of either format."""
        if not split.startswith(SHARED):
            return super().read_evaluation(split)
        self._shared.report = self.report
        evaluation = self._shared.read_evaluation(split.removeprefix(SHARED))
        return evaluation._replace(protocol=replace(evaluation.protocol, benchmark=self.benchmark, split=split))

    def read_roles(self, split: str) -> dict[int, dict[str, str]]:
        """Return, by query id, why each image is in the query's set; {} for splits that do not say so.

        Raises:
            InputError: if a role is not a string.
        """
        if split.startswith(SHARED):
            return {}
        file = AnnotationFile(self.find_file("captions", "cap", split), Roles, "pairid", report=self.report)
        return {record.pairid: record.roles for _, record in file.items() if record.roles}

    def expected_counts(self) -> Counts:
        """Return the numbers that follow from the size that was drawn."""
        try:
            size = read_json(self.root / STATE)
            references, shared = int(size["references"]), int(size["shared_references"])
        except (OSError, ValueError, KeyError, TypeError):
            return self.expected
        plain: Mapping[str, int] = {"queries": 4 * references, "gallery": 21 * references}
        return {
            **self.expected,
            **dict.fromkeys(("val", "test", "test_unseen"), plain),
            **{split: {"queries": shared} for split in ("circo_val", "circo_test")},
        }
