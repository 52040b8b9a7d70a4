"""LaSCo: composed retrieval on COCO 2014, made from VQA 2.0 (Levy et al., AAAI 2024)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.evaluation.metrics import RecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.base import CompositionDataModule, Evaluation, TrainingSet
from data_modules.reading.annotations import AnnotationFile, KeylessFile, is_kind, read_json, shorten
from data_modules.records import QueryRecord

PLACES = ("", "downloads", "LaSCo", "LaSCo/downloads", "annotations")


class LaSCo(CompositionDataModule):
    """LaSCo as its authors distribute it, with COCO's images of 2014.

    Looks for ``lasco_SPLIT.json`` and ``lasco_SPLIT_corpus.json`` in ``root`` and its sub-folders downloads, LaSCo,
    LaSCo/downloads and annotations, and for ``train2014`` and ``val2014`` in ``root``, ``coco``, ``images`` and others.
    Images are known by their COCO id, as the corpus lists its paths with one more folder than the queries do.

    Scored by recall@k for k up to 1,000 on the corpus (39,826 images for val).

    Args:
        root: folder with annotations and images.
        train_split: split to train on; its corpus isn't needed.
        val_splits: splits scored by ``validate``, and during ``fit``.
        test_splits: splits scored by ``test``, and ranked by ``predict``; there is no test split of its own.
        exclude_reference: take the reference out of the gallery; by default it is kept in.
        options: see CompositionDataModule.
    """

    benchmark = "lasco"

    def __init__(
        self,
        root: str | Path,
        train_split: str = "train",
        val_splits: Sequence[str] = ("val",),
        test_splits: Sequence[str] = ("val",),
        exclude_reference: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root=root, val_splits=val_splits, test_splits=test_splits, **options)
        self.train_split = train_split
        self.exclude_reference = exclude_reference

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to."""
        bases = [self.root / base for base in ("", "coco", "COCO", "images", "LaSCo", "LaSCo/coco")]
        return [base / name for base in bases for name in ("", "val", "train")]

    def read_training(self) -> TrainingSet:
        """Return the triplets of the training split."""
        file = KeylessFile(self._find_file(f"lasco_{self.train_split}.json"))
        paths: dict[str, str] = {}
        return TrainingSet(self._read_records(file, paths), paths, file.source)

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split, ranked on its corpus."""
        paths, listed_in = self._read_corpus(split)
        gallery = tuple(paths)
        file = KeylessFile(self._find_file(f"lasco_{split}.json"))
        index = {name: number for number, name in enumerate(gallery)}
        records = self._read_records(file, paths)  # adds references that are not in the corpus
        for position in range(len(file)):
            file.get_image(position, "target-image.0", index, listed_in, int)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=gallery,
            query_ids=file.ids,
            targets=tuple((index[record.target],) for record in records),
            references=tuple(index.get(record.reference, -1) for record in records),
            exclude_reference=self.exclude_reference,
            metrics=RecallAt.at(1, 5, 10, 50, 100, 500, 1000),
            headline="recall_at_1",
        )
        return Evaluation(protocol, records, paths, file.source)

    @staticmethod
    def _read_records(file: AnnotationFile, paths: dict[str, str]) -> tuple[QueryRecord, ...]:
        """Return the records, and put the paths of their images among the known ones."""
        records = []
        for position in range(len(file)):
            names = {}
            for field in ("query-image", "target-image"):
                names[field] = name = str(file.get(position, f"{field}.0", int))
                path = coco_path(file.get(position, f"{field}.1", str))
                if paths.setdefault(name, path) != path:
                    file.fail(position, f"{field}.1", f"is {shorten(path)}, but elsewhere {name} is {paths[name]}")
            if names["query-image"] == names["target-image"]:
                file.fail(position, "target-image.0", f"is the query image itself: {names['query-image']}")
            caption = file.get(position, "query-text", str)
            record = QueryRecord(names["query-image"], caption, target=names["target-image"], id=file.ids[position])
            records.append(record)
        return tuple(records)

    def _read_corpus(self, split: str) -> tuple[dict[str, str], Path]:
        """Return the paths of a split's corpus by image id, and the file that lists them."""
        file = self._find_file(f"lasco_{split}_corpus.json")
        paths: dict[str, str] = {}
        for position, image in enumerate(read_json(file, list)):
            identity, path = (image.get("id"), image.get("path")) if isinstance(image, dict) else (None, None)
            if not is_kind(identity, int) or not isinstance(path, str):
                raise ValueError(f"image {position} of {file}: needs fields id (an integer) and path (a string)")
            if str(identity) in paths:
                raise ValueError(f"image {position} of {file}: field id is {identity}, as in an image before it")
            paths[str(identity)] = coco_path(path)
        if not paths:
            raise ValueError(f"{file}: lists no images")
        return paths, file

    def _find_file(self, name: str) -> Path:
        places = [self.root / place for place in PLACES]
        for place in places:
            if (place / name).is_file():
                return place / name
        raise FileNotFoundError(
            f"no file {name} in {', '.join(map(str, places))}: set --data.root to the folder of LaSCo, or "
            "--data.train_split, --data.val_splits and --data.test_splits to what is there"
        )


def coco_path(path: str) -> str:
    """Return the last folder and the file name of a path: ``val2014/COCO_val2014_000000000042.jpg``."""
    return "/".join(path.rsplit("/", 2)[-2:])
