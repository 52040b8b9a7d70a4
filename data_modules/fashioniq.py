"""FashionIQ: dresses, shirts and tops described by how they differ (Wu et al., CVPR 2021).

Published FashionIQ figures differ in two choices, each of which is a class here: the text of a query, and the gallery
of a category.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationInfo, field_validator

from contextcir.errors import InputError, shown
from contextcir.evaluation.metrics import MeanOf, RecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.reading.annotations import (
    AnnotationFile,
    CaptionRecord,
    ImageName,
    Listed,
    Problem,
    check_other,
    read_names,
)
from data_modules.reading.reader import BenchmarkReader, Counts, find_file, positions_of
from data_modules.records import Evaluation, QueryRecord, TrainingSet


class CaptionText(ABC):
    """Makes the texts of a query from its two captions, in the wording of CLIP4Cir.

    The captions lose blanks and ``.?,`` at their ends and are joined by "and". The published code does that to the 15
    records with one empty caption too, and so their texts begin or end with "and" here as well.
    """

    @property
    @abstractmethod
    def orders(self) -> tuple[tuple[int, int], ...]:
        """Which caption comes first and which second, once per text."""

    @property
    def template(self) -> str:
        """What the texts look like."""
        return " | ".join(f"{{caption {first + 1}}} and {{caption {second + 1}}}" for first, second in self.orders)

    def compose(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Return the texts of a query."""
        halves = [caption.strip(".?, ") for caption in captions]
        return tuple(f"{halves[first].capitalize()} and {halves[second]}" for first, second in self.orders)


class FirstAndSecond(CaptionText):
    """One text, the captions in the order of the file, as CLIP4Cir and most others score it."""

    orders = ((0, 1),)


class SecondAndFirst(CaptionText):
    """One text, the captions in the other order."""

    orders = ((1, 0),)


class BothOrders(CaptionText):
    """Both orders: the mean of their two embeddings is scored, as SEARLE and LinCIR do. In training, two triplets."""

    orders = ((0, 1), (1, 0))


class CategoryGallery(ABC):
    """Chooses the gallery of a category. Figures on different galleries can't be compared."""

    @abstractmethod
    def choose(self, listed: Sequence[str], queries: Sequence[QueryRecord]) -> tuple[str, ...]:
        """Return the gallery, given all images of the split file and the queries."""


class OriginalGallery(CategoryGallery):
    """All images of the split file: 3,817 dresses, 6,346 shirts, 5,373 tops for validation."""

    def choose(self, listed: Sequence[str], queries: Sequence[QueryRecord]) -> tuple[str, ...]:
        return tuple(listed)


class VALGallery(CategoryGallery):
    """Candidates and targets only, as VAL (Chen et al., CVPR 2020) and CosMo: 2,628, 3,089 and 2,902 images. Easier.

    Raises InputError for queries whose targets are hidden.
    """

    def choose(self, listed: Sequence[str], queries: Sequence[QueryRecord]) -> tuple[str, ...]:
        if any(record.target is None for record in queries):
            raise InputError(
                "VALGallery needs candidates and targets, but targets are hidden: choose OriginalGallery",
                setting="data.gallery",
            )
        named = {name for record in queries for name in (record.reference, record.target)}
        return tuple(name for name in listed if name in named)


CATEGORIES = ("dress", "shirt", "toptee")
PLACES = ("", "fashionIQ_dataset", "fashion-iq", "fashioniq", "annotations")


class FashionIQCaptions(CaptionRecord):
    """The two captions of a query."""

    captions: list[str]

    @field_validator("captions")
    @classmethod
    def _check_two(cls, captions: list[str]) -> list[str]:
        if len(captions) != 2:
            raise Problem("must be a list of two captions", f", got {len(captions)}")
        return captions

    def texts(self) -> list[str]:
        """Return the texts of every `CaptionText`."""
        return [text for kind in CaptionText.__subclasses__() for text in kind().compose(self.captions)]


class FashionIQRecord(FashionIQCaptions):
    """A triplet of FashionIQ; records have no key."""

    candidate: ImageName
    target: ImageName | None = None

    @field_validator("target")
    @classmethod
    def _check_target(cls, target: str | None, info: ValidationInfo) -> str | None:
        check_other(target, info.data.get("candidate"), "candidate")
        return target


class FashionIQReader(BenchmarkReader):
    """FashionIQ; each category of a split is a split of its own, e.g. ``val_dress``.

    Looks for ``captions/cap.CATEGORY.SPLIT.json`` and ``image_splits/split.CATEGORY.SPLIT.json`` in ``root`` and its
    sub-folders fashionIQ_dataset, fashion-iq, fashioniq and annotations, and for the images in ``images`` or
    ``image_data``, with or without a sub-folder per category, as .jpg or .png.

    Scored by recall@10 and recall@50 within the category, and their mean over both and all categories:
    ``val_mean_recall``. Many of the images have disappeared from the web. Training and evaluation refuse to start
    without them, and name them, unless ``allow_missing`` is set.

    The arguments are explained in `data_modules.benchmarks.FashionIQ`.
    """

    benchmark = "fashioniq"
    expected: ClassVar[Counts] = {
        "train_dress": {"queries": 5_985, "gallery": 11_452},
        "train_shirt": {"queries": 5_988, "gallery": 19_036},
        "train_toptee": {"queries": 6_027, "gallery": 16_121},
        "val_dress": {"queries": 2_017, "gallery": 3_817},
        "val_shirt": {"queries": 2_038, "gallery": 6_346},
        "val_toptee": {"queries": 1_961, "gallery": 5_373},
        "test_dress": {"queries": 2_024, "gallery": 3_818},
        "test_shirt": {"queries": 2_038, "gallery": 6_346},
        "test_toptee": {"queries": 2_056, "gallery": 5_374},
    }
    captions = FashionIQCaptions

    def __init__(
        self,
        root: str | Path,
        train_categories: Sequence[str] = CATEGORIES,
        query_text: CaptionText | None = None,
        train_text: CaptionText | None = None,
        gallery: CategoryGallery | None = None,
        exclude_reference: bool = False,
    ) -> None:
        super().__init__(root)
        chosen = list(train_categories)
        if not chosen or not set(chosen) <= set(CATEGORIES) or len(set(chosen)) < len(chosen):
            raise InputError(
                f"expected some of {', '.join(CATEGORIES)}, got {shown(chosen)}",
                setting="data.train_categories",
            )
        self.train_categories = tuple(train_categories)
        self.query_text = FirstAndSecond() if query_text is None else query_text
        self.train_text = FirstAndSecond() if train_text is None else train_text
        self.gallery = OriginalGallery() if gallery is None else gallery
        self.exclude_reference = exclude_reference

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        return [self.root / place / name for place in PLACES for name in ("images", "image_data", "")]

    def read_training(self, split: str) -> TrainingSet:
        """Return the triplets of all training categories of a split, with only the images that they name."""
        records: list[QueryRecord] = []
        paths: dict[str, str] = {}
        files: list[Path] = []
        for category in self.train_categories:
            file, _ = self._open(category, split)
            file.require("target", lambda record: record.target, ": there is nothing to train on")
            for view in self._queries(file, self.train_text):
                records += view
            for _, record in file.items():
                for name in (record.candidate, record.target):
                    paths.setdefault(name, image_path(category, name))
            files.append(file.path)
        listed = ", ".join(path.name for path in files)
        return TrainingSet(tuple(records), paths, f"{files[0].parent} ({listed})")

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a category's split; without any ``target`` its labels are hidden."""
        stage, _, category = split.rpartition("_")
        if category not in CATEGORIES or not stage:
            raise InputError(
                f"FashionIQ has splits like val_dress, val_shirt and val_toptee, got {shown(split)}",
                setting="data.split",
            )
        file, names = self._open(category, stage)
        file.require_all_or_none("target", lambda record: record.target)
        views = self._queries(file, self.query_text)
        queries = views[0]
        gallery = self.gallery.choose(names, queries)
        index = positions_of(gallery)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=gallery,
            query_ids=tuple(record.id for record in queries),
            targets=tuple(() if record.target is None else (index[record.target],) for record in queries),
            references=tuple(index[record.reference] for record in queries),
            exclude_reference=self.exclude_reference,
            query_views=len(views),
            metrics=(RecallAt(10), RecallAt(50), MeanOf("mean_recall", RecallAt(10), RecallAt(50))),
            averaged_as=stage,
            headline="mean_recall",
            version=self.protocol_version,
            options={"query_text": self.query_text.template, "gallery_choice": type(self.gallery).__name__},
        )
        paths = {name: image_path(category, name) for name in gallery}
        return Evaluation(protocol, tuple(record for view in views for record in view), paths)

    def _open(self, category: str, stage: str) -> tuple[AnnotationFile[FashionIQRecord], list[str]]:
        """Return a caption file, and the names of all images of its split."""
        listed_in = self._find_file("image_splits", "split", category, stage)
        names = read_names(listed_in)
        captions = self._find_file("captions", "cap", category, stage)
        context = Listed(set(names), listed_in)
        return AnnotationFile(captions, FashionIQRecord, context=context, report=self.report), names

    @staticmethod
    def _queries(file: AnnotationFile[FashionIQRecord], text: CaptionText) -> list[list[QueryRecord]]:
        """Return the queries of a caption file, once per text of a query."""
        views: list[list[QueryRecord]] = [[] for _ in text.orders]
        for position, record in file.items():
            for view, caption in zip(views, text.compose(record.captions), strict=True):
                origin = file.origin(position)
                view.append(QueryRecord(record.candidate, caption, target=record.target, id=position, origin=origin))
        return views

    def _find_file(self, folder: str, prefix: str, category: str, stage: str) -> Path:
        places = [self.root / place / folder for place in PLACES]
        return find_file(f"{prefix}.{category}.{{split}}.json", stage, places, "FashionIQ")


def image_path(category: str, name: str) -> str:
    """Return where an image lies below the folder of images, if that has a folder for each category."""
    return f"{category}/{name}.jpg"
