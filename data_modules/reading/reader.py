"""What a benchmark offers to whoever reads it without training on it: its files, its facts, and its protocols.

Readers import neither torch nor Lightning, so that checking, converting and scoring files start at once.
"""

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from contextcir.errors import InputError, MissingFileError
from data_modules.loading.images import ImageStore, find_images
from data_modules.reading.annotations import CaptionRecord, Report, raise_error
from data_modules.records import Evaluation, TrainingSet

Counts = Mapping[str, Mapping[str, int]]


class BenchmarkReader:
    """Reads the annotation files of a benchmark.

    A subclass is all that is needed for a new benchmark: `CompositionDataModule` trains on it and evaluates it, and
    once it is listed in `data_modules.readers`, the commands that check files and list captions know it. Errors name
    the arguments ``data.root`` and ``data.split``; the owner of a reader relocates them to its own.

    Class attributes: ``benchmark``: its name. ``expected``: official numbers of each split, where ``triplets`` and
    ``images`` make a split one to train on, and ``queries`` and ``gallery`` one to evaluate. ``total``: triplets and
    queries of all splits together, where those of single splits are not stated. ``training_splits``: names of the
    splits that are read as training sets. ``captions``: the fields that hold the texts.

    Args:
        root: folder with annotations and images.
    """

    benchmark: str
    expected: ClassVar[Counts] = {}
    total: ClassVar[int | None] = None
    training_splits: ClassVar[frozenset[str]] = frozenset()
    captions: ClassVar[type[CaptionRecord]]

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        self.report: Report = raise_error  # a check puts a list's ``append`` here

    def read_training(self, split: str) -> TrainingSet:
        """Return the triplets of a split.

        Raises:
            MissingFileError: if a file is missing.
            InputError: if something in a file is wrong, or there is nothing to train on.
        """
        raise InputError(
            f"{type(self).__name__.removesuffix('Reader')} has no training split: use validate, test or predict"
        )

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split; errors as of `read_training`."""
        raise NotImplementedError

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        raise NotImplementedError

    def find_images(self, split: str, paths: Mapping[str, str]) -> ImageStore:
        """Return the store of the images that a split lists."""
        return find_images(self.image_folders(), paths)

    def list_splits(self) -> list[str]:
        """Return the names of all splits."""
        return list(self.expected)

    def expected_counts(self) -> Counts:
        """Return the official numbers of each split."""
        return self.expected


def find_file(
    pattern: str, split: str, places: Sequence[Path], benchmark: str, folder: str = "", without: str = ""
) -> Path:
    """Return the annotation file of a split, from the first of the places that has it.

    Args:
        pattern: its name, with ``{split}`` for the split and ``*`` for anything.
        split: which one.
        places: folders, in the order of preference.
        benchmark: name for the message.
        folder: name of a sub-folder in which a place may hold its files.
        without: files whose names begin like this do not count; "" for none.

    Raises:
        MissingFileError: if it is in no place. The setting to change is the split if there are files of other splits.
        InputError: if a place holds several versions of it.
    """

    def matches(place: Path, name: str) -> list[Path]:
        files = sorted(path for path in place.glob(name) if path.is_file())
        return [path for path in files if not (without and path.name.startswith(without))]

    named = [place / folder for place in places]
    searched = [path for place in places for path in dict.fromkeys((place / folder, place))]
    for place in searched:
        files = matches(place, pattern.replace("{split}", glob.escape(split)))
        if len(files) > 1:
            names = " and ".join(path.name for path in files)
            raise InputError(f"{place} holds {names}: leave one version of split {split}")
        if files:
            return files[0]
    others = any(matches(place, pattern.replace("{split}", "*")) for place in searched)
    name = pattern.replace("{split}", split)
    expected = "a split that is there" if others else f"the folder of {benchmark}"
    raise MissingFileError(
        f"no file {name} in {', '.join(map(str, named))}: expected {expected}",
        setting="data.split" if others else "data.root",
    )


def positions_of(names: Iterable[str]) -> dict[str, int]:
    """Return the position of every name: the gallery index of an image."""
    return {name: position for position, name in enumerate(names)}


class Strata(dict[str, list[int]]):
    """Groups of queries, by name, that metrics are repeated for."""

    def put(self, name: str, query: int) -> None:
        """Put a query into a group."""
        self.setdefault(name, []).append(query)

    def as_mapping(self) -> dict[str, tuple[int, ...]]:
        """Return the groups in the order of their names."""
        return {name: tuple(self[name]) for name in sorted(self)}
