"""CIRR: composed retrieval of real-life images (Liu et al., ICCV 2021), and everything else in its format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.evaluation.metrics import MeanOf, RecallAt, SoftRecallAt, SoftSubsetRecallAt, SubsetRecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.base import CompositionDataModule, Evaluation, TrainingSet
from data_modules.reading.annotations import AnnotationFile, read_json, shorten
from data_modules.records import QueryRecord

METRICS = (*RecallAt.at(1, 5, 10, 50), *SubsetRecallAt.at(1, 2, 3))
MEAN_RECALL = MeanOf("mean_recall", RecallAt(5), SubsetRecallAt(1))
SOFT_METRICS = (*SoftRecallAt.at(1, 5, 10, 50), *SoftSubsetRecallAt.at(1, 2, 3))


class CIRR(CompositionDataModule):
    """CIRR as its authors distribute it, or as the common code bases lay it out.

    Looks for ``captions/cap.*.SPLIT.json`` and ``image_splits/split.*.SPLIT.json`` in ``root``, ``root/cirr`` and
    ``root/annotations``, and for the images in ``img_raw``, ``images`` or beside the annotations.

    Scored as all current work does: hard targets, the whole split as gallery without the reference, and the five other
    images of the reference's set as subset. Where ``target_soft`` says more than that, the soft score of the CIRR
    authors stands beside it: the highest relevance among the first k. It is taken as it is written: ``target_hard``
    has no relevance where ``target_soft`` does not name it (37 queries of val), -1.0 counts as none (3 queries of val
    are left without any relevant image), and the reference, relevant to 37 queries of val, can't be found here either.
    ``mean_recall`` is that of recall_at_5 and subset_recall_at_1, by which the field chooses models.

    Records may also have ``phrases`` (``start``, ``end``, and optional ``text`` and ``box`` in pixels of the
    reference), ``image_size`` and ``concepts`` (an integer; every metric is repeated for each value of it). A blank
    caption is kept: its text is nothing but the begin and end tokens.

    Args:
        root: folder with annotations and images.
        train_split: split to train on.
        val_splits: splits scored by ``validate``, and during ``fit``.
        test_splits: splits scored by ``test``, and ranked by ``predict``. The labels of test1 are hidden.
        options: see CompositionDataModule.
    """

    benchmark = "cirr"

    def __init__(
        self,
        root: str | Path,
        train_split: str = "train",
        val_splits: Sequence[str] = ("val",),
        test_splits: Sequence[str] = ("test1",),
        **options: Any,
    ) -> None:
        super().__init__(root=root, val_splits=val_splits, test_splits=test_splits, **options)
        self.train_split = train_split

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        bases = (self.root, self.root / "cirr")
        return [base / name for base in bases for name in ("img_raw", "images", "")]

    def read_training(self) -> TrainingSet:
        """Return the triplets of the training split."""
        paths, listed_in = self._read_paths(self.train_split)
        file = AnnotationFile(self._find_file("captions", "cap", self.train_split), "pairid")
        records = tuple(self._record(file, position, paths, listed_in) for position in range(len(file)))
        for position, record in enumerate(records):
            if record.target is None:
                file.fail(position, "target_hard", "is missing: there is nothing to train on")
        return TrainingSet(records, paths, file.source)

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split; without ``target_hard`` in any record its labels are hidden."""
        paths, listed_in = self._read_paths(split)
        file = AnnotationFile(self._find_file("captions", "cap", split), "pairid")
        index = {name: number for number, name in enumerate(paths)}
        records, subsets, grades = [], [], []
        strata: dict[str, list[int]] = {}
        for position in range(len(file)):
            record = self._record(file, position, paths, listed_in)
            if position and (record.target is None) != (records[0].target is None):
                without = 0 if record.target else position
                file.fail(without, "target_hard", "is missing, but other records have it")
            members = file.get_images(position, "img_set.members", paths, listed_in)
            subsets.append(tuple(index[name] for name in members))
            records.append(record)
            grades.append(self._grades(file, position, paths, listed_in))
            if (grades[-1] is None) != (grades[0] is None):
                file.fail(0 if grades[0] is None else position, "target_soft", "is missing, but other records have it")
            concepts = file.get_optional(position, "concepts", int)
            if concepts is not None:
                strata.setdefault(f"concepts_{concepts}", []).append(position)
        # Where the hard target is the only relevant image of every query, the soft score is the hard one once more.
        graded = any(grade not in (None, {r.target: 1.0}) for grade, r in zip(grades, records, strict=True))
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(paths),
            query_ids=file.ids,
            targets=tuple(() if record.target is None else (index[record.target],) for record in records),
            graded_targets=tuple(by_index(grade, index) for grade in grades) if graded else None,
            references=tuple(index[record.reference] for record in records),
            exclude_reference=True,
            subsets=tuple(subsets),
            metrics=(*METRICS, *(SOFT_METRICS if graded else ()), MEAN_RECALL),
            strata={name: tuple(strata[name]) for name in sorted(strata)},
            headline="recall_at_1",
        )
        return Evaluation(protocol, tuple(records), paths, file.source)

    def _record(self, file: AnnotationFile, position: int, paths: dict[str, str], listed_in: Path) -> QueryRecord:
        caption = file.get(position, "caption", str)
        reference = file.get_image(position, "reference", paths, listed_in)
        target = file.get_optional(position, "target_hard", str)
        if target is not None and file.get_image(position, "target_hard", paths, listed_in) == reference:
            file.fail(position, "target_hard", f"is the reference itself: {shorten(target)}")
        return QueryRecord(
            reference=reference,
            caption=caption,
            phrases=file.get_phrases(position, caption),
            target=target,
            id=file.ids[position],
            image_set=file.get(position, "img_set.id", int),
            image_size=file.get_image_size(position),
        )

    @staticmethod
    def _grades(file: AnnotationFile, position: int, paths: dict[str, str], listed_in: Path) -> dict[str, float] | None:
        """Return the optional ``target_soft``: the relevance of judged images by name."""
        grades = file.get_optional(position, "target_soft", dict)
        if grades is None:
            return None
        if file.get_optional(position, "target_hard", str) is None:
            file.fail(position, "target_soft", "is there without target_hard: give both, or none to hide the labels")
        for name, relevance in grades.items():
            if name not in paths:
                file.fail(position, "target_soft", f"names image {shorten(name)}, which is not in {listed_in}")
            if type(relevance) not in (int, float) or not -1 <= relevance <= 1:
                file.fail(position, "target_soft", f"must hold numbers from -1 to 1, got {shorten(relevance)}")
        return grades

    def _read_paths(self, split: str) -> tuple[dict[str, str], Path]:
        """Return the listed paths of all images of a split by name, and the file that lists them."""
        file = self._find_file("image_splits", "split", split)
        paths = read_json(file, dict)
        if not paths:
            raise ValueError(f"{file}: lists no images")
        for name, path in paths.items():
            if not isinstance(path, str):
                raise ValueError(f"{file}: the path of image {name} must be a string, got {shorten(path)}")
        return paths, file

    def _find_file(self, folder: str, prefix: str, split: str) -> Path:
        """Return the annotation file of a split: ``folder/prefix.VERSION.split.json`` in one of the known layouts."""
        bases = [self.root, self.root / "cirr", self.root / "annotations", self.root / "cirr" / "annotations"]
        for place in (path for base in bases for path in (base / folder, base)):
            found = sorted(place.glob(f"{prefix}.*.{split}.json"))
            found = [path for path in found if not path.name.startswith("cap.ext.")]
            if len(found) > 1:
                names = " and ".join(path.name for path in found)
                raise ValueError(f"{place} holds {names}: leave one version of split {split}")
            if found:
                return found[0]
        tried = ", ".join(str(base / folder) for base in bases)
        raise FileNotFoundError(
            f"no file {prefix}.*.{split}.json in {tried}: set --data.root to the folder of {self.benchmark}, "
            f"or the {self._flag(split)} to a split that is there"
        )

    def _flag(self, split: str) -> str:
        if split == self.train_split:
            return "flag --data.train_split"
        return "flag --data.val_splits" if split in self.splits["val"] else "flag --data.test_splits"


def by_index(values: dict[str, float], index: dict[str, int]) -> dict[int, float]:
    """Return values of images by gallery index in the place of the name."""
    return {index[name]: value for name, value in values.items()}
