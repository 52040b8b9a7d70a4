"""What an export is: it reads a written manifest, and makes of it the files of another set's format."""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from contextcir.synthesis.store import Lookup

FOLDER = "exports"
MANIFEST = "manifest"
SPLITS = ("train", "val")


class Triplet(NamedTuple):
    """A record of a manifest: its ``id`` there, and the other images that look like the two, where they are known."""

    id: int
    reference: str
    target: str
    caption: str
    lookalikes: tuple[str, ...]


class Kept:
    """The triplets of a synthesis, as its manifest has them; read anew each time, so that memory does not grow.

    Args:
        folder: of the synthesis, with a manifest.

    Raises:
        FileNotFoundError: if there is no manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {split: folder / MANIFEST / f"{split}.jsonl" for split in SPLITS}
        if not any(path.is_file() for path in self.files.values()):
            raise FileNotFoundError(f"no manifest in {folder / MANIFEST}: run --stage write first")
        self._pairs = Lookup(folder, "pairs")

    @property
    def splits(self) -> list[str]:
        """The splits that have triplets."""
        return [split for split, path in self.files.items() if path.is_file()]

    def triplets(self, split: str) -> Iterator[Triplet]:
        """Yield the triplets of a split; those of a pair come one after the other."""
        with self.files[split].open(encoding="utf-8") as file:
            for record in map(json.loads, file):
                reference, target = record["reference"], record["target"]
                members = self._pairs[record["provenance"]["stages"]["pairs"]]["image_set"]
                others = tuple(image for image in members if image not in (reference, target))
                yield Triplet(record["id"], reference, target, record["caption"], others)


class Export(ABC):
    """Writes what was kept in the format of another set, with links to the images where its readers look for them."""

    name: ClassVar[str]  # of its folder

    @abstractmethod
    def write(self, kept: Kept, images: Path, out: Path) -> int:
        """Write all files into an empty folder.

        Args:
            kept: the triplets.
            images: folder that their image paths are below.
            out: the folder.

        Returns:
            Records, in all splits.

        Raises:
            ValueError: if the format has no room for what is there.
        """


def export(folder: Path, images: Path, kind: Export) -> tuple[Path, int]:
    """Write an export to ``exports/NAME`` below the folder of a synthesis; return that folder, and how many records.

    An export that was there before is replaced when the new one is whole. The same manifest gives the same files.

    Raises:
        FileNotFoundError: if there is no manifest.
        ValueError: if the format has no room for what is there.
    """
    out = folder / FOLDER / kind.name
    new, old = (out.with_name(f".{kind.name}.{word}") for word in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    new.mkdir(parents=True)
    count = kind.write(Kept(folder), images.resolve(), new)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return out, count


def write_list(path: Path, records: Iterable[Any]) -> int:
    """Write a JSON list, one record a line, as they come; return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, record in enumerate(records, start=1):
            file.write(("[\n" if count == 1 else ",\n") + json.dumps(record, ensure_ascii=False))
        file.write("\n]\n" if count else "[]\n")
        file.flush()
        os.fsync(file.fileno())
    return count


class Names:
    """Names that a format gives to images: one for each, and no two alike.

    Args:
        format: what the names are for, for the error.
    """

    def __init__(self, format: str) -> None:
        self.format = format
        self._images: dict[str, str] = {}

    def take(self, name: str, image: str) -> str:
        """Return the name, which is that of this image from now on; raises ValueError if another one has it."""
        if (other := self._images.setdefault(name, image)) != image:
            raise ValueError(
                f"{self.format} would call two images {name}: {other} and {image}; rename one of the files, or leave "
                "this export out of --write.exports"
            )
        return name

    def link(self, folder: Path, images: Path) -> None:
        """Make a link of each name, below a folder, to the image."""
        for name, image in self._images.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(images / PurePosixPath(image))
