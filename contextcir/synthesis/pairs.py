"""The first stage, which writes the pairs of images, and the interface of what gives them; the simplest is a file."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from contextcir.errors import InputError, MissingFileError
from contextcir.files import read_json, write_json
from contextcir.synthesis.records import Pair
from contextcir.synthesis.stages import Run, Stage, Tally, progress
from contextcir.synthesis.store import read_stage

GROUP = 64  # pairs that are written together
WORK = "pairs-work"  # folder of a synthesis for the intermediate results of an `ImageSource`


class PairSource(ABC):
    """Gives the pairs of a synthesis: the same ones, in the same order, every time."""

    @abstractmethod
    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs; raises InputError where that fails."""


class ImageSource(PairSource):
    """Finds pairs by looking at images."""

    @abstractmethod
    def within(self, images: Path, work: Path) -> "ImageSource":
        """Return the source for the images below a folder, which keeps intermediate results in ``work``."""

    @abstractmethod
    def prepare(self, index: int, count: int) -> str:
        """Do part ``index`` of ``count`` of the work that can be divided; return a line about it."""


class PairFile(PairSource):
    """Pairs from a JSON list, or a JSON object a line (.jsonl), with the fields ``reference`` and ``target``.

    Paths are those of images below the image folder. Optional: ``image_set``, a list of the paths of up to 6 images
    that look alike; other fields, such as the caption of a manifest, are ignored. A pair that is listed several times
    is one pair.

    Args:
        file: path of the file.
        source: value of `Pair.source`; None for the name of the file.

    Raises (from `pairs`):
        MissingFileError: if there is no such file.
        InputError: if it is no such list, or a path leads out of the image folder.
    """

    def __init__(self, file: Path, source: str | None = None) -> None:
        self.file = Path(file).expanduser()
        self.source = source or self.file.name

    def pairs(self) -> Iterator[Pair]:
        known: set[str] = set()
        for position, record in enumerate(self._records()):
            where = f"record {position} of {self.file}"
            reference, target = (_path(record, field, where) for field in ("reference", "target"))
            members = record.get("image_set")
            members = tuple(image_path(image, where) for image in members) if isinstance(members, list) else ()
            if reference == target:
                raise InputError(f"{where}: reference and target are the same image, {reference}")
            key = pair_key(reference, target)
            if key not in known:
                known.add(key)
                yield Pair(key, reference, target, members, source=self.source)

    def _records(self) -> Iterable[Any]:
        if not self.file.is_file():
            raise MissingFileError(f"no file {self.file}", setting="pairs.file")
        try:
            with self.file.open(encoding="utf-8") as file:
                if self.file.suffix != ".jsonl":
                    content = json.load(file)
                    if not isinstance(content, list):
                        raise ValueError("it holds no list")
                    yield from content
                else:
                    yield from (json.loads(line) for line in file if line.strip())
        except ValueError as error:
            raise InputError(
                f"expected a JSON list, or .jsonl with an object a line ({error})", file=self.file, setting="pairs.file"
            ) from None


def pair_key(reference: str, target: str) -> str:
    """Return the key of a pair, which depends on the paths of the two images alone."""
    return blake2b(json.dumps([reference, target]).encode(), digest_size=10).hexdigest()


def image_path(path: object, where: str) -> str:
    """Return a path below the image folder in its shortest form.

    Raises:
        InputError: if it is none; ``where`` names its record.
    """
    if not isinstance(path, str) or not path.strip() or not path.isprintable():
        raise InputError(f"{where}: expected the path of an image, got {path!r}")
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise InputError(f"{where}: {path!r} leads out of the image folder: give paths below it, without '..'")
    return str(parts)


def _path(record: Any, field: str, where: str) -> str:
    if not isinstance(record, dict) or field not in record:
        raise InputError(f"{where}: expected an object with the fields reference and target")
    return image_path(record[field], f"{where}, field {field}")


class PairStage(Stage):
    """Writes the pairs of a source to a shard that the later stages read.

    One process writes them, once; pairs that are there already are not written again. Where the source looks at
    images, several processes may prepare its work first.

    Args:
        source: gives the pairs.
        images: folder that image paths are below.
        settings: plain values that describe the source; pairs of other settings are an error.
    """

    name: ClassVar[str] = "pairs"

    def __init__(self, source: PairSource, images: Path = Path(), settings: Any = None) -> None:
        self.source = source
        self.images = images
        self.settings = settings

    def run(self, run: Run) -> Tally:
        """Write the pairs, or do this process's part of the preparation.

        Raises:
            InputError: if the pairs are those of other settings, the source fails or has no pairs, or this is one of
                several shards and the source can't be divided.
        """
        source = self.source
        if isinstance(source, ImageSource):
            source = source.within(self.images, run.folder / WORK)
            if run.count > 1:
                with run.claimed(self.name):
                    return Tally(self.name, note=source.prepare(run.index, run.count))
        begun, done = (run.folder / self.name / name for name in ("settings.json", "complete.json"))
        if begun.is_file() and (kept := read_json(begun)) != self.settings:
            raise InputError(
                f"{run.folder} holds pairs that were made with other settings ({kept}): restore them, or give another "
                "folder as out",
                setting="pairs",
            )
        if done.is_file():
            count = read_json(done)["count"]
            return Tally(self.name, total=count, before=count)
        if run.count > 1:
            raise InputError(
                f"there are no pairs in {run.folder} yet: run the stage pairs first, without a shard", setting="shard"
            )
        with run.claimed(self.name):
            write_json(begun, self.settings)
            tally = self._write(run, source)
            write_json(done, {"count": tally.total})
        return tally

    def _write(self, run: Run, source: PairSource) -> Tally:
        known = {record["key"] for record in read_stage(run.folder, self.name)}
        tally = Tally(self.name, before=len(known), total=len(known))
        group: list[dict[str, Any]] = []
        with run.shard(self.name) as shard, progress(tally) as bar:
            for pair in source.pairs():
                if pair.key in known:
                    continue
                known.add(pair.key)
                for image in (pair.reference, pair.target, *pair.image_set):
                    image_path(image, f"pair {pair.key}")
                group.append(pair.to_json())
                tally.done += 1
                if len(group) == GROUP:
                    shard.append(group)
                    bar.update(len(group))
                    group = []
            shard.append(group)
            bar.update(len(group))
        tally.total = tally.before + tally.done
        if not tally.total:
            raise InputError("the source has no pairs", setting="pairs")
        return tally
