"""The first stage, which writes the pairs of images, and the interface of what gives them; the simplest is a file."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from contextcir.errors import InputError, shown
from contextcir.files import ordinary_file, parse_json, read_json, read_text, write_json
from contextcir.shards.keys import SeenKeys
from contextcir.synthesis.photos import Photos, photos_of
from contextcir.synthesis.records import Pair
from contextcir.synthesis.stages import Run, Stage, Tally, progress
from contextcir.synthesis.store import read_stage

SETTING = "pairs.file"
LINES = (".jsonl", ".ndjson")  # endings of files with a JSON object a line
MEMBERS = 6  # images of a set, at most
EARLIER = "Namespace("  # how earlier versions kept the settings: they are not compared
GROUP = 64  # pairs that are written together
WORK = "pairs-work"  # folder of a synthesis for the intermediate results of an `ImageSource`


class PairSource(ABC):
    """Gives the pairs of a synthesis: the same ones, in the same order, every time."""

    none_found: str = "the source has no pairs"  # what to say where `pairs` yields nothing

    @abstractmethod
    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs; raises InputError where that fails."""


class ImageSource(PairSource):
    """Finds pairs by looking at images."""

    @abstractmethod
    def within(self, images: Path | Photos | None, work: Path, links: bool = False) -> "ImageSource":
        """Return the source for some images, which keeps intermediate results in ``work``.

        Args:
            images: the images, or their folder; None where the source has some of its own.
            work: the other one.
            links: let links lead out of the folder.
        """

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
        known = SeenKeys()
        for position, record in enumerate(self._records()):
            where = f"record {position} of {self.file}"
            reference, target = (_path(record, field, where) for field in ("reference", "target"))
            if reference == target:
                raise InputError(f"{where}: reference and target are the same image, {shown(reference)}")
            members = _members(record.get("image_set"), where)
            key = pair_key(reference, target)
            if known.add(key):
                yield Pair(key, reference, target, members, source=self.source)

    def _records(self) -> Iterator[Any]:
        path = ordinary_file(self.file, SETTING)
        if path.suffix.lower() in LINES and not _begins_a_list(path):
            yield from _lines(path)
            return
        content = parse_json(read_text(path, SETTING), path, SETTING)
        if not isinstance(content, list):
            problem = f"expected a JSON list, or .jsonl with an object a line, got {shown(content)}"
            raise InputError(problem, file=path, setting=SETTING)
        yield from content


def _begins_a_list(path: Path) -> bool:
    """Tell whether a file holds a JSON list over its lines, as some tools write .jsonl."""
    with path.open("rb") as file:
        first = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        return first.startswith(b"[")


def _lines(path: Path) -> Iterator[Any]:
    """Yield the values of a file that has one a line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield parse_json(text)
            except InputError as error:
                problem = error.problem.replace(" in line 1, column", " in column")
            except UnicodeDecodeError:
                problem = "expected text in UTF-8"
            else:
                continue
            raise InputError(f"line {number}: {problem}", file=path, setting=SETTING)


def _members(listed: Any, where: str) -> tuple[str, ...]:
    """Return the image set of a record; in a manifest it is a number, which says nothing about paths."""
    if listed is None or type(listed) is int:
        return ()
    if not isinstance(listed, list) or len(listed) > MEMBERS:
        raise InputError(f"{where}, field image_set: expected a list of up to {MEMBERS} paths, got {shown(listed)}")
    return tuple(image_path(image, f"{where}, field image_set") for image in listed)


def pair_key(reference: str, target: str) -> str:
    """Return the key of a pair, which depends on the paths of the two images alone."""
    return blake2b(json.dumps([reference, target]).encode(), digest_size=10).hexdigest()


def image_path(path: object, where: str) -> str:
    """Return a path below the image folder in its shortest form.

    Raises:
        InputError: if it is none; ``where`` names its record.
    """
    if not isinstance(path, str) or not path.strip() or not path.isprintable() or not PurePosixPath(path).name:
        raise InputError(f"{where}: expected the path of an image, got {shown(path)}")
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise InputError(f"{where}: {shown(path)} leads out of the image folder: give paths below it, without '..'")
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
        images: the images, or the folder that their paths are below.
        settings: plain values that describe the source; pairs of other settings are an error.
        links: let links lead out of the folder of images.
    """

    name: ClassVar[str] = "pairs"

    def __init__(
        self, source: PairSource, images: Path | Photos | None = None, settings: Any = None, links: bool = False
    ) -> None:
        self.source = source
        self.images = images
        self.settings = settings
        self.links = links

    def begin(self, run: Run) -> None:
        """List images that are no files here, before several processes need the list; raises InputError."""
        if self.images is not None:
            photos_of(self.images, self.links).begin(run.folder)

    def run(self, run: Run) -> Tally:
        """Write the pairs, or do this process's part of the preparation.

        Raises:
            InputError: if the pairs are those of other settings, the source fails or has no pairs, or this is one of
                several shards and the source can't be divided.
        """
        source = self.source
        if isinstance(source, ImageSource):
            source = source.within(self.images, run.folder / WORK, self.links)
            if run.count > 1:
                with run.claimed(self.name):
                    return Tally(self.name, note=source.prepare(run.index, run.count))
        begun, done = (run.folder / self.name / name for name in ("settings.json", "complete.json"))
        kept = read_json(begun)
        other = begun.is_file() and kept != self.settings and not str(kept).startswith(EARLIER)
        if other and next(read_stage(run.folder, self.name), None) is not None:
            raise InputError(
                f"holds pairs that were made with other settings ({_difference(kept, self.settings)}): restore them, "
                "or give another folder as out",
                file=run.folder,
                setting="pairs",
            )
        if done.is_file():
            count = _count(done)
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
        known = SeenKeys()
        before = sum(known.add(record["key"]) for record in read_stage(run.folder, self.name))
        tally = Tally(self.name, before=before, total=before)
        group: list[dict[str, Any]] = []
        with run.shard(self.name) as shard, progress(tally) as bar:
            for pair in source.pairs():
                if not known.add(pair.key):
                    continue
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
            raise InputError(source.none_found, setting="pairs")
        return tally


def _count(path: Path) -> int:
    kept = read_json(path)
    count = kept.get("count") if isinstance(kept, dict) else None
    if type(count) is not int:
        raise InputError("damaged: expected the number of pairs; remove it: the stage is done again", file=path)
    return count


def _difference(kept: Any, now: Any, name: str = "") -> str:
    """Return the first setting in which two descriptions of a source differ."""
    if isinstance(kept, dict) and isinstance(now, dict):
        for key in sorted({*kept, *now}, key=str):
            if kept.get(key) != now.get(key):
                return _difference(kept.get(key), now.get(key), str(key) if key != "init_args" else name)
    return f"{name or 'pairs'} {shown(kept, 40)} instead of {shown(now, 40)}"
