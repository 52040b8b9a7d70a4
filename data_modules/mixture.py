"""Several training sets in one run, by concatenation or by weights; evaluation from one of them."""

import math
import os
import random
from array import array
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contextcir.checks import between
from contextcir.errors import InputError, MissingFileError, shown
from contextcir.evaluation.protocol import WORD
from data_modules.base import CompositionDataModule
from data_modules.columns import SET, GroupColumn, LazyRecords, MixedRecords
from data_modules.loading.images import ImageStore
from data_modules.loading.sampling import TrainingOrder
from data_modules.records import Evaluation, QueryRecord, TrainingSet
from data_modules.shards.reading import shards_at

MOST_WEIGHT = 1e9  # of a set, so that sums and shares are exact enough


class Mixture(CompositionDataModule):
    """Training triplets of several sets; ``validate``, ``test`` and ``predict`` are those of one of them.

    Without weights, an epoch goes once through the triplets of all sets. With weights it is as long, but every set has
    its share of it: a set that is smaller than its share is gone through several times, and of a larger one other
    triplets are drawn in every epoch. A set of weight 0 is not trained on; it may be the one that is evaluated.

    A file that two sets refer to is one image in the contrastive loss, never its own negative; files with equal names
    in different folders are different images. The loaders are set here: the sets' own batch_size, eval_batch_size,
    num_workers, order, preprocess, phrases, subsets and negatives do not count. What is said of ``records`` and
    ``shards`` here goes for all sets that say nothing of them.

    Args:
        sets: data modules, each under a name of its own: ``cirr``, ``lasco``, ..., and what a Manifest's ``name`` says.
        weights: share of each set in an epoch, in any unit; None to concatenate the sets.
        evaluate: name of the set whose splits are scored and predicted; None for the first.
        options: see CompositionDataModule.

    Raises:
        InputError: if two sets have one name, none has that of ``evaluate``, or the weights do not fit the sets.
    """

    def __init__(
        self,
        sets: list[CompositionDataModule],
        weights: list[float] | None = None,
        evaluate: str | None = None,
        **options: Any,
    ) -> None:
        self.sets = _by_name(sets)
        if evaluate is not None and evaluate not in self.sets:
            raise InputError(f"expected one of {', '.join(self.sets)}, got {shown(evaluate)}", setting="data.evaluate")
        self.evaluated = self.sets[evaluate or next(iter(self.sets))]
        self.weights = dict.fromkeys(self.sets, 1.0) if weights is None else _checked(weights, list(self.sets))
        super().__init__(
            self.evaluated.reader,
            train_split=self.evaluated.train_split,
            val_splits=self.evaluated.splits["val"],
            test_splits=self.evaluated.splits["test"],
            **options,
        )
        for part in self.sets.values():  # those that are trained on have images of their own
            part.records = part.records if part.records.given else self.records
            part.reader.shards = part.reader.shards or shards_at(options.get("shards"))
            part.reader.allow_links = part.reader.allow_links or bool(options.get("allow_links"))
        if weights is not None:
            self.order = WeightedOrder(self.order, self.weights)

    def prepare_data(self) -> None:
        """Prepare every set; Lightning calls this in one process of each node."""
        for part in self.sets.values():
            part.prepare_data()

    def read_training(self) -> TrainingSet:
        """Return the triplets of all sets that have a weight; names of images begin with that of their set."""
        records: dict[str, Sequence[QueryRecord]] = {}
        paths: dict[str, str] = {}
        files: list[str] = []
        members: list[tuple[str, ...]] = []
        for name, part in self.sets.items():
            if not self.weights[name]:
                continue
            try:
                training = part.read_training()
            except InputError as error:
                problem = f"set {name} of the mixture: {error.without_setting()}"
                kind = MissingFileError if isinstance(error, MissingFileError) else InputError
                raise kind(problem, setting="data.sets") from None
            records[name] = training.records
            paths |= {f"{name}:{image}": path for image, path in training.image_paths.items()}
            files.append(training.file)
            members += [tuple(f"{name}:{image}" for image in one) for one in training.image_sets]
        mixed = MixedRecords(records)
        lazy = any(isinstance(part, LazyRecords) for part in records.values())
        return TrainingSet(mixed if lazy else tuple(mixed), paths, " and ".join(files), tuple(members))

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split of the evaluated set."""
        return self.evaluated.read_evaluation(split)

    def split_setting(self, stage: str) -> str:
        """Return the argument that chooses the splits: they are those of a set."""
        return "data.sets"

    def _images(self, split: str | None, paths: Mapping[str, str]) -> ImageStore:
        if split is not None:
            return self.evaluated._images(split, paths)
        if split not in self._stores:
            paths_of: dict[str, dict[str, str]] = {}
            for name, path in paths.items():
                part, _, image = name.partition(":")
                paths_of.setdefault(part, {})[image] = path
            self._stores[None] = MixedStore({name: self.sets[name]._images(None, paths_of[name]) for name in paths_of})
        return self._stores[None]


class WeightedOrder(TrainingOrder):
    """Draws an epoch's triplets from the sets by their weights; another order arranges the drawn ones.

    Args:
        order: what order the drawn triplets are in; its seed is that of the draw too.
        weights: share of every set, by name, in any unit.
    """

    def __init__(self, order: TrainingOrder, weights: Mapping[str, float]) -> None:
        super().__init__(order.seed)
        self.order = order
        self.weights = weights

    def group(self, record: QueryRecord) -> Hashable | None:
        """Return the set of a triplet, and its group in the order of the drawn triplets."""
        return record.reference.partition(":")[0], self.order.group(record)

    def groups(self, records: Sequence[QueryRecord]) -> Sequence[Hashable | None]:
        """Return the `group` of each triplet."""
        inner = self.order.groups(records)
        if isinstance(records, LazyRecords) and isinstance(inner, GroupColumn):
            return PairedColumns(records.column(SET), inner)
        return [self.group(record) for record in records]

    def indices(self, groups: Sequence[Hashable | None], generator: random.Random) -> Sequence[int]:
        """Return as many indices as there are ``groups``: every set its share, spread evenly over its triplets."""
        members: dict[str, Sequence[int]] = {}
        if isinstance(groups, PairedColumns):
            members = groups.members()
        else:
            of_set: dict[str, list[int]] = {}
            for index, (name, _) in enumerate(groups):
                of_set.setdefault(name, []).append(index)
            members |= of_set
        drawn = array("I")
        for name, share in shares({name: self.weights[name] for name in members}, len(groups)).items():
            rounds, rest = divmod(share, len(members[name]))
            for _ in range(rounds):
                drawn.extend(members[name])
            drawn.extend(generator.sample(members[name], rest))
        if isinstance(groups, PairedColumns):
            place = self.order.indices(groups.inner.take(np.frombuffer(drawn, np.uint32)), generator)
            return array("I", np.frombuffer(drawn, np.uint32)[np.asarray(place)].tobytes())
        order = self.order.indices([groups[index][1] for index in drawn], generator)
        return [drawn[place] for place in order]


class PairedColumns(Sequence[tuple[Hashable, Hashable | None]]):
    """The groups of a `WeightedOrder`, as numbers: the set of each triplet, and its group in the inner order."""

    def __init__(self, sets: GroupColumn, inner: GroupColumn) -> None:
        self.sets, self.inner = sets, inner

    def __len__(self) -> int:
        return len(self.sets)

    def __getitem__(self, index: Any) -> Any:
        return self.sets[index], self.inner[index]

    def members(self) -> dict[str, Sequence[int]]:
        """Return the triplets of each set that has any."""
        found: dict[str, Sequence[int]] = {}
        for number, name in enumerate(self.sets.names or ()):
            (rows,) = np.nonzero(self.sets.numbers == number)
            if len(rows):
                found[str(name)] = array("I", rows.astype(np.uint32).tobytes())
        return found


class MixedStore(ImageStore):
    """The images of several sets, named ``SET:IMAGE``; one `index` for every file, whatever it is named in a set.

    A file is known by its path, with links in the folders above it followed, so that no image has to be touched.
    """

    def __init__(self, stores: Mapping[str, ImageStore]) -> None:
        folder_of = cache(os.path.realpath)  # one per folder: a look-up per image would take minutes on a network disk
        files: dict[str, int] = {}
        paths = {}
        self._numbers = {}
        for part, store in stores.items():
            store.missing(store.names)  # lists folders, and so finds files of other endings than the listed ones
            for image in store.names:
                folder, file = os.path.split(store.found(image))
                paths[f"{part}:{image}"] = full = os.path.join(folder_of(folder), file)
                self._numbers[f"{part}:{image}"] = files.setdefault(full, len(files))
        super().__init__("", paths)
        self.stores = dict(stores)

    def index(self, name: str) -> int:
        """Return the number of the file that ``name`` stands for."""
        return self._numbers[name]

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` whose file does not exist."""
        missing = {
            f"{part}:{image}"
            for part, images in self._by_set(names).items()
            for image in self.stores[part].missing(images)
        }
        return [name for name in names if name in missing]

    def states(self, names: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return size in bytes and mtime in nanoseconds of each file, None where there is none."""
        states = {
            f"{part}:{image}": state
            for part, images in self._by_set(names).items()
            for image, state in zip(images, self.stores[part].states(images), strict=True)
        }
        return [states[name] for name in names]

    def file(self, name: str) -> Path:
        """Return the path of the file of an image; if there is none, the listed one."""
        store, image = self._of(name)
        return store.file(image)

    def load(self, name: str, purpose: str = "") -> Image.Image:
        """Return the image as its set would, with the same errors."""
        store, image = self._of(name)
        return store.load(image, purpose)

    def size(self, name: str, purpose: str = "") -> tuple[int, int]:
        """Return width and height of the image as its set would."""
        store, image = self._of(name)
        return store.size(image, purpose)

    def _of(self, name: str) -> tuple[ImageStore, str]:
        part, _, image = name.partition(":")
        return self.stores[part], image

    @staticmethod
    def _by_set(names: Sequence[str]) -> dict[str, list[str]]:
        images: dict[str, list[str]] = {}
        for name in names:
            part, _, image = name.partition(":")
            images.setdefault(part, []).append(image)
        return images


def shares(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Return how many of ``total`` fall to each name in proportion to its weight, by largest remainder."""
    exact = {name: weight * total / sum(weights.values()) for name, weight in weights.items()}
    whole = {name: math.floor(value) for name, value in exact.items()}
    left = total - sum(whole.values())
    for name in sorted(exact, key=lambda name: whole[name] - exact[name])[:left]:
        whole[name] += 1
    return whole


def _by_name(sets: Sequence[CompositionDataModule]) -> dict[str, CompositionDataModule]:
    if not sets:
        raise InputError("is empty: list at least one data module", setting="data.sets")
    named: dict[str, CompositionDataModule] = {}
    for part in sets:
        name = part.benchmark
        if not WORD.fullmatch(name):
            problem = f"the name of a set must be a word (letters, digits, _), got {shown(name)}"
            raise InputError(problem, setting="data.sets")
        if named.setdefault(name, part) is not part:
            raise InputError(f"two sets named {shown(name)}: give a Manifest another name", setting="data.sets")
    return named


def _checked(weights: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    try:
        given = [between(weight, 0, MOST_WEIGHT, "data.weights") for weight in weights]
    except InputError:
        given = []
    if len(given) != len(names) or not any(given):
        raise InputError(
            f"expected one number for each of {', '.join(names)}, from 0 to {MOST_WEIGHT:g} and not all 0, got "
            f"{shown(list(weights))}",
            setting="data.weights",
        )
    return dict(zip(names, map(float, given), strict=True))
