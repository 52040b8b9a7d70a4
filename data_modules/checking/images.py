"""Image files, examined one by one: which are missing, which are damaged, and which hold the same bytes."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from contextcir.errors import InputError
from contextcir.processors import leave_interrupts_to_parent
from data_modules.loading.images import ImageStore

Task = TypeVar("Task")
Result = TypeVar("Result")
# Shows the progress of a loop: (values, their number, title) -> the same values.
Watch = Callable[[Iterable[Any], int, str], Iterable[Any]]

HEAD = 4096  # bytes in which most files of equal size differ


class ImageFile(NamedTuple):
    """An image of a benchmark. ``store`` and ``name`` say how training or evaluation would load it."""

    store: str
    name: str
    path: Path
    size: int


def unwatched(values: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """Return the values, and show nothing."""
    return values


def list_files(stores: Mapping[str, ImageStore]) -> tuple[list[ImageFile], list[ImageFile]]:
    """Return the images of several stores that exist, and those that are missing, each file once.

    Crops of one file are images of their own, as each of them can lie outside of it.
    """
    present, missing = [], []
    seen: set[tuple[Path, object]] = set()
    for key, store in stores.items():
        crops = getattr(store, "crops", {})
        for name, state in zip(store.names, store.states(store.names), strict=True):
            path = store.found(name)
            if (path, crops.get(name)) not in seen:
                seen.add((path, crops.get(name)))
                size = -1 if state is None else state[0]
                (missing if state is None else present).append(ImageFile(key, name, path, size))
    return present, missing


def find_damaged(
    stores: Mapping[str, ImageStore], files: Sequence[ImageFile], workers: int, watch: Watch = unwatched
) -> dict[ImageFile, str]:
    """Return what is wrong with those of the files that can't be loaded, after loading all of them to their end."""
    tasks = [(file.store, file.name) for file in files]
    complaints = watch(_parallel(_load, tasks, workers, stores), len(tasks), "decoding images")
    return {file: complaint for file, complaint in zip(files, complaints, strict=True) if complaint}


def find_duplicates(paths: Collection[Path], sizes: Mapping[Path, int], workers: int, watch: Watch) -> list[list[Path]]:
    """Return the groups of files that hold the same bytes; reads no more of them than it takes to tell them apart."""
    groups = _split([list(dict.fromkeys(paths))], sizes)
    for title, limit in (("comparing the beginnings of images", HEAD), ("comparing whole images", None)):
        suspects = [(path, limit) for group in groups for path in group]
        digests = watch(_parallel(_digest, suspects, workers), len(suspects), title)
        groups = _split(groups, {path: digest for (path, _), digest in zip(suspects, digests, strict=True)})
    return groups


def _split(groups: Sequence[Sequence[Path]], values: Mapping[Path, object]) -> list[list[Path]]:
    """Divide groups into those of equal value; drop what is alone."""
    divided: dict[tuple[int, object], list[Path]] = {}
    for number, group in enumerate(groups):
        for path in group:
            divided.setdefault((number, values[path]), []).append(path)
    return [group for group in divided.values() if len(group) > 1]


def _parallel(
    work: Callable[[Task], Result], tasks: Sequence[Task], workers: int, stores: Mapping[str, ImageStore] | None = None
) -> Iterator[Result]:
    """Yield the result of every task in order, from worker processes if there is more than one worker."""
    if workers < 2 or len(tasks) < 64:
        _prepare(stores)
        yield from map(work, tasks)
        return
    # fork: the workers need nothing but Pillow, and have the stores without copying them
    with ProcessPoolExecutor(workers, get_context("fork"), _begin, (stores,)) as pool:
        try:
            yield from pool.map(work, tasks, chunksize=16)
        except BrokenProcessPool:
            problem = "a worker process was killed while it read images (out of memory?): use 1"
            raise InputError(problem, setting="workers") from None


_stores: Mapping[str, ImageStore] = {}  # of this process, so that they need not be sent with every task


def _begin(stores: Mapping[str, ImageStore] | None) -> None:
    leave_interrupts_to_parent()
    _prepare(stores)


def _prepare(stores: Mapping[str, ImageStore] | None) -> None:
    global _stores
    _stores = stores or {}


def _load(task: tuple[str, str]) -> str | None:
    store, name = task
    try:
        _stores[store].load(name)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _digest(task: tuple[Path, int | None]) -> bytes:
    path, limit = task
    try:
        with path.open("rb") as file:
            if limit is not None:
                return hashlib.blake2b(file.read(limit)).digest()
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:  # unreadable: reported by `find_damaged`; equal to no other file
        return str(path).encode()
