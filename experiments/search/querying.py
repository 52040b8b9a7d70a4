"""The command `query`: what is asked, and its answer as a table, a page or JSON."""

import experiments.lean  # noqa: F401  before the first import of Lightning: half of the start-up time

# isort: split
import calendar
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, printable, shown
from contextcir.files import write_json, write_text, writing
from contextcir.images import FORMATS
from contextcir.search.index import Photo, Where
from contextcir.search.photos import HEIF
from contextcir.search.queries import Found, Query, read_pictures
from contextcir.search.searcher import Searcher
from experiments.outputs import output_file
from experiments.search.sheet import page_of


@dataclass(frozen=True)
class Asked:
    """A query as it is typed."""

    image: Sequence[Path] = ()
    text: str = ""
    k: int = 20
    without: Sequence[str] = ()
    balance: float = 0.5
    folder: str | None = None
    since: str | None = None
    until: str | None = None
    format: Sequence[str] = ()
    fold: bool = True

    def where(self) -> Where | None:
        """Return which photos are looked at; raises InputError for a date or format that can't be meant."""
        known = (*FORMATS, HEIF)
        formats = tuple("JPEG" if name.upper() == "JPG" else name.upper() for name in self.format)
        for name in formats:
            if name not in known:
                raise InputError(f"expected one of {', '.join(known)}, got {shown(name)}", setting="format")
        since = None if self.since is None else span_of(self.since, "since")[0]
        until = None if self.until is None else span_of(self.until, "until")[1]
        folder = None if self.folder is None else self.folder.strip("/")
        where = Where(folder or None, since, until, formats)
        return None if where == Where() else where

    def query(self, photos: Path) -> Query:
        """Return the query; ``photos``: the folder that paths of the index are below."""
        without = tuple(path_below(text, photos) for text in self.without)
        images = read_pictures(list(self.image))
        return Query(images, self.text, self.k, self.where(), without, self.balance, self.fold)


def span_of(date: str, setting: str) -> tuple[int, int]:
    """Return the seconds since 1970 at which a day, a month or a year begins and ends, by the camera's clock.

    Raises:
        InputError: for anything else than 2024-05-31, 2024-05 or 2024.
    """
    problem = f"expected a day, a month or a year, as 2024-05-31, 2024-05 or 2024; got {shown(date)}"
    if not re.fullmatch(r"\d{4}(-\d{2}){0,2}", date, re.ASCII):
        raise InputError(problem, setting=setting)
    year, month, day = (int(part) for part in (f"{date}-00-00" if len(date) == 4 else f"{date}-00")[:10].split("-"))
    if (
        not 1 <= year < 9999
        or month > 12
        or (month and day > calendar.monthrange(year, month)[1])
        or (date.endswith("-00"))
    ):
        raise InputError(problem, setting=setting)
    begin = calendar.timegm((year, month or 1, day or 1, 0, 0, 0))
    if day:
        return begin, begin + 24 * 3600
    year, month = (year + 1, 1) if month in (0, 12) else (year, month + 1)
    return begin, calendar.timegm((year, month, 1, 0, 0, 0))


def path_below(text: str, photos: Path) -> str:
    """Return the path in an index of a photo that is named by it, or by the path of its file."""
    file = Path(text)
    if os.path.lexists(file) and file.resolve().is_relative_to(photos):
        return file.resolve().relative_to(photos).as_posix()
    return text


def query(
    index: Path, model: str | None, device: str | None, asked: Asked, html: Path | None, file: Path | None
) -> None:
    """Search an index, and print what was found; write it too, where files are named."""
    asked.where()  # before seconds of loading a model
    output_file(file, "json")
    output_file(html, "html")
    searcher = Searcher.load(model, index, device)
    if not searcher.index.count():
        raise InputError("the index holds no photo: index a folder of photos first")
    wanted = asked.query(searcher.folder)
    (found,) = searcher.search_many([wanted])
    print("\n".join(table(found)))
    if file is not None:
        with writing(file, "json"):
            write_json(file, as_json(found), indent=2)
    if html is not None:
        with writing(html, "html"):
            write_text(html, page_of(wanted, found, str(searcher.folder)))


def table(found: Found) -> list[str]:
    """Return the results as lines of rank, score and path."""
    if not found.results:
        return ["no photo fits"]
    lines = ["rank  score  photo"]
    for result in found.results:
        copies = f"  (and {len(result.copies):,} like it)" if result.copies else ""
        lines.append(f"{result.rank:>4}  {result.score:.3f}  {printable(result.photo.path)}{copies}")
    return lines


def as_json(found: Found) -> dict[str, Any]:
    """Return what was found as plain values."""
    return {
        "text": found.text,
        "phrases": [{"text": phrase.text, "start": phrase.start, "end": phrase.end} for phrase in found.phrases],
        "results": [
            {
                "rank": result.rank,
                "score": round(result.score, 6),
                **_fields(result.photo),
                "copies": [_fields(photo) for photo in result.copies],
            }
            for result in found.results
        ],
    }


def _fields(photo: Photo) -> dict[str, Any]:
    taken = None if photo.taken is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(photo.taken))
    return {
        "path": photo.path,
        "taken": taken,
        "format": photo.format,
        "width": photo.width,
        "height": photo.height,
    }
