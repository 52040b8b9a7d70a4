"""Scenes: the embedded benchmark. Drawn on first use, then read like CIRR and CIRCO from ordinary files."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_modules.base import Evaluation
from data_modules.circo import CIRCO, RelativeCaption
from data_modules.cirr import CIRR
from data_modules.reading.annotations import AnnotationFile
from data_modules.scenes.roles import read_roles
from data_modules.scenes.writer import Size, write_scenes

SHARED = "circo_"  # splits whose queries have several right answers, and CIRCO's file format


class Scenes(CIRR):
    """Procedural images of shapes with composed edits (CIRR's format), and queries with several answers (CIRCO's).

    Splits: train; val and test; test_unseen, whose queries make colour and shape meet that never do in training;
    circo_val and circo_test, where additions leave attributes unsaid, so that several images are right.

    Args:
        root: folder of the benchmark; it is drawn there if it is new.
        seed: of the benchmark; the same seed gives the same files.
        size: how much to draw.
        val_splits: splits scored by ``validate``, and during ``fit``.
        test_splits: splits scored by ``test``, and ranked by ``predict``.
        options: see CompositionDataModule.
    """

    benchmark = "scenes"

    def __init__(
        self,
        root: str | Path,
        seed: int = 0,
        size: Size = Size(),  # noqa: B008  (immutable; spelled out so that the saved config names it)
        val_splits: Sequence[str] = ("val", "circo_val"),
        test_splits: Sequence[str] = ("test", "test_unseen", "circo_test"),
        **options: Any,
    ) -> None:
        super().__init__(root=root, val_splits=val_splits, test_splits=test_splits, **options)
        self.seed = seed
        self.size = size

    def prepare_data(self) -> None:
        """Draw the benchmark unless it is there; Lightning calls this in one process of each node."""
        write_scenes(self.root, self.seed, self.size, os.cpu_count() or 1)

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split of either format."""
        if not split.startswith(SHARED):
            return super().read_evaluation(split)
        evaluation = self._shared().read_evaluation(split.removeprefix(SHARED))
        return evaluation._replace(protocol=replace(evaluation.protocol, benchmark=self.benchmark, split=split))

    def member_roles(self, split: str) -> dict[int, dict[str, str]]:
        """Return, by query id, why each image is in the query's set; {} for splits that do not say so."""
        if split.startswith(SHARED):
            return {}
        return read_roles(AnnotationFile(self._find_file("captions", "cap", split), "pairid"))

    def image_folders(self) -> list[Path]:
        """Return the image folders of both formats; their file names differ."""
        return super().image_folders() + self._shared().image_folders()

    def _shared(self) -> CIRCO:
        return CIRCO(self.root / "circo", query_text=RelativeCaption())
