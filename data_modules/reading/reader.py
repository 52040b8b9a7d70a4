"""What a benchmark offers to whoever reads it without training on it: its files, its facts, and its protocols.

Readers import neither torch nor Lightning, so that checking, converting and scoring files start at once.
"""

import glob
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import Inside, leads_out
from data_modules.arrow.images import ImageTable
from data_modules.arrow.store import find_table_images
from data_modules.arrow.stream import RecordStream, WholeStream
from data_modules.loading.folders import entries_of, is_there
from data_modules.loading.images import ImageStore, find_images
from data_modules.reading.annotations import AnnotationFile, CaptionRecord, Problem, R, Report, raise_error
from data_modules.records import Evaluation, TrainingSet
from data_modules.shards.reading import Shards
from data_modules.shards.store import ShardedImages

Counts = Mapping[str, Mapping[str, int]]


class BenchmarkReader:
    """Reads the annotation files of a benchmark.

    A subclass is all that is needed for a new benchmark: `CompositionDataModule` trains on it and evaluates it, and
    once it is listed in `data_modules.readers`, the commands that check files and list captions know it. Errors name
    the arguments ``data.root`` and ``data.split``; the owner of a reader relocates them to its own.

    Class attributes: ``benchmark``: its name. ``expected``: official numbers of each split, where ``triplets`` and
    ``images`` make a split one to train on, and ``queries`` and ``gallery`` one to evaluate. ``total``: triplets and
    queries of all splits together, where those of single splits are not stated. ``training_splits``: names of the
    splits that are read as training sets. ``captions``: the fields that hold the texts. ``protocol_version``: a whole
    number that rises when a change of this project changes what the same files and the same embeddings give.

    Args:
        root: folder with annotations and images.

    Attributes: ``report``: what is done with errors in records. ``allow_links``: links may lead out of ``root``.
    ``shards``: where the images are, if they are not files.
    """

    benchmark: str
    expected: ClassVar[Counts] = {}
    total: ClassVar[int | None] = None
    training_splits: ClassVar[frozenset[str]] = frozenset()
    protocol_version: ClassVar[int] = 1
    captions: ClassVar[type[CaptionRecord]]

    def __init__(self, root: str | Path) -> None:
        self.root = user_path(root, "data.root")
        self.report: Report = raise_error  # a check puts a list's ``append`` here
        self.allow_links = False
        self.shards: Shards | None = None

    def check_root(self) -> None:
        """Raise InputError unless the root is a folder."""
        if not is_there(self.root):
            problem = f"no folder {self.root}: expected the folder of the benchmark"
            raise MissingFileError(problem, setting="data.root")
        if not os.path.isdir(self.root):
            problem = "expected the folder of the benchmark, found a file or something that can't be read"
            raise InputError(problem, file=self.root, setting="data.root")

    def read_training(self, split: str) -> TrainingSet:
        """Return the triplets of a split.

        Raises:
            MissingFileError: if a file is missing.
            InputError: if something in a file is wrong, or there is nothing to train on.
        """
        raise InputError(
            f"{type(self).__name__.removesuffix('Reader')} has no training split: use validate, test or predict"
        )

    def training_files(self, split: str) -> list[Path]:
        """Return the files that alone decide what `training_stream` gives; none for a set that stays in memory."""
        return []

    def training_stream(self, split: str) -> RecordStream:
        """Return the triplets of a split, for a table in Arrow; errors as of `read_training`."""
        return WholeStream(self.read_training(split))

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split; errors as of `read_training`."""
        raise NotImplementedError

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        raise NotImplementedError

    def find_images(self, split: str, paths: Mapping[str, str]) -> ImageStore:
        """Return the store of the images that a split lists."""
        if self.shards is not None:
            return ShardedImages(self.shards, paths)
        if isinstance(paths, ImageTable):
            return find_table_images(self.image_folders(), paths, self.inside())
        return find_images(self.image_folders(), paths, self.inside())

    def inside(self) -> Inside:
        """Return what keeps the images of the benchmark in its folder."""
        return Inside(self.root, self.allow_links, setting="data.allow_links")

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
        if not glob.has_magic(name):
            return [place / name] if is_there(place / name) else []
        names = sorted(entry.name for entry in entries_of(place) if fnmatchcase(entry.name, name))
        return [place / name for name in names if not (without and name.startswith(without))]

    check_split(split)
    named = [place / folder for place in places]
    searched = [path for place in places for path in dict.fromkeys((place / folder, place))]
    for place in searched:
        files = matches(place, pattern.replace("{split}", glob.escape(split)))
        if len(files) > 1:
            names = " and ".join(path.name for path in files[:3])
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


def check_split(split: str) -> None:
    """Raise InputError if the name of a split can't be a part of the name of a file."""
    if leads_out(split) or "/" in split or "\\" in split or not split.isprintable() or len(split) > 100:
        raise InputError(f"expected the name of a split, such as val, got {shown(split)}", setting="data.split")


def user_path(path: str | Path, setting: str) -> Path:
    """Return a path as a user typed it, with ``~`` for the home folder.

    Raises:
        InputError: if it is empty, which would be the working folder, or none that can be.
    """
    if not str(path).strip():
        raise InputError("is empty: expected a path", setting=setting)
    if "\0" in str(path):
        raise InputError(f"expected a path, got {shown(str(path))}", setting=setting)
    return Path(os.path.expanduser(path))


def paths_by_id(images: AnnotationFile[R], get: Callable[[R], tuple[int, str]], field: str) -> dict[str, str]:
    """Return the paths of listed images by the digits of their ids.

    Args:
        images: the list.
        get: returns id and path of a record.
        field: that holds the path, for the message.

    Raises:
        InputError: if two images have one path.
    """
    paths: dict[str, str] = {}
    first: dict[str, int] = {}  # position by path
    for position, record in images.items():
        number, path = get(record)
        if first.setdefault(path, position) != position:
            images.reject(position, field, Problem(f"is {shown(path)}, as in record {first[path]}"))
        else:
            paths[str(number)] = path
    return paths


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
