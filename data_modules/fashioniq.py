"""FashionIQ: dresses, shirts and tops described by how they differ (Wu et al., CVPR 2021).

What published FashionIQ figures differ in: the text of a query, and the gallery of a category.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.evaluation.metrics import MeanOf, RecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.base import CompositionDataModule, Evaluation, TrainingSet
from data_modules.reading.annotations import KeylessFile, join_sources, read_json, shorten
from data_modules.records import QueryRecord


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

    Raises ValueError for queries whose targets are hidden.
    """

    def choose(self, listed: Sequence[str], queries: Sequence[QueryRecord]) -> tuple[str, ...]:
        if any(record.target is None for record in queries):
            raise ValueError(
                "VALGallery needs candidates and targets, but targets are hidden: set --data.gallery=OriginalGallery"
            )
        named = {name for record in queries for name in (record.reference, record.target)}
        return tuple(name for name in listed if name in named)


CATEGORIES = ("dress", "shirt", "toptee")
PLACES = ("", "fashionIQ_dataset", "fashion-iq", "fashioniq", "annotations")


class FashionIQ(CompositionDataModule):
    """FashionIQ; each category of a split is a split of its own, e.g. ``val_dress``.

    Looks for ``captions/cap.CATEGORY.SPLIT.json`` and ``image_splits/split.CATEGORY.SPLIT.json`` in ``root`` and its
    sub-folders fashionIQ_dataset, fashion-iq, fashioniq and annotations, and for the images in ``images`` or
    ``image_data``, with or without a sub-folder per category, as .jpg or .png.

    Scored by recall@10 and recall@50 within the category, and their mean over both and all categories:
    ``val_mean_recall``. Many of the images have disappeared from the web. Training and evaluation refuse to start
    without them, and name them, unless ``allow_missing`` is set.

    Args:
        root: folder with annotations and images.
        train_categories: categories to train on.
        val_splits: splits scored by ``validate``, and during ``fit``.
        test_splits: splits scored by ``test``, and ranked by ``predict``. The targets of test are hidden: published
            figures are those of the validation splits.
        query_text: FirstAndSecond, SecondAndFirst or BothOrders, for evaluation.
        train_text: the same for training; BothOrders trains on each triplet twice in an epoch.
        gallery: OriginalGallery or VALGallery.
        exclude_reference: take the reference out of the gallery; most published figures keep it in.
        options: see CompositionDataModule.
    """

    benchmark = "fashioniq"

    def __init__(
        self,
        root: str | Path,
        train_categories: Sequence[str] = CATEGORIES,
        val_splits: Sequence[str] = ("val_dress", "val_shirt", "val_toptee"),
        test_splits: Sequence[str] = ("test_dress", "test_shirt", "test_toptee"),
        query_text: CaptionText = FirstAndSecond(),  # noqa: B008  (immutable; named in the saved config)
        train_text: CaptionText = FirstAndSecond(),  # noqa: B008
        gallery: CategoryGallery = OriginalGallery(),  # noqa: B008
        exclude_reference: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root=root, val_splits=val_splits, test_splits=test_splits, **options)
        if not train_categories or not set(train_categories) <= set(CATEGORIES):
            raise ValueError(f"--data.train_categories must be some of {CATEGORIES}, got {list(train_categories)}")
        self.train_categories = tuple(train_categories)
        self.query_text = query_text
        self.train_text = train_text
        self.gallery = gallery
        self.exclude_reference = exclude_reference

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        return [self.root / place / name for place in PLACES for name in ("images", "image_data", "")]

    def read_training(self) -> TrainingSet:
        """Return the triplets of all training categories, with only the images that they name."""
        records: list[QueryRecord] = []
        paths: dict[str, str] = {}
        files: list[KeylessFile] = []
        for category in self.train_categories:
            file, views = self._read_records(category, "train", self.train_text, sum(file.size for file in files))
            for position, record in enumerate(views[0]):
                if record.target is None:
                    file.fail(position, "target", "is missing: there is nothing to train on")
                for name in (record.reference, record.target):
                    paths.setdefault(name, image_path(category, name))
            records += [record for view in views for record in view]
            files.append(file)
        names = ", ".join(file.path.name for file in files)
        return TrainingSet(tuple(records), paths, join_sources(f"{files[0].path.parent} ({names})", files))

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a category's split; without any ``target`` its labels are hidden."""
        stage, _, category = split.rpartition("_")
        if category not in CATEGORIES or not stage:
            raise ValueError(
                f"FashionIQ has splits like val_dress, val_shirt and val_toptee, got {split!r}: "
                "change --data.val_splits or --data.test_splits"
            )
        file, views = self._read_records(category, stage, self.query_text)
        queries = views[0]
        for position, record in enumerate(queries):
            if (record.target is None) != (queries[0].target is None):
                file.fail(position if record.target is None else 0, "target", "is missing, but other records have it")
        gallery = self.gallery.choose(self._read_names(category, stage)[0], queries)
        index = {name: number for number, name in enumerate(gallery)}
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=gallery,
            query_ids=file.ids,
            targets=tuple(() if record.target is None else (index[record.target],) for record in queries),
            references=tuple(index[record.reference] for record in queries),
            exclude_reference=self.exclude_reference,
            query_views=len(views),
            metrics=(RecallAt(10), RecallAt(50), MeanOf("mean_recall", RecallAt(10), RecallAt(50))),
            averaged_as=stage,
            headline="mean_recall",
            options={"query_text": self.query_text.template, "gallery_choice": type(self.gallery).__name__},
        )
        paths = {name: image_path(category, name) for name in gallery}
        return Evaluation(protocol, tuple(record for view in views for record in view), paths, file.source)

    def _read_records(
        self, category: str, stage: str, text: CaptionText, first_id: int = 0
    ) -> tuple[KeylessFile, list[list[QueryRecord]]]:
        """Return a caption file and its queries, once per text of a query."""
        names, listed_in = self._read_names(category, stage)
        file, known = KeylessFile(self._find_file("captions", "cap", category, stage)), set(names)
        views: list[list[QueryRecord]] = [[] for _ in text.orders]
        for position in range(len(file)):
            reference = file.get_image(position, "candidate", known, listed_in)
            target = file.get_optional(position, "target", str)
            if target is not None and file.get_image(position, "target", known, listed_in) == reference:
                file.fail(position, "target", f"is the candidate itself: {shorten(target)}")
            count = len(file.get(position, "captions", list))
            if count != 2:
                file.fail(position, "captions", f"must be a list of two captions, got {count}")
            captions = [file.get(position, f"captions.{number}", str) for number in range(2)]
            for view, caption in zip(views, text.compose(captions), strict=True):
                view.append(QueryRecord(reference, caption, target=target, id=first_id + file.ids[position]))
        return file, views

    def _read_names(self, category: str, stage: str) -> tuple[list[str], Path]:
        """Return the names of all images of a split file, and the file."""
        file = self._find_file("image_splits", "split", category, stage)
        names = read_json(file, list)
        seen: set[str] = set()
        for position, name in enumerate(names):
            if not isinstance(name, str) or name in seen:
                problem = "is listed before" if isinstance(name, str) else "must be a string"
                raise ValueError(f"image {position} of {file}: its name {problem}, got {shorten(name)}")
            seen.add(name)
        if not names:
            raise ValueError(f"{file}: lists no images")
        return names, file

    def _find_file(self, folder: str, prefix: str, category: str, stage: str) -> Path:
        name = f"{prefix}.{category}.{stage}.json"
        places = [self.root / place / folder for place in PLACES]
        for place in places:
            if (place / name).is_file():
                return place / name
        raise FileNotFoundError(
            f"no file {name} in {', '.join(map(str, places))}: set --data.root to the folder of FashionIQ, or "
            "--data.val_splits, --data.test_splits and --data.train_categories to what is there"
        )


def image_path(category: str, name: str) -> str:
    """Return where an image lies below the folder of images, if that has a folder for each category."""
    return f"{category}/{name}.jpg"
