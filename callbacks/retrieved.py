"""The file of what a run has retrieved: of every query the texts, the nearest images and their scores, for later looks.

A file is a split of a run, ``retrieved/SPLIT.jsonl.gz``: JSON lines, the first of which (`Head`) is on the split, and
each other one (`Found`) on a query, in the order of the protocol.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.errors import InputError
from contextcir.files import ordinary_file, parse_json, whole_file

QUERIES_FILE = "queries.json"  # of the ranks of all splits, beside the folder of these files
FOLDER = "retrieved"
FORMAT = 1
MOST_BYTES = 4_000_000_000  # of the lines, unpacked
PART = 2**20


class Picture(NamedTuple):
    """Where an image lies. ``path``: below the head's ``root``, or absolute; ``box`` as of a crop of GeneCIS."""

    path: str
    box: tuple[float, float, float, float] | None = None


class Head(NamedTuple):
    """What the lines of a file have in common.

    ``benchmark``, ``split`` and ``gallery`` (its size) of the protocol. ``in_subsets``: whether the images of a query's
    own subset were ranked, and not those of the gallery. ``of_first``: whether ranks are of the first target, not the
    best one. ``root``: folder of the benchmark. ``pictures``: by name, of all images that the lines name. ``grid``:
    rows and columns of attention maps, where there are any.
    """

    benchmark: str
    split: str
    gallery: int
    in_subsets: bool
    of_first: bool
    root: str
    pictures: Mapping[str, Picture]
    grid: tuple[int, int] | None = None


class Found(NamedTuple):
    """What was found for a query.

    ``text``: the caption as the tokenizer sees it, to which the characters ``[start, end)`` of ``phrases`` refer.
    ``top`` (by row of the recall table, of the ones that are kept): names and scores of the nearest images, best first.
    ``own``: by row, the score of the target that the rank is of, None where that is missing. ``kinds``: by name, what
    an image among them is to the query, where that is known: ``target``, ``reference``, its role, or ``same set``.
    ``attention``: a map for each phrase, row after row, in 0..255 from the lowest value of all of them to the highest;
    None where there is none.
    """

    query: int
    reference: str
    text: str
    phrases: tuple[tuple[int, int], ...]
    targets: tuple[str, ...]
    top: Mapping[str, tuple[tuple[str, float], ...]]
    own: Mapping[str, float | None]
    kinds: Mapping[str, str]
    attention: tuple[tuple[int, ...], ...] | None = None


def path_of(folder: Path, split: str) -> Path:
    """Return the file of a split in a run's folder."""
    return folder / FOLDER / f"{split}.jsonl.gz"


def write_retrieved(path: Path, head: Head, found: Iterable[Found]) -> None:
    """Write a file; readers see the old content or the new one, and equal content gives equal bytes."""
    with whole_file(path) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        for line in ({"format": FORMAT, **head._asdict()}, *(_lean(query) for query in found)):
            packed.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def read_retrieved(path: Path) -> tuple[Head, list[Found]]:
    """Return the content of a file.

    Raises:
        MissingFileError: if there is none.
        InputError: if it is damaged, or something else.
    """
    ordinary_file(path)
    try:
        lines = [parse_json(line, file=path) for line in io.StringIO(_unpacked(path).decode())]
        return _head(lines[0]), [_found(line) for line in lines[1:]]
    except InputError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = f"no results of queries that this version reads ({type(error).__name__}): evaluate the run again"
        raise InputError(problem, file=path) from None


def _unpacked(path: Path) -> bytes:
    parts, size = [], 0
    with gzip.open(path, "rb") as packed:
        while part := packed.read(PART):  # at once, as many bytes as it may hold at most would be asked for
            size += len(part)
            if size > MOST_BYTES:
                raise InputError(f"expected at most {MOST_BYTES:,} bytes of lines", file=path)
            parts.append(part)
    return b"".join(parts)


def _lean(found: Found) -> dict[str, Any]:
    return {name: value for name, value in found._asdict().items() if value not in (None, {}, ())}


def _head(line: dict[str, Any]) -> Head:
    if line.pop("format") != FORMAT:
        raise ValueError("of another version")
    pictures = {
        str(name): Picture(str(path), None if box is None else _box(box))
        for name, (path, box) in line.pop("pictures").items()
    }
    rows_columns = line.pop("grid")
    grid = None if rows_columns is None else (int(rows_columns[0]), int(rows_columns[1]))
    return Head(**line, pictures=pictures, grid=grid)


def _box(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, width, height = map(float, box)
    return left, top, width, height


def _found(line: dict[str, Any]) -> Found:
    maps = line.get("attention")
    return Found(
        query=int(line["query"]),
        reference=str(line["reference"]),
        text=str(line.get("text", "")),
        phrases=tuple((int(start), int(end)) for start, end in line.get("phrases", ())),
        targets=tuple(map(str, line.get("targets", ()))),
        top={
            row: tuple((str(name), float(score)) for name, score in best) for row, best in line.get("top", {}).items()
        },
        own={row: None if score is None else float(score) for row, score in line.get("own", {}).items()},
        kinds=dict(line.get("kinds", {})),
        attention=None if maps is None else tuple(tuple(map(int, values)) for values in maps),
    )
