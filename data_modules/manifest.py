"""Triplets of one's own: a list of reference, target and caption, with image paths below a folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contextcir.checks import whole
from contextcir.errors import InputError, MissingFileError, shown
from contextcir.evaluation.metrics import AveragePrecisionAt, Metric, RecallAt
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.query_groups import SpreadOfGroups, WorstOfGroups
from contextcir.evaluation.whole_rankings import PrecisionAt
from contextcir.evaluation.wrong_answers import AnyNegativeAt, AveragePrecisionWithoutNegativesAt, NegRecallAt
from contextcir.files import leads_out
from data_modules.arrow.stream import RecordStream
from data_modules.loading.folders import first_there, is_there
from data_modules.reading.annotations import AnnotationFile, PlainCaption, Problem, read_names
from data_modules.reading.json_files import read_records
from data_modules.reading.manifest_lines import ManifestLines, entries_of, is_numbered
from data_modules.reading.manifest_records import ManifestEntry, ManifestRecord, normal_path, query_of
from data_modules.reading.reader import BenchmarkReader, Strata, check_split, positions_of, user_path
from data_modules.records import Evaluation, QueryRecord, TrainingSet

DEPTH = 10  # images that the metrics of several targets and of wrong answers look at


class ManifestReader(BenchmarkReader):
    """Any triplets: records with ``reference``, ``caption`` and ``target``, for training and evaluation.

    Optional fields of a record: ``id`` (an integer), ``split``, ``image_set`` (an integer; images of one set look
    alike), ``phrases``, ``clauses`` (``[start, end]`` each), ``image_size`` and ``concepts`` as in `CIRRReader`. If the
    records name splits, those of other splits than the one that is read are left out; a file whose records name none is
    one split. Where no record has a ``target``, queries can only be predicted.

    Further fields for harder tests: ``further_references`` and ``further_targets`` (paths beside the first one),
    ``negatives`` (paths of wrong answers), and ``query_group`` (an integer; records with the same one ask for the same
    in other words). Training takes the first reference and target of a record, and ``negatives`` as hard negatives.

    Scored by recall on the whole gallery: all images that the records of the split name, or those that a file lists.
    Where a record has more targets, average precision and precision at 10 stand beside it; with wrong answers
    `NegRecallAt`, `AnyNegativeAt` and the average precision without them; with groups the spread and worst of recall.

    The arguments are explained in `data_modules.benchmarks.Manifest`.
    """

    benchmark = "manifest"
    training_splits = frozenset({"train"})
    captions = PlainCaption

    def __init__(
        self,
        root: str | Path,
        file: str | None = None,
        gallery_file: str | None = None,
        name: str = "manifest",
        exclude_reference: bool = False,
        recall_at: Sequence[int] = (1, 5, 10, 50, 100),
    ) -> None:
        super().__init__(root)
        for setting, given in (("file", file), ("gallery_file", gallery_file)):
            if given is not None:
                user_path(given, f"data.{setting}")
        if leads_out(name) or "/" in name or "\\" in name or not name.isprintable():
            raise InputError(f"expected a name, such as manifest, got {shown(name)}", setting="data.name")
        self.file = file
        self.gallery_file = gallery_file
        self.benchmark = name
        self.exclude_reference = exclude_reference
        self.recall_at = tuple(whole(k, 1, "data.recall_at") for k in recall_at)
        if not recall_at or len(set(recall_at)) < len(recall_at):
            problem = f"expected different whole numbers, at least one, got {shown(list(recall_at))}"
            raise InputError(problem, setting="data.recall_at")

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        return [self.root, self.root / "images", self.root / "img_raw"]

    def read_training(self, split: str) -> TrainingSet:
        """Return the triplets of a split."""
        file = self._open(split)
        file.require("target", lambda record: record.target, ": there is nothing to train on")
        records = tuple(file.build(query_of).values())
        named = (name for record in records for name in record.negatives)
        return TrainingSet(records, _paths([*_images(records), *named]), str(file.path))

    def training_files(self, split: str) -> list[Path]:
        """Return the manifest."""
        return [self._find_file(split)]

    def training_stream(self, split: str) -> RecordStream:
        """Return the triplets of a split: of JSON lines, a few at a time."""
        path = self._find_file(split)
        if ManifestLines.fits(path):
            return ManifestLines(path, split, self.report, self._setting)
        return super().training_stream(split)

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split; without ``target`` in any record its labels are hidden."""
        file = self._open(split)
        file.require_all_or_none("target", lambda record: record.target)
        file.require_all_or_none("query_group", lambda record: record.query_group)
        gallery = self._read_gallery(split, file)
        built = file.build(query_of)
        read = [file[position] for position in built]
        records = tuple(built.values())
        gallery = gallery or tuple(dict.fromkeys(name for record in read for name in record.images()))
        index = positions_of(gallery)
        strata = Strata()
        for query, record in enumerate(read):
            if record.concepts is not None:
                strata.put(f"concepts_{record.concepts}", query)
        further = [record.further_references or [] for record in read]
        grouped = read[0].query_group is not None
        negatives = any(record.negatives for record in read)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=gallery,
            query_ids=tuple(record.id for record in records),
            targets=tuple(tuple(index[name] for name in record.targets()) for record in read),
            references=tuple(index.get(record.reference, -1) for record in records),
            exclude_reference=self.exclude_reference,
            metrics=self._metrics(any(record.further_targets for record in read), negatives, grouped),
            strata=strata.as_mapping(),
            headline=f"recall_at_{self.recall_at[0]}" if self.recall_at else "",
            options={"gallery_of": self.gallery_file or "references and targets"},
            version=self.protocol_version,
            negatives=tuple(tuple(index[name] for name in record.negatives or ()) for record in read)
            if negatives
            else None,
            query_groups=tuple(record.query_group or 0 for record in read) if grouped else None,
            further_references=tuple(tuple(index.get(name, -1) for name in names) for names in further)
            if any(further)
            else None,
        )
        others = (
            query._replace(reference=name, phrases=tuple(phrase._replace(box=None) for phrase in query.phrases))
            for query, names in zip(records, further, strict=True)
            for name in names
        )
        records = (*records, *others)
        return Evaluation(protocol, records, _paths([*gallery, *_images(records)]))

    def _metrics(self, several: bool, negatives: bool, grouped: bool) -> tuple[Metric, ...]:
        """Return the metrics of a split with several targets, wrong answers, or groups of queries."""
        metrics: list[Metric] = list(RecallAt.at(*self.recall_at))
        if several:
            metrics += [AveragePrecisionAt(DEPTH), PrecisionAt(DEPTH)]
        if negatives:
            metrics += [
                *NegRecallAt.at(1, DEPTH),
                *AnyNegativeAt.at(1, DEPTH),
                AveragePrecisionWithoutNegativesAt(DEPTH),
            ]
        if grouped:
            k = max((k for k in self.recall_at if k <= DEPTH), default=self.recall_at[0])
            metrics += [SpreadOfGroups(RecallAt(k)), WorstOfGroups(RecallAt(k))]
        return tuple(metrics)

    def list_splits(self) -> list[str]:
        """Return the splits that exist: of train, val and test those with a file, or those that records name.

        A single file whose records name no split is the training split.
        """
        if "{split}" in (self.file or "{split}"):
            splits = [split for split in ("train", "val", "test") if self._exists(split)]
            if splits:
                return splits
        entries = AnnotationFile(self._find_file("train"), ManifestEntry, report=self.report)
        return list(dict.fromkeys(entry.split for _, entry in entries.items() if entry.split)) or ["train"]

    def check_not_trained_on(self, split: str, training_file: str) -> None:
        """Raise InputError if ``training_file`` is the file of a split too, and its records name no split."""
        path = self._find_file(split)
        if str(path) == training_file and not self._name_splits(self._entries(path)[0]):
            raise InputError(
                f"is trained on, and its records name no split, so {split} would be the same triplets: give every "
                "record a field split, or name the training split here if that is meant",
                file=path,
                setting="data.split",
            )

    def _open(self, split: str) -> AnnotationFile[ManifestRecord]:
        """Return the records of a split."""
        path = self._find_file(split)
        entries, listed = self._entries(path)
        named = self._name_splits(entries)
        if named:
            entries.require("split", lambda entry: entry.split or None, ", but other records have it")
        chosen = [position for position, entry in entries.items() if not named or entry.split == split]
        if not chosen:
            raise InputError(f"no record has split {shown(split)}", file=path, setting="data.split")
        records = {position: listed[position] for position in chosen}
        return AnnotationFile(path, ManifestRecord, "id", report=self.report, listed=records)

    def _entries(self, path: Path) -> tuple[AnnotationFile[ManifestEntry], list[Any]]:
        """Return what says where the records of a file belong, and the records."""
        listed = read_records(path, self._setting)
        return entries_of(path, dict(enumerate(listed)), is_numbered(listed[0]), self.report), listed

    @staticmethod
    def _name_splits(entries: AnnotationFile[ManifestEntry]) -> bool:
        return any(entry.split for _, entry in entries.items())

    def _read_gallery(self, split: str, file: AnnotationFile[ManifestRecord]) -> tuple[str, ...]:
        """Return the listed gallery of a split, which must hold the targets; () if none is listed."""
        if self.gallery_file is None:
            return ()
        path = self._path(self.gallery_file, split)
        gallery = dict.fromkeys(read_names(path, "data.gallery_file", normal_path))
        for position, record in file.items():
            fields = (("target", record.targets()), ("negatives", record.negatives or ()))
            for field, name in ((field, name) for field, names in fields for name in names):
                if name not in gallery:
                    outside = f"names image {shown(name)}, which is not in the gallery file {path}"
                    file.reject(position, field, Problem(outside))
                    break
        return tuple(gallery)

    def _exists(self, split: str) -> bool:
        patterns = ("{split}.jsonl", "{split}.json") if self.file is None else (self.file,)
        return any(is_there(self._path(pattern, split)) for pattern in patterns)

    def _path(self, pattern: str, split: str) -> Path:
        if "{split}" in pattern:
            check_split(split)
        return self.root / user_path(pattern.replace("{split}", split), "data.file")

    def _find_file(self, split: str) -> Path:
        names = ("{split}.jsonl", "{split}.json", "manifest.jsonl", "manifest.json")
        tried = [self._path(name, split) for name in (names if self.file is None else (self.file,))]
        path = first_there(tried)
        if path is not None:
            return path
        raise MissingFileError(
            f"no file {' or '.join(map(str, tried))}: expected the folder of the manifest, and one of its splits",
            setting=self._setting,
        )

    @property
    def _setting(self) -> str:
        return "data.root" if self.file is None else "data.file"


def _images(records: Iterable[QueryRecord]) -> list[str]:
    pairs = ((record.reference, record.target) for record in records)
    return [name for pair in pairs for name in pair if name is not None]


def _paths(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}
