"""Triplets of one's own: a list of reference, target and caption, with image paths below a folder."""

import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contextcir.evaluation.metrics import RecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.base import CompositionDataModule
from data_modules.reading.annotations import MISSING, ManifestFile, SplitSource, read_json, shorten
from data_modules.records import Evaluation, QueryRecord, TrainingSet


class Manifest(CompositionDataModule):
    """Any triplets: records with ``reference``, ``caption`` and ``target``, for training and evaluation.

    Optional fields of a record: ``id`` (an integer), ``split``, ``image_set`` (an integer; images of one set look
    alike), ``phrases``, ``image_size`` and ``concepts`` as in `CIRR`. If the records name splits, those of other splits
    than the one asked for are left out; a file whose records name none is one split. Where no record has a ``target``,
    queries can only be predicted.

    Scored by recall on the whole gallery: all references and targets of the split, or the images that a file lists.

    Args:
        root: folder that image paths are relative to; images may also be in its folders ``images`` and ``img_raw``.
        file: manifest, relative to ``root``; ``{split}`` in it stands for the name of the split. None for the first of
            ``SPLIT.jsonl``, ``SPLIT.json``, ``manifest.jsonl`` and ``manifest.json`` that is there.
        gallery_file: JSON list of the image paths of the gallery, named likewise; None for all references and targets.
        name: of the benchmark in results, and of the set in a `Mixture`.
        train_split: split to train on.
        val_splits: splits scored by ``validate``, and during ``fit``.
        test_splits: splits scored by ``test``, and ranked by ``predict``.
        exclude_reference: take the reference out of the gallery before ranking.
        recall_at: cut-offs k of recall@k.
        options: see CompositionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        file: str | None = None,
        gallery_file: str | None = None,
        name: str = "manifest",
        train_split: str = "train",
        val_splits: Sequence[str] = ("val",),
        test_splits: Sequence[str] = ("test",),
        exclude_reference: bool = False,
        recall_at: Sequence[int] = (1, 5, 10, 50, 100),
        **options: Any,
    ) -> None:
        super().__init__(root=root, val_splits=val_splits, test_splits=test_splits, **options)
        self.file = file
        self.gallery_file = gallery_file
        self.benchmark = name
        self.train_split = train_split
        self.exclude_reference = exclude_reference
        self.recall_at = tuple(recall_at)

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        return [self.root, self.root / "images", self.root / "img_raw"]

    def read_training(self) -> TrainingSet:
        """Return the triplets of the training split."""
        file, positions, records = self._read(self.train_split)
        for position, record in zip(positions, records, strict=True):
            if record.target is None:
                file.fail(position, "target", "is missing: there is nothing to train on")
        return TrainingSet(records, _paths(_images(records)), _source(file, positions))

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split; without ``target`` in any record its labels are hidden."""
        file, positions, records = self._read(split)
        gallery = self._gallery(split, records)
        index = {name: number for number, name in enumerate(gallery)}
        strata: dict[str, list[int]] = {}
        for query, (position, record) in enumerate(zip(positions, records, strict=True)):
            if query and (record.target is None) != (records[0].target is None):
                file.fail(
                    positions[0] if record.target else position, "target", "is missing, but other records have it"
                )
            if record.target is not None and record.target not in index:
                listed = (
                    f"{shorten(record.target)}, which is not in the gallery file {self._path(self.gallery_file, split)}"
                )
                file.fail(position, "target", f"names image {listed}")
            concepts = file.get_optional(position, "concepts", int)
            if concepts is not None:
                strata.setdefault(f"concepts_{concepts}", []).append(query)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=gallery,
            query_ids=tuple(record.id for record in records),
            targets=tuple(() if record.target is None else (index[record.target],) for record in records),
            references=tuple(index.get(record.reference, -1) for record in records),
            exclude_reference=self.exclude_reference,
            metrics=RecallAt.at(*self.recall_at),
            strata={name: tuple(strata[name]) for name in sorted(strata)},
            headline=f"recall_at_{self.recall_at[0]}" if self.recall_at else "",
            options={"gallery_of": self.gallery_file or "references and targets"},
        )
        return Evaluation(protocol, records, _paths([*gallery, *_images(records)]), _source(file, positions))

    def list_splits(self) -> list[str]:
        """Return the splits that are there: of train, val and test those with a file, or those that records name.

        A single file whose records name no split is the training split.
        """
        named = "{split}" in (self.file or "{split}")
        if named:
            found = [split for split in ("train", "val", "test") if self._exists(split)]
            if found:
                return found
        file = ManifestFile(self._find_file(self.train_split))
        names = [file.get_optional(position, "split", str) for position in range(len(file))]
        return list(dict.fromkeys(name for name in names if name)) or [self.train_split]

    def _exists(self, split: str) -> bool:
        patterns = ("{split}.jsonl", "{split}.json") if self.file is None else (self.file,)
        return any(self._path(pattern, split).is_file() for pattern in patterns)

    def _gallery(self, split: str, records: Sequence[QueryRecord]) -> tuple[str, ...]:
        if self.gallery_file is None:
            return tuple(dict.fromkeys(_images(records)))
        path = self._path(self.gallery_file, split)
        listed = read_json(path, list)
        for position, image in enumerate(listed):
            if not isinstance(image, str) or not image.strip():
                raise ValueError(f"image {position} of {path}: expected the path of an image, got {shorten(image)}")
        return tuple(dict.fromkeys(posixpath.normpath(image) for image in listed))

    def _read(self, split: str) -> tuple[ManifestFile, Sequence[int], tuple[QueryRecord, ...]]:
        """Return the manifest of a split, which of its records belong to the split, and these."""
        path = self._find_file(split)
        file = ManifestFile(path)
        positions = file.of_split(split)
        if positions is None:
            self._check_not_trained_on(path, split)
            positions = range(len(file))
        if not positions:
            raise ValueError(f"{path}: no record has split {split!r}: change {self._flag(split)}")
        return file, positions, tuple(self._record(file, position) for position in positions)

    @staticmethod
    def _record(file: ManifestFile, position: int) -> QueryRecord:
        caption = file.get(position, "caption", str)
        reference = file.get_path(position, "reference")
        target = None if file.find(position, "target") in (MISSING, None) else file.get_path(position, "target")
        if target == reference:
            file.fail(position, "target", f"is the reference itself: {shorten(target)}")
        return QueryRecord(
            reference=reference,
            caption=caption,
            phrases=file.get_phrases(position, caption),
            target=target,
            id=file.ids[position],
            image_set=file.get_optional(position, "image_set", int),
            image_size=file.get_image_size(position),
        )

    def _path(self, pattern: str, split: str) -> Path:
        return self.root / Path(pattern.replace("{split}", split)).expanduser()

    def _find_file(self, split: str) -> Path:
        names = ("{split}.jsonl", "{split}.json", "manifest.jsonl", "manifest.json")
        tried = [self._path(name, split) for name in (names if self.file is None else (self.file,))]
        for path in tried:
            if path.is_file():
                return path
        names = " or ".join(str(path) for path in tried)
        raise FileNotFoundError(f"no file {names}: set --data.root, --data.file or {self._flag(split)}")

    def _check_not_trained_on(self, path: Path, split: str) -> None:
        """Raise ValueError if the file of ``split``, whose records name no split, is that of the training split too."""
        if split != self.train_split and self._training is not None and self._training.source.file == str(path):
            raise ValueError(
                f"{path} is trained on, and its records name no split, so {split} would be the same triplets: give "
                f"every record a field split, or set {self._flag(split)} to [{self.train_split}] if that is meant"
            )

    def _flag(self, split: str) -> str:
        if split == self.train_split:
            return "--data.train_split"
        return "--data.val_splits" if split in self.splits["val"] else "--data.test_splits"


def _images(records: Iterable[QueryRecord]) -> list[str]:
    pairs = ((record.reference, record.target) for record in records)
    return [name for pair in pairs for name in pair if name is not None]


def _paths(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


def _source(file: ManifestFile, positions: Sequence[int]) -> SplitSource:
    return SplitSource(file.source.file, file.source.key, [file.positions[position] for position in positions])
