"""Pairs of images: what gives them, and the simplest of it, a file that lists them.

The pairs of a synthesis, in a shard that the stages after it read.
"""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from contextcir.synthesis.records import Pair
from contextcir.synthesis.runner import GROUP, Run, Tally, progress
from contextcir.synthesis.store import read_stage


class PairSource(Protocol):
    """Gives the pairs of a synthesis: the same ones, in the same order, every time."""

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs; raises ValueError or FileNotFoundError where that fails."""


@runtime_checkable
class ImageSource(PairSource, Protocol):
    """Finds pairs by looking at images, which are given to it."""

    def within(self, images: Path, work: Path) -> "ImageSource":
        """Return the pairs of the images below a folder; what is found on the way is kept in ``work``."""

    def prepare(self, index: int, count: int) -> str:
        """Do part ``index`` of ``count`` of what can be divided; return a line about it."""


class PairFile:
    """Pairs from a JSON list, or a JSON object a line (.jsonl), with the fields ``reference`` and ``target``.

    Paths are those of images below the image folder. Optional: ``image_set``, a list of the paths of up to 6 images
    that look alike; all other fields, such as the caption of a manifest, are passed over. A pair that is listed several
    times is one pair.

    Args:
        file: path of the file.
        source: what `Pair.source` is to say; None for the name of the file.

    Raises (from `pairs`):
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such list, or a path leads out of the image folder.
    """

    def __init__(self, file: Path, source: str | None = None) -> None:
        self.file = Path(file).expanduser()
        self.source = source or self.file.name

    def pairs(self) -> Iterator[Pair]:
        known: set[str] = set()
        for place, record in enumerate(self._records()):
            where = f"{self.file}: record {place}"
            reference, target = (_path(record, field, where) for field in ("reference", "target"))
            listed = record.get("image_set")
            members = tuple(image_path(image, where) for image in listed) if isinstance(listed, list) else ()
            if reference == target:
                raise ValueError(f"{where}: reference and target are the same image, {reference}")
            key = pair_key(reference, target)
            if key not in known:
                known.add(key)
                yield Pair(key, reference, target, members, source=self.source)

    def _records(self) -> Iterable[Any]:
        if not self.file.is_file():
            raise FileNotFoundError(f"no file {self.file}: change --pairs.file")
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
            raise ValueError(f"{self.file}: expected a JSON list, or .jsonl with an object a line ({error})") from None


def pair_key(reference: str, target: str) -> str:
    """Return the key of a pair: what names the two images, and nothing else, determines it."""
    return blake2b(json.dumps([reference, target]).encode(), digest_size=10).hexdigest()


def image_path(path: object, where: str) -> str:
    """Return a path below the image folder in its shortest form.

    Raises:
        ValueError: if it is none; ``where`` says whose it is.
    """
    if not isinstance(path, str) or not path.strip() or not path.isprintable():
        raise ValueError(f"{where}: expected the path of an image, got {path!r}")
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{where}: {path!r} leads out of the image folder: give paths below it, without '..'")
    return str(parts)


def _path(record: Any, field: str, where: str) -> str:
    if not isinstance(record, dict) or field not in record:
        raise ValueError(f"{where}: expected an object with the fields reference and target")
    return image_path(record[field], f"{where}, field {field}")


STAGE = "pairs"


def collect(run: Run, source: PairSource, settings: Any = None) -> Tally:
    """Write the pairs of a source; those that are there already are not written again.

    One process does it, and it is done once: what comes later reads the same pairs.

    Args:
        settings: plain values that say how the source is set up; other ones than those of the pairs that are there are
            an error.

    Raises:
        ValueError: if this is not the first shard of one, the pairs are those of other settings, or a path leads out
            of the image folder.
    """
    begun, done = (run.folder / STAGE / name for name in ("settings.json", "complete.json"))
    if begun.is_file() and (kept := json.loads(begun.read_text(encoding="utf-8"))) != settings:
        raise ValueError(
            f"{run.folder} holds pairs that were made with other settings ({kept}): give another --out, or change "
            "--pairs back"
        )
    if done.is_file():
        count = json.loads(done.read_text(encoding="utf-8"))["count"]
        return Tally(STAGE, total=count, before=count)
    if run.count > 1:
        raise ValueError(f"there are no pairs in {run.folder} yet: run --stage pairs first, without --shard")
    with run.claimed(STAGE), run.shard(STAGE) as shard:
        _write(begun, settings)
        known = {record["key"] for record in read_stage(run.folder, STAGE)}
        tally = Tally(STAGE, before=len(known), total=len(known))
        waiting: list[dict[str, Any]] = []
        with progress(tally) as bar:
            for pair in source.pairs():
                if pair.key in known:
                    continue
                known.add(pair.key)
                for image in (pair.reference, pair.target, *pair.image_set):
                    image_path(image, f"pair {pair.key}")
                waiting.append(pair.to_json())
                tally.done += 1
                if len(waiting) == GROUP:
                    shard.append(waiting)
                    bar.update(len(waiting))
                    waiting = []
            shard.append(waiting)
            bar.update(len(waiting))
        tally.total = tally.before + tally.done
        if not tally.total:
            raise ValueError("the source gives no pairs: change --pairs")
        _write(done, {"count": tally.total})
        return tally


def _write(path: Path, content: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content), encoding="utf-8")
    new.replace(path)
