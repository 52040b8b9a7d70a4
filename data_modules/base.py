"""What all data modules share: loaders, protocols, and single queries and images for callbacks."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from contextcir.batch import QueryBatch
from contextcir.checks import whole
from contextcir.embeddings import GalleryStore
from contextcir.errors import InputError, shown
from contextcir.evaluation.protocol import Protocol
from contextcir.phrases.sources import PhraseSource
from contextcir.weights import harmless, read_weights
from data_modules.arrow.setting import RecordsSetting
from data_modules.columns import digest_of, filled
from data_modules.loading.ahead import AheadLoader, new_loader
from data_modules.loading.cache import CacheSetting
from data_modules.loading.distinct import Collate
from data_modules.loading.features import FeatureSetting
from data_modules.loading.gallery import GallerySampler, gallery_source
from data_modules.loading.images import ImagePlace, ImageStore
from data_modules.loading.missing import Part, drop_missing, find_missing
from data_modules.loading.phrases import (
    check_phrases,
    clauses_to_read,
    phrases_to_train_on,
    reads_clauses,
    with_phrases,
)
from data_modules.loading.rows import GalleryRows, ImageRows, NamedTensors, QueryRows, TripletRows
from data_modules.loading.sampling import (
    ResumableLoader,
    ResumableSampler,
    SeededTriplets,
    Shuffled,
    TrainingOrder,
    batches_done,
)
from data_modules.loading.triplets import (
    GalleryDataset,
    Preprocess,
    QueryDataset,
    collate_queries,
    collate_triplets,
)
from data_modules.reading.query_subsets import QuerySubsets
from data_modules.reading.reader import BenchmarkReader
from data_modules.reading.splits import checked_splits, split_chosen_by
from data_modules.records import Evaluation, QueryRecord, TrainingSet
from data_modules.shards.reading import shards_at

MOST_WORKERS = 1024  # per rank; no machine has more to give
MOST_NEGATIVES = 1000  # of a triplet: they are encoded in every step

__all__ = ["CompositionDataModule", "Evaluation", "TrainingSet"]


class CompositionDataModule(LightningDataModule):
    """A benchmark for training and evaluation: any `BenchmarkReader` reads the files, everything else is here.

    Annotations are read when a stage first needs them; images only when they are loaded, so that protocols can be had
    without any. That all of them exist is made sure of before anything is trained on or scored.

    Args:
        reader: reads the annotations, and knows where the images are.
        train_split: split to train on.
        val_splits: splits scored by ``validate``, and during ``fit``; one protocol each.
        test_splits: splits scored by ``test``, and ranked by ``predict``; one protocol each.
        batch_size: training triplets per batch and rank.
        eval_batch_size: queries or gallery images per batch and rank.
        num_workers: processes that load images, per rank; 0 loads them in the main process.
        order: in which order an epoch goes through the triplets: Shuffled, GroupedByImageSet or GroupedByReference.
        preprocess: PIL image to tensor (3, S, S); None for the ``preprocess`` of the model.
        allow_missing: leave out images that do not exist, with the triplets and queries that need them, and warn;
            otherwise they are an error. Figures on a part of a benchmark are not comparable.
        allow_links: let links lead out of the folder of the benchmark, for sets whose images, or whose folders of
            images, are links to somewhere else.
        phrases: noun phrases of captions whose records name none: BankPhrases, ParsedPhrases or BankThenParser.
        features: null to encode images in every step; ``auto`` to read what a frozen image tower makes of them from
            disk, where it is computed once for all epochs and runs (a trained tower encodes images as before); or the
            folder to keep that in, instead of that in CIR_FEATURES, or ``features`` among the runs.
        subsets: groups of queries that every metric is repeated for: files with lists of query ids, by name
            (`QuerySubsets`).
        negatives: how many hard negatives of a training triplet are loaded with it, at most, drawn anew each time.
        cache: null to decode images each time; a folder to keep their pixels in, resized and cropped, for all epochs
            and runs; ``auto`` for a folder beside the images, if the disk has room.
        augmentation: PIL image to tensor (3, S, S) for training images, random crops for instance; None for the
            preprocess. Training images are then decoded each time.
        reduced: with an augmentation and a cache, keep copies of the training images that have at most as many pixels
            as a square of this side, and augment these; larger images lose detail. None to augment files.
        records: null to hold training records in memory; a folder to keep them in as Arrow files (extra ``parquet``)
            that all processes map; ``auto`` for one beside the annotations if these have more than 64 MB.
        shards: null for image files; the folder, or the address of an object store, of the images in tar shards
            (`python -m experiments.shards`).
    """

    usual_features: str | None = None

    def __init__(
        self,
        reader: BenchmarkReader,
        train_split: str = "train",
        val_splits: Sequence[str] = ("val",),
        test_splits: Sequence[str] = ("test",),
        batch_size: int = 128,
        eval_batch_size: int = 256,
        num_workers: int = 4,
        order: TrainingOrder = Shuffled(),  # noqa: B008  (immutable; spelled out so that the saved config names it)
        preprocess: Preprocess | None = None,
        allow_missing: bool = False,
        allow_links: bool = False,
        phrases: PhraseSource | None = None,
        features: str | None = None,
        subsets: dict[str, str] | None = None,
        negatives: int = 4,
        cache: str | None = None,
        augmentation: Preprocess | None = None,
        reduced: int | None = None,
        records: str | None = None,
        shards: str | None = None,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.root = reader.root
        self.benchmark = reader.benchmark
        self.train_split = train_split
        self.splits = {
            "val": checked_splits("val_splits", val_splits),
            "test": checked_splits("test_splits", test_splits),
        }
        self.splits["predict"] = self.splits["test"]
        checked_splits("train_split", [train_split])
        self.batch_size = whole(batch_size, 1, "data.batch_size")
        self.eval_batch_size = whole(eval_batch_size, 1, "data.eval_batch_size")
        self.num_workers = whole(num_workers, 0, "data.num_workers", most=MOST_WORKERS)
        self.order = order
        self.preprocess = preprocess
        self.allow_missing = allow_missing
        reader.allow_links = reader.allow_links or allow_links
        reader.shards = reader.shards or shards_at(shards)
        self.phrases = phrases
        self.features = FeatureSetting(self.usual_features if features is None else features)
        self.subsets = QuerySubsets(subsets)
        self.negatives = whole(negatives, 0, "data.negatives", most=MOST_NEGATIVES)
        self.cache = CacheSetting(cache, reduced, augmentation is not None)
        self.augmentation = augmentation
        self.records = RecordsSetting(records)
        self.gallery_store: GalleryStore | None = None  # set by the callback StoreGallery: embeddings from disk
        self.allow_zero_length_dataloader_with_multiple_devices = True  # of a gallery with fewer images than ranks
        self._follow_model = preprocess is None
        self._training: TrainingSet | None = None
        self._evaluations: dict[str, Evaluation] = {}
        # by split; None for the training set
        self._stores: dict[str | None, ImageStore] = {}
        self._missing: dict[str | None, int] = {}
        self._rows: dict[tuple[int, int], ImageRows] = {}  # by the ids of store and features

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """Return the data module of a checkpoint, as Lightning does, but from a file here, of which nothing is run.

        Raises:
            MissingFileError: if there is no such file.
            InputError: if it is no checkpoint.
        """
        file = read_weights(checkpoint_path, "checkpoint_path").path
        with harmless():
            return super().load_from_checkpoint(file, *args, **{**options, "weights_only": True})

    def read_training(self) -> TrainingSet:
        """Return the training triplets."""
        with split_chosen_by("train_split"):
            return self.records.training(self.reader, self.train_split)

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split."""
        with split_chosen_by("val_splits" if split in self.splits["val"] else "test_splits"):
            return self.reader.read_evaluation(split)

    def setup(self, stage: str) -> None:
        """Read the annotations of a stage (fit, validate, test or predict); under a Trainer, look for its images.

        Raises:
            InputError: if a file is missing or wrong, the stage has no split or labels that it needs are hidden, or
                there are fewer triplets than one batch on every rank needs.
        """
        stage = str(getattr(stage, "value", stage))  # Trainers give an enumeration, of which f-strings write the name
        scored = {"fit": "val", "validate": "val"}.get(stage, stage)
        if stage != "fit" and stage in (*self.splits, "validate") and not self.splits[scored]:
            problem = f"{stage} has no split to {'rank' if stage == 'predict' else 'score'}: name at least one"
            raise InputError(problem, setting=self.split_setting(scored))
        self.reader.check_root()
        if self._follow_model and self.trainer is not None:
            self.preprocess = self.trainer.lightning_module.preprocess
        if stage == "fit" and self._training is None:
            self._training = self.read_training()
        scores = stage != "predict" and (stage != "fit" or self.trainer is None or self.trainer.limit_val_batches != 0)
        for evaluation in self._evaluations_of(scored):
            protocol = evaluation.protocol
            if scores and not protocol.labelled:
                raise InputError(
                    f"the labels of {protocol.benchmark} {protocol.split} are hidden: no record of "
                    f"{evaluation.records[0].origin.file} has a target, so {stage} has nothing to score; use predict, "
                    "or choose a split with labels",
                    setting=self.split_setting(scored),
                )
        if self.trainer is not None:  # before hours of training, not after
            if stage == "fit" and self._training is not None and self.phrases is None:
                concept = getattr(self.trainer.lightning_module, "concept", None)
                phrases_to_train_on(self._training, self._evaluations_of("val"), concept)
            if reads_clauses(self.trainer.lightning_module):
                trained = [self._training] if stage == "fit" and self._training is not None else []
                clauses_to_read([*trained, *self._evaluations_of(scored)], self.phrases)
            if stage == "fit":
                self._check_batch(self._complete_training())
            if stage != "fit" or self.trainer.limit_val_batches:
                self._complete_evaluations(scored)

    def split_setting(self, stage: str) -> str:
        """Return the argument that chooses the splits of ``val``, ``test`` or ``predict``."""
        return "data.val_splits" if stage == "val" else "data.test_splits"

    def protocols(self, stage: str) -> list[Protocol]:
        """Return the protocols of ``val``, ``test`` or ``predict``, in the order of the loaders."""
        return [evaluation.protocol for evaluation in self._evaluations_of(stage)]

    def missing_images(self, split: str) -> int:
        """Return how many images of an evaluated split were left out, see ``allow_missing``."""
        return self._missing.get(split, 0)

    def query_batch(self, stage: str, protocol_index: int, indices: Sequence[int]) -> QueryBatch:
        """Return some queries of a protocol, as its loader would."""
        queries = self._queries(self._evaluations_of(stage)[protocol_index])
        return collate_queries([queries[index] for index in indices])

    def reference_image(self, stage: str, protocol_index: int, index: int) -> Image.Image:
        """Return the reference image of a query as it is on disk."""
        return self._queries(self._evaluations_of(stage)[protocol_index]).image(index, "reference")

    def target_image(self, stage: str, protocol_index: int, index: int) -> Image.Image | None:
        """Return the (first) target image of a query as it is on disk, None where labels are hidden."""
        return self._queries(self._evaluations_of(stage)[protocol_index]).image(index, "target")

    def gallery_image(self, stage: str, protocol_index: int, index: int) -> Image.Image:
        """Return an image of the gallery as it is on disk."""
        evaluation = self._evaluations_of(stage)[protocol_index]
        images = self._images(evaluation.protocol.split, evaluation.image_paths)
        return images.load(evaluation.protocol.gallery[index], f"image {index} of the gallery")

    def query_records(self, stage: str, protocol_index: int) -> Sequence[QueryRecord]:
        """Return the queries of a protocol as its loader has them: each with its noun phrases, view after view."""
        return with_phrases(self._evaluations_of(stage)[protocol_index].records, self.phrases, self._needs_clauses())

    def image_places(self, stage: str, protocol_index: int, names: Iterable[str]) -> dict[str, ImagePlace]:
        """Return where the images of a protocol lie, by name."""
        evaluation = self._evaluations_of(stage)[protocol_index]
        images = self._images(evaluation.protocol.split, evaluation.image_paths)
        return {name: images.place(name) for name in names}

    def train_dataloader(self) -> DataLoader:
        """Return the loader of `TripletBatch`es of this rank.

        Raises:
            MissingFileError: if the images are not found, or one is missing.
            InputError: if there are fewer triplets than one batch on every rank needs.
        """
        if self._training is None:
            self.setup("fit")
        records, paths, _, image_sets = self._complete_training()
        self._check_batch(self._training)
        replicas, rank = self._share()
        with_spans = with_phrases(records, self.phrases, self._needs_clauses())
        images, preprocess = self._images(None, paths), self.augmentation or self._checked_preprocess()
        rows = None if self.augmentation else self._rows_of(images, image_sets)
        images = self.cache.to_augment(images, self.root) if rows is None else images
        hard = self.negatives if filled(records, "negatives") else 0
        if rows is None:
            dataset = SeededTriplets(with_spans, images, preprocess, hard)
        else:
            dataset = TripletRows(with_spans, rows, hard)
        sampler = ResumableSampler(self.order, self.order.groups(records), replicas, rank)
        lasting = self.num_workers > 0 and (rows is None or rows.decodes)
        options = {"sampler": sampler, "drop_last": True, "persistent_workers": lasting}
        collate = collate_triplets if rows is None else rows.collate(collate_triplets)
        loader = self._loader(ResumableLoader, dataset, collate, batch_size=self.batch_size, **options)
        loader.batches_done, loader.digest = partial(batches_done, self), digest_of(records)
        return loader

    def _check_batch(self, training: TrainingSet) -> None:
        """Raise InputError if there is no whole batch: an incomplete one is dropped."""
        replicas, _ = self._share()
        if len(training.records) < self.batch_size * replicas:
            raise InputError(
                f"{training.file} holds {len(training.records)} triplets, fewer than a batch of {self.batch_size} on "
                f"each of {replicas} ranks",
                setting="data.batch_size",
            )

    def val_dataloader(self) -> list[DataLoader]:
        """Return the loaders of the gallery and the queries of each protocol, in turn."""
        return self._evaluation_loaders("val")

    def test_dataloader(self) -> list[DataLoader]:
        """Return the loaders of the gallery and the queries of each protocol, in turn."""
        return self._evaluation_loaders("test")

    def predict_dataloader(self) -> list[DataLoader]:
        """Return the loaders of the gallery and the queries of each protocol, in turn."""
        return self._evaluation_loaders("predict")

    def _evaluations_of(self, stage: str) -> list[Evaluation]:
        if stage not in self.splits:
            raise InputError(f"expected stage {', '.join(self.splits)}, got {shown(stage)}")
        for split in self.splits[stage]:
            if split not in self._evaluations:
                evaluation = self.read_evaluation(split)
                self._evaluations[split] = evaluation._replace(protocol=self.subsets.applied(evaluation.protocol))
        if self.allow_missing:
            self._complete_evaluations(stage)
        return [self._evaluations[split] for split in self.splits[stage]]

    def _complete_evaluations(self, stage: str) -> None:
        """Make sure that all images of a stage exist, or take those away that do not."""
        for split in self.splits[stage]:
            self._evaluations[split] = self._complete(split, self._evaluations[split])

    def _complete_training(self) -> TrainingSet:
        """Make sure that all training images exist, or take the triplets away that need others."""
        self._training = self._complete(None, self._training)
        return self._training

    def _complete(self, split: str | None, part: Part) -> Part:
        if split not in self._missing:
            command = f"python -m experiments.check_data {self.benchmark} --root {self.root}"
            missing = find_missing(part, self._images(split, part.image_paths), command, self.allow_missing)
            part = drop_missing(part, missing)
            check_phrases(part, self.phrases, reads_clauses(getattr(self.trainer, "lightning_module", None)))
            self._missing[split] = len(missing)
        return part

    def _evaluation_loaders(self, stage: str) -> list[DataLoader]:
        loaders = []
        self.protocols(stage)
        self._complete_evaluations(stage)
        for evaluation in self._evaluations_of(stage):
            queries, protocol = self._queries(evaluation), evaluation.protocol
            gallery = GalleryDataset(protocol.gallery, queries.images, queries.preprocess)
            sampler = GallerySampler(len(gallery), *self._share())
            rows, collate = self._rows_of(queries.images), collate_queries
            if rows is not None:
                collate = rows.collate(collate_queries)
                queries = QueryRows(queries.records, rows)
                if rows.decodes or not self.gallery_store:
                    gallery = GalleryRows(gallery.names, rows)
            source = gallery_source(gallery, self.gallery_store, protocol.split)
            loaders.append(self._loader(*source, batch_size=self.eval_batch_size, sampler=sampler))
            loaders.append(self._loader(AheadLoader, queries, collate, batch_size=self.eval_batch_size))
        return loaders

    def _share(self) -> tuple[int, int]:
        """Return the number of ranks that share the data, and which of them this is."""
        sharding = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}
        return sharding.get("num_replicas", 1), sharding.get("rank", 0)

    def _queries(self, evaluation: Evaluation) -> QueryDataset:
        images = self._images(evaluation.protocol.split, evaluation.image_paths)
        records = with_phrases(evaluation.records, self.phrases, self._needs_clauses())
        return QueryDataset(records, images, self._checked_preprocess())

    def _needs_clauses(self) -> bool:
        return self.trainer is None or reads_clauses(getattr(self.trainer, "lightning_module", None))

    def _images(self, split: str | None, paths: Mapping[str, str]) -> ImageStore:
        """Return the images of a split, or of the training set."""
        if split not in self._stores:
            self._stores[split] = self.reader.find_images(self.train_split if split is None else split, paths)
        return self._stores[split]

    def _rows_of(self, images: ImageStore, image_sets: Sequence[Sequence[str]] = ()) -> NamedTensors | None:
        """Return the rows of images in the stored features, or their pixels; None where they are decoded each time."""
        stored = self.features.of(getattr(self.trainer, "lightning_module", None))
        if stored is None:
            return self.cache.of(images, self.root, self._checked_preprocess)
        key = id(images), id(stored)  # both live as long as the rows
        if key not in self._rows:
            self._rows[key] = ImageRows(images, self._checked_preprocess(), stored, image_sets)
        return self._rows[key]

    def _checked_preprocess(self) -> Preprocess:
        if self.preprocess is None:
            raise InputError(f"{type(self).__name__} has no preprocess: give it one, or set it up by a Trainer")
        return self.preprocess

    def _loader(self, kind: type[DataLoader], dataset: Dataset, collate_fn: Collate, **options: object) -> DataLoader:
        return new_loader(kind, dataset, self.trainer, self.num_workers, collate_fn=collate_fn, **options)
