"""CIRR: composed retrieval of real-life images (Liu et al., ICCV 2021), and everything else in its format."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator

from contextcir.errors import InputError, shown
from contextcir.evaluation.metrics import MeanOf, RecallAt, SoftRecallAt, SoftSubsetRecallAt, SubsetRecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.loading.images import label
from data_modules.reading.annotations import (
    AnnotationFile,
    Concepts,
    ImageName,
    ImageNames,
    ImageSize,
    Listed,
    PhraseField,
    PlainCaption,
    Problem,
    Record,
    check_other,
    check_path,
    phrase_records,
)
from data_modules.reading.json_files import read_json
from data_modules.reading.reader import BenchmarkReader, Counts, Strata, find_file, positions_of
from data_modules.records import Evaluation, Origin, QueryRecord, TrainingSet

METRICS = (*RecallAt.at(1, 5, 10, 50), *SubsetRecallAt.at(1, 2, 3))
MEAN_RECALL = MeanOf("mean_recall", RecallAt(5), SubsetRecallAt(1))
SOFT_METRICS = (*SoftRecallAt.at(1, 5, 10, 50), *SoftSubsetRecallAt.at(1, 2, 3))


class ImageSet(Record):
    """The set of similar images that a query belongs to, and which these are; training can do without them."""

    id: int
    members: list[str] | None = None


class ImageSetWithMembers(ImageSet):
    """An image set with the images that the query's subset consists of."""

    members: ImageNames


class CIRRRecord(PlainCaption):
    """A triplet of CIRR, as far as training needs it."""

    pairid: int
    reference: ImageName
    target_hard: ImageName | None = None
    img_set: ImageSet
    phrases: list[PhraseField] | None = None
    image_size: ImageSize | None = None

    @field_validator("target_hard")
    @classmethod
    def _check_target(cls, target: str | None, info: ValidationInfo) -> str | None:
        check_other(target, info.data.get("reference"))
        return target

    def query(self, origin: Origin) -> QueryRecord:
        """Return the record in the form that all benchmarks share."""
        return QueryRecord(
            reference=self.reference,
            caption=self.caption,
            phrases=phrase_records(self.phrases, self.caption),
            target=self.target_hard,
            id=self.pairid,
            image_set=self.img_set.id,
            image_size=self.image_size,
            origin=origin,
        )


class CIRRQuery(CIRRRecord):
    """A triplet of CIRR with what its evaluation needs beside: subset, soft targets, number of concepts."""

    img_set: ImageSetWithMembers
    target_soft: dict[str, Any] | None = None
    concepts: Concepts | None = None

    @field_validator("target_soft")
    @classmethod
    def _check_soft_targets(cls, grades: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        """Check the relevance of judged images, by name."""
        if grades is None:
            return None
        listed: Listed = info.context
        for name, relevance in grades.items():
            if name not in listed.names:
                raise Problem(f"names image {shown(name)}, which is not in {listed.file}")
            if type(relevance) not in (int, float) or not -1 <= relevance <= 1:
                raise Problem("must hold numbers from -1 to 1", f", got {shown(relevance)}")
        return grades

    def query(self, origin: Origin) -> QueryRecord:
        """Return the record in the form that all benchmarks share."""
        if self.target_soft is not None and self.target_hard is None:
            problem = "is there without target_hard: give both, or none to hide the labels"
            raise Problem(problem, inside="target_soft")
        return super().query(origin)


class CIRRReader(BenchmarkReader):
    """CIRR as its authors distribute it, or as the common code bases lay it out.

    Looks for ``captions/cap.*.SPLIT.json`` and ``image_splits/split.*.SPLIT.json`` in ``root``, ``root/cirr`` and
    ``root/annotations``, and for the images in ``img_raw``, ``images`` or beside the annotations.

    Scored as all current work does: hard targets, the whole split as gallery without the reference, and the five other
    images of the reference's set as subset. Where ``target_soft`` says more than that, the soft score of the CIRR
    authors stands beside it: the highest relevance among the first k. It is taken as it is written: ``target_hard``
    has no relevance where ``target_soft`` does not name it (37 queries of val), -1.0 counts as none (3 queries of val
    are left without any relevant image), and the reference, relevant to 37 queries of val, can't be ranked here either.
    ``mean_recall`` is that of recall_at_5 and subset_recall_at_1, by which the field chooses models.

    Records may also have ``phrases`` (``start``, ``end``, and optional ``text`` and ``box`` in pixels of the
    reference), ``image_size`` and ``concepts`` (an integer; every metric is repeated for each value of it). A blank
    caption is kept: its text is nothing but the begin and end tokens.
    """

    benchmark = "cirr"
    expected: ClassVar[Counts] = {
        "train": {"triplets": 28_225, "images": 16_939},
        "val": {"queries": 4_181, "gallery": 2_297},
        "test1": {"queries": 4_148, "gallery": 2_315},
    }
    training_splits = frozenset({"train"})
    captions = PlainCaption

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        bases = (self.root, self.root / "cirr")
        return [base / name for base in bases for name in ("img_raw", "images", "")]

    def read_training(self, split: str) -> TrainingSet:
        """Return the triplets of a split."""
        paths, listed_in = self.read_paths(split)
        file = self.open_captions(split, CIRRRecord, Listed(paths, listed_in))
        file.require("target_hard", lambda record: record.target_hard, ": there is nothing to train on")
        records = tuple(file.build(CIRRRecord.query).values())
        named = (record.img_set.members or () for _, record in file.items())
        sets = dict.fromkeys(tuple(name for name in members if name in paths) for members in named)
        return TrainingSet(records, paths, str(file.path), tuple(members for members in sets if members))

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split; without ``target_hard`` in any record its labels are hidden."""
        paths, listed_in = self.read_paths(split)
        file = self.open_captions(split, CIRRQuery, Listed(paths, listed_in))
        file.require_all_or_none("target_hard", lambda record: record.target_hard)
        file.require_all_or_none("target_soft", lambda record: record.target_soft)
        queries = file.build(CIRRQuery.query)
        records = tuple(queries.values())
        index = positions_of(paths)
        subsets, grades, strata = [], [], Strata()
        for query, position in enumerate(queries):
            subsets.append(tuple(index[name] for name in file[position].img_set.members))
            grades.append(file[position].target_soft)
            if file[position].concepts is not None:
                strata.put(f"concepts_{file[position].concepts}", query)
        # Where the hard target is the only relevant image of every query, the soft score is the hard one once more.
        graded = any(grade not in (None, {r.target: 1.0}) for grade, r in zip(grades, records, strict=True))
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(paths),
            query_ids=tuple(record.id for record in records),
            targets=tuple(() if record.target is None else (index[record.target],) for record in records),
            graded_targets=tuple(by_index(grade, index) for grade in grades) if graded else None,
            references=tuple(index[record.reference] for record in records),
            exclude_reference=True,
            subsets=tuple(subsets),
            metrics=(*METRICS, *(SOFT_METRICS if graded else ()), MEAN_RECALL),
            strata=strata.as_mapping(),
            headline="recall_at_1",
            version=self.protocol_version,
        )
        return Evaluation(protocol, records, paths)

    def read_pairs(self, split: str) -> tuple[list[tuple[QueryRecord, list[str]]], dict[str, str]]:
        """Return the triplets of a split, each with the members of its image set, and the paths of all images."""
        paths, listed_in = self.read_paths(split)
        file = self.open_captions(split, CIRRQuery, Listed(paths, listed_in))
        file.require("target_hard", lambda record: record.target_hard, ": there are no pairs")
        queries = file.build(CIRRQuery.query)
        return [(record, file[position].img_set.members) for position, record in queries.items()], paths

    def open_captions(self, split: str, model: type[CIRRRecord], listed: Listed) -> AnnotationFile[Any]:
        """Return the captions of a split, validated by a model."""
        return AnnotationFile(self.find_file("captions", "cap", split), model, "pairid", listed, self.report)

    def read_paths(self, split: str) -> tuple[dict[str, str], Path]:
        """Return the listed paths of all images of a split by name, and the file that lists them."""
        file = self.find_file("image_splits", "split", split)
        paths = read_json(file, dict)
        if not paths:
            raise InputError("lists no images", file=file)
        first: dict[str, str] = {}  # name by path
        for name, path in paths.items():
            if not name.strip():
                raise InputError(f"the name of the image {shown(path)} is empty", file=file)
            if not isinstance(path, str):
                raise InputError(f"the path of image {label(name)} must be a string, got {shown(path)}", file=file)
            try:
                same = first.setdefault(check_path(path).removeprefix("./"), name)
            except Problem as problem:
                raise InputError(f"the path of image {label(name)} {problem}", file=file) from None
            if same != name:
                raise InputError(f"images {shown(same)} and {shown(name)} have one path, {shown(path)}", file=file)
        return paths, file

    def find_file(self, folder: str, prefix: str, split: str) -> Path:
        """Return the annotation file of a split: ``folder/prefix.VERSION.split.json`` in one of the known layouts."""
        bases = [self.root, self.root / "cirr", self.root / "annotations", self.root / "cirr" / "annotations"]
        return find_file(f"{prefix}.*.{{split}}.json", split, bases, self.benchmark, folder, without="cap.ext.")


def by_index(values: dict[str, float], index: dict[str, int]) -> dict[int, float]:
    """Return values of images by gallery index in the place of the name."""
    return {index[name]: value for name, value in values.items()}
