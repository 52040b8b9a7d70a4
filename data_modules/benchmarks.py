"""The benchmarks as data modules: the settings of a run. What their files hold and how they are scored: their readers.

A benchmark needs no class of its own here to be trained on: `CompositionDataModule` takes any reader.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from contextcir.checks import one_of, whole
from contextcir.errors import InputError
from contextcir.processors import available_processors
from data_modules.base import CompositionDataModule
from data_modules.circo import CIRCOReader, QueryText, SharedConceptSentence
from data_modules.cirr import CIRRReader
from data_modules.cirr_mteb import MTEBCIRRReader
from data_modules.fashioniq import (
    CATEGORIES,
    CaptionText,
    CategoryGallery,
    FashionIQReader,
    FirstAndSecond,
    OriginalGallery,
)
from data_modules.genecis import TASKS, GeneCISReader
from data_modules.icir import ICIRReader
from data_modules.lasco import LaSCoReader
from data_modules.manifest import ManifestReader
from data_modules.patterncom import ATTRIBUTES, PatternComReader
from data_modules.pinpoint import PinPointReader
from data_modules.reading.splits import split_chosen_by
from data_modules.records import Evaluation, TrainingSet
from data_modules.scenes import ScenesReader
from data_modules.scenes.groups import MAX_EDITS
from data_modules.scenes.records import draw_base
from data_modules.scenes.writer import ADDED_SPLITS, VERSION, Size, require_scenes, write_scenes

CIRR_PROTOCOLS = ("official", "mteb")
USUAL_TRIPLETS, MOST_TRIPLETS = 7, 10  # of a reference of the scenes; 8.7 in the mean
COUNTED = 100  # references whose triplets are counted before they are drawn, at 0.05 s each


class CIRR(CompositionDataModule):
    """CIRR, and everything else in its format: see `CIRRReader`.

    Args:
        root: folder with annotations and images.
        test_splits: splits scored by ``test``, and ranked by ``predict``. The labels of test1 are hidden.
        protocol: official, or mteb for val as MTEB scores it: on 21,551 images, by nDCG@10 (`MTEBCIRRReader`).
        options: see CompositionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        test_splits: Sequence[str] = ("test1",),
        protocol: Literal["official", "mteb"] = "official",
        **options: Any,
    ) -> None:
        reader = {"official": CIRRReader, "mteb": MTEBCIRRReader}[one_of(protocol, CIRR_PROTOCOLS, "data.protocol")](
            root
        )
        super().__init__(reader, test_splits=test_splits, **options)


class CIRCO(CompositionDataModule):
    """CIRCO for validate, test and predict: see `CIRCOReader`. It has no training split.

    The labels of test are hidden, so ``test`` needs another split.

    Args:
        root: folder with annotations and images.
        query_text: RelativeCaption, SharedConceptMagicLens or SharedConceptSentence (of the ConText-CIR authors).
        exclude_reference: take the reference out of the gallery; the official metric keeps it in.
        options: see CompositionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        query_text: QueryText = SharedConceptSentence(),  # noqa: B008  (immutable; named in the saved config)
        exclude_reference: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(CIRCOReader(root, query_text, exclude_reference), train_split="train", **options)


class FashionIQ(CompositionDataModule):
    """FashionIQ: see `FashionIQReader`. Each category of a split is a split of its own, e.g. ``val_dress``.

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
        reader = FashionIQReader(root, train_categories, query_text, train_text, gallery, exclude_reference)
        super().__init__(reader, train_split="train", val_splits=val_splits, test_splits=test_splits, **options)


class LaSCo(CompositionDataModule):
    """LaSCo: see `LaSCoReader`.

    Args:
        root: folder with annotations and images.
        test_splits: splits scored by ``test``, and ranked by ``predict``; there is no test split of its own.
        exclude_reference: take the reference out of the gallery; by default it is kept in.
        options: see CompositionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        test_splits: Sequence[str] = ("val",),
        exclude_reference: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(LaSCoReader(root, exclude_reference), test_splits=test_splits, **options)


class GeneCIS(CompositionDataModule):
    """GeneCIS for validate, test and predict: see `GeneCISReader`. Its tasks are splits; none is one to train on.

    Args:
        root: folder with annotations and images.
        val_splits: tasks scored by ``validate``.
        test_splits: tasks scored by ``test``, and ranked by ``predict``.
        options: see CompositionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        val_splits: Sequence[str] = TASKS,
        test_splits: Sequence[str] = TASKS,
        **options: Any,
    ) -> None:
        reader = GeneCISReader(root)
        super().__init__(reader, train_split="train", val_splits=val_splits, test_splits=test_splits, **options)


class ICIR(CompositionDataModule):
    """i-CIR for validate, test and predict: see `ICIRReader`. It has one split, test, and none to train on.

    Args:
        root: folder with annotations and images.
        val_splits: splits scored by ``validate``.
        test_splits: splits scored by ``test``, and ranked by ``predict``.
        options: see CompositionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        val_splits: Sequence[str] = ("test",),
        test_splits: Sequence[str] = ("test",),
        **options: Any,
    ) -> None:
        super().__init__(ICIRReader(root), val_splits=val_splits, test_splits=test_splits, **options)


class PinPoint(CompositionDataModule):
    """PinPoint for validate, test and predict: see `PinPointReader`. It has one split, test, and none to train on.

    Args:
        root: folder with annotations and images.
        val_splits: splits scored by ``validate``.
        test_splits: splits scored by ``test``, and ranked by ``predict``.
        options: see CompositionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        val_splits: Sequence[str] = ("test",),
        test_splits: Sequence[str] = ("test",),
        **options: Any,
    ) -> None:
        super().__init__(PinPointReader(root), val_splits=val_splits, test_splits=test_splits, **options)


class PatternCom(CompositionDataModule):
    """PatternCom for validate, test and predict: see `PatternComReader`. Its attributes are splits.

    Args:
        root: folder of PatternNet.
        val_splits: attributes scored by ``validate``.
        test_splits: attributes scored by ``test``, and ranked by ``predict``.
        options: see CompositionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        val_splits: Sequence[str] = ATTRIBUTES,
        test_splits: Sequence[str] = ATTRIBUTES,
        **options: Any,
    ) -> None:
        super().__init__(PatternComReader(root), val_splits=val_splits, test_splits=test_splits, **options)


class Manifest(CompositionDataModule):
    """Triplets of one's own: see `ManifestReader`.

    Args:
        root: folder that image paths are relative to; images may also be in its folders ``images`` and ``img_raw``.
        file: manifest, relative to ``root``; ``{split}`` in it stands for the name of the split. None for the first of
            ``SPLIT.jsonl``, ``SPLIT.json``, ``manifest.jsonl`` and ``manifest.json`` that exists.
        gallery_file: JSON list of the image paths of the gallery, named likewise; None for all references and targets.
        name: of the benchmark in results, and of the set in a `Mixture`.
        exclude_reference: take the reference out of the gallery before ranking.
        recall_at: the k of recall@k.
        options: see CompositionDataModule.
    """

    reader: ManifestReader

    def __init__(
        self,
        root: str | Path,
        file: str | None = None,
        gallery_file: str | None = None,
        name: str = "manifest",
        exclude_reference: bool = False,
        recall_at: Sequence[int] = (1, 5, 10, 50, 100),
        **options: Any,
    ) -> None:
        super().__init__(ManifestReader(root, file, gallery_file, name, exclude_reference, recall_at), **options)

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split, which must not be what is trained on by another name."""
        if split != self.train_split and self._training is not None:
            with split_chosen_by("val_splits" if split in self.splits["val"] else "test_splits"):
                self.reader.check_not_trained_on(split, self._training.file)
        return super().read_evaluation(split)


class Scenes(CompositionDataModule):
    """Scenes, the benchmark that comes with the project: see `ScenesReader`.

    Args:
        root: folder of the benchmark.
        draw: draw what ``root`` lacks. Without this word a benchmark that is not there is an error: the name of the
            folder may be mistyped.
        seed: of the benchmark; the same seed gives the same files.
        size: how much to draw.
        min_concepts: fewest edits that the caption of a training triplet asks for.
        max_concepts: most edits that the caption of a training triplet asks for; what is evaluated stays the same, so
            that 2 trains on captions of one and two edits for a test on three and four.
        version: of the benchmark, 1 or 2. Version 2 has all files of version 1, unchanged, and more: its folder serves
            as one of version 1 as well, and drawing completes a folder of version 1.
        val_splits: splits scored by ``validate``, and during ``fit``.
        test_splits: splits scored by ``test``, and ranked by ``predict``; None for all that the version has: test,
            test_unseen, circo_test, and from version 2 on hard.
        options: see CompositionDataModule.
    """

    reader: ScenesReader

    def __init__(
        self,
        root: str | Path,
        draw: bool = False,
        seed: int = 0,
        size: Size = Size(),  # noqa: B008  (immutable; spelled out so that the saved config names it)
        min_concepts: int = 1,
        max_concepts: int = MAX_EDITS,
        version: int = VERSION,
        val_splits: Sequence[str] = ("val", "circo_val"),
        test_splits: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        reader = ScenesReader(root, min_concepts, max_concepts, version)
        if test_splits is None:
            test_splits = ("test", "test_unseen", "circo_test", *(ADDED_SPLITS if version > 1 else ()))
        super().__init__(reader, val_splits=val_splits, test_splits=test_splits, **options)
        self.draw = draw
        self.seed = whole(seed, 0, "data.seed")
        self.size = size
        self.version = version

    def prepare_data(self) -> None:
        """Make sure that the benchmark is there; Lightning calls this in one process of each node."""
        if self.draw:
            self._check_batch_of_scenes()
            write_scenes(self.root, self.seed, self.size, available_processors(), self.version)
        else:
            require_scenes(self.root, self.seed, self.size, self.version)

    def _check_batch_of_scenes(self) -> None:
        """Raise InputError if the scenes to be drawn are too few for a batch: before hours of drawing, not after."""
        if self.trainer is None or not self.trainer.training:
            return
        replicas, _ = self._share()
        needed, references = self.batch_size * replicas, self.size.train_references
        triplets = MOST_TRIPLETS * references
        if references <= COUNTED and (self._asked or needed > USUAL_TRIPLETS * references):
            drawn = (draw_base(self.seed, "train", number) for number in range(references))
            triplets = sum(self.reader.wants(record["concepts"]) for base in drawn for record in base.records)
        if triplets < needed:
            raise InputError(
                f"scenes of {references} references have at most {triplets} training triplets{self._asked}, fewer than "
                f"a batch of {self.batch_size} on each of {replicas} ranks",
                setting="data.batch_size",
            )

    @property
    def _asked(self) -> str:
        """Say which triplets are trained on; "" for all."""
        low, high = self.reader.min_concepts, self.reader.max_concepts
        return "" if (low, high) == (1, MAX_EDITS) else f" of {low} to {high} concepts (data.max_concepts)"

    def _check_batch(self, training: TrainingSet) -> None:
        """Raise InputError if there is no whole batch, which names what leaves triplets out."""
        super()._check_batch(training._replace(file=training.file + (f" (those{self._asked})" if self._asked else "")))

    def member_roles(self, split: str) -> dict[int, dict[str, str]]:
        """Return, by query id, why each image is in the query's set; {} for splits that do not say so."""
        return self.reader.read_roles(split)
