"""Scenes: the embedded benchmark. Drawn when asked, then read like CIRR and CIRCO from ordinary files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.evaluation.protocol import Protocol
from contextcir.files import read_json
from data_modules.circo import CIRCOReader, RelativeCaption
from data_modules.cirr import CIRRReader, CIRRRecord
from data_modules.reading.annotations import AnnotationFile, Concepts, Listed, Record
from data_modules.reading.reader import Counts, Strata
from data_modules.records import Evaluation, TrainingSet
from data_modules.scenes.groups import MAX_EDITS

STATE = "scenes.json"  # what was drawn
NEWEST = 2  # version; see `writer.VERSIONS`
SHARED = "circo_"  # splits whose queries have several right answers, and CIRCO's file format


def kinds_path(root: Path, split: str) -> Path:
    """Return the file that says what it takes to answer each query of a split; version 1 has none."""
    return root / "captions" / f"kinds.scenes.{split}.json"


class Kind(Record):
    """What it takes to choose the target of a query in its image set: see `answerable.kind_of`."""

    pairid: int
    answerable: Literal["text", "unbound", "bound", "several"]


class Roles(Record):
    """The roles of the images in a query's set, by name: ``swapped``, ``wrong object`` and others."""

    pairid: int
    roles: dict[str, str] | None = None


class TrainingRecord(CIRRRecord):
    """A training triplet with the number of edits that its caption asks for."""

    concepts: Concepts | None = None


class ScenesReader(CIRRReader):
    """Procedural images of shapes with composed edits (CIRR's format), and queries with several answers (CIRCO's).

    Splits: train; val and test; test_unseen, whose queries make colour and shape meet that never do in training;
    circo_val and circo_test, where additions leave attributes unsaid, so that several images are right; hard, whose
    queries have negatives that fit the text and the attributes of the reference, but not which object has which.

    Version 2 has all files of version 1, the split hard, and kinds of queries: every metric of val, test and
    test_unseen is repeated for the queries that an ideal eye could answer from the text alone
    (``recall_at_1_answerable_text``), from the text and the attributes of the reference, but not which object has which
    (``..._answerable_unbound``), only from the whole reference (``..._answerable_bound``), or not at all, since several
    members of the set fit (``..._answerable_several``).

    Args:
        root: folder of the benchmark.
        min_concepts: fewest edits that the caption of a training triplet asks for.
        max_concepts: most edits that the caption of a training triplet asks for. What is evaluated stays the same.
        version: 1 reads nothing of what version 2 adds, so that figures are those of version 1 alone.
    """

    benchmark = "scenes"
    expected: ClassVar[Counts] = {
        split: {} for split in ("train", "val", "test", "test_unseen", "circo_val", "circo_test", "hard")
    }

    def __init__(
        self, root: str | Path, min_concepts: int = 1, max_concepts: int = MAX_EDITS, version: int = NEWEST
    ) -> None:
        super().__init__(root)
        self.version = whole(version, 1, "data.version", NEWEST)
        self.min_concepts = whole(min_concepts, 1, "data.min_concepts", MAX_EDITS)
        self.max_concepts = whole(max_concepts, 1, "data.max_concepts", MAX_EDITS)
        if min_concepts > max_concepts:
            problem = f"expected at most max_concepts ({max_concepts}), got {min_concepts}"
            raise InputError(problem, setting="data.min_concepts")
        self._shared = CIRCOReader(self.root / "circo", query_text=RelativeCaption())

    def image_folders(self) -> list[Path]:
        """Return the image folders of both formats; their file names differ."""
        return super().image_folders() + self._shared.image_folders()

    def read_training(self, split: str) -> TrainingSet:
        """Return the triplets of a split that ask for ``min_concepts`` to ``max_concepts`` edits; maybe none."""
        training = super().read_training(split)
        if (self.min_concepts, self.max_concepts) == (1, MAX_EDITS):
            return training
        file = self.open_captions(split, TrainingRecord, Listed(training.image_paths, self.read_paths(split)[1]))
        file.require("concepts", lambda record: record.concepts, ": data.max_concepts and data.min_concepts need it")
        asked = {record.pairid for _, record in file.items() if self.wants(record.concepts)}
        return training._replace(records=tuple(record for record in training.records if record.id in asked))

    def wants(self, concepts: int | None) -> bool:
        """Return whether a caption of so many edits is trained on."""
        return concepts is not None and self.min_concepts <= concepts <= self.max_concepts

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split of either format."""
        if not split.startswith(SHARED):
            evaluation = super().read_evaluation(split)
            strata = {**evaluation.protocol.strata, **self._kinds_of(evaluation.protocol)}
            return evaluation._replace(protocol=replace(evaluation.protocol, strata=strata))
        self._shared.report = self.report
        evaluation = self._shared.read_evaluation(split.removeprefix(SHARED))
        named = {"benchmark": self.benchmark, "split": split, "version": self.protocol_version}
        return evaluation._replace(protocol=replace(evaluation.protocol, **named))

    def read_roles(self, split: str) -> dict[int, dict[str, str]]:
        """Return, by query id, why each image is in the query's set; {} for splits that do not say so.

        Raises:
            InputError: if a role is not a string.
        """
        if split.startswith(SHARED):
            return {}
        file = AnnotationFile(self.find_file("captions", "cap", split), Roles, "pairid", report=self.report)
        return {record.pairid: record.roles for _, record in file.items() if record.roles}

    def read_kinds(self, split: str) -> dict[int, str]:
        """Return, by query id, what it takes to answer each query of a split; {} where no file says so.

        Raises:
            InputError: if a kind is none.
        """
        path = kinds_path(self.root, split)
        if self.version == 1 or not path.exists():
            return {}
        file = AnnotationFile(path, Kind, "pairid", report=self.report)
        return {record.pairid: record.answerable for _, record in file.items()}

    def _kinds_of(self, protocol: Protocol) -> dict[str, tuple[int, ...]]:
        """Return the queries of each kind; {} where there are no kinds, or but one."""
        kinds, strata = self.read_kinds(protocol.split), Strata()
        for query, number in enumerate(protocol.query_ids if kinds else ()):
            if number not in kinds:
                problem = f"says nothing of pairid {number}: draw the scenes in another folder"
                raise InputError(problem, file=kinds_path(self.root, protocol.split))
            strata.put(f"answerable_{kinds[number]}", query)
        return strata.as_mapping() if len(strata) > 1 else {}

    def list_splits(self) -> list[str]:
        """Return the names of all splits of the version that was drawn."""
        return list(self.expected_counts())

    def expected_counts(self) -> Counts:
        """Return the numbers that follow from the size that was drawn."""
        try:
            size = read_json(self.root / STATE)
            references, shared = int(size["references"]), int(size["shared_references"])
            drawn = min(int(size["version"]), self.version)
        except (OSError, ValueError, KeyError, TypeError):
            return self.expected
        plain: Mapping[str, int] = {"queries": 4 * references, "gallery": 21 * references}
        return {
            "train": {},
            **dict.fromkeys(("val", "test", "test_unseen"), plain),
            **{split: {"queries": shared} for split in ("circo_val", "circo_test")},
            **({"hard": plain} if drawn > 1 else {}),
        }
