"""What the search page's server tells of images and results, as values of JSON."""

import json
import time
from collections.abc import Collection
from typing import Any

from contextcir.errors import InputError, printable, shown
from contextcir.search.index import Photo
from contextcir.search.queries import Found, Phrase
from experiments.search.catalogue import id_of

EXPORTS = ("text", "json")


def as_json(value: Any) -> bytes:
    """Return a JSON text in ASCII: the name of a file may hold halves of surrogate pairs, which UTF-8 does not have."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).encode()


def photo_json(photo: Photo) -> dict[str, Any]:
    """Return what a client learns of an image."""
    name = id_of(photo.path)
    return {
        "id": name,
        "path": photo.path,
        "folder": photo.folder,
        "width": photo.width,
        "height": photo.height,
        "format": photo.format,
        "taken": day_and_time(photo.taken),
        "thumbnail": f"/api/thumbnail/{name}",
        "image": f"/api/image/{name}",
    }


def day_and_time(seconds: int | None) -> str | None:
    """Return seconds since 1970 by a camera's clock as ``2026-11-28T09:30:00``; None for years a camera has not."""
    try:
        return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return None


def found_json(found: Found, references: Collection[str], count: int) -> dict[str, Any]:
    """Return the answer to a query: ``count`` results, without the references and their near-duplicates."""
    results: list[dict[str, Any]] = []
    for result in found.results:
        if {result.photo.path, *(photo.path for photo in result.copies)} & set(references):
            continue
        if len(results) == count:
            break
        entry = {"rank": len(results) + 1, "score": round(float(result.score), 4), **photo_json(result.photo)}
        results.append(entry | {"copies": [photo_json(photo) for photo in result.copies]})
    return {
        "text": found.text,
        "results": results,
        "phrases": [phrase_json(phrase) for phrase in found.phrases],
    }


def phrase_json(phrase: Phrase) -> dict[str, Any]:
    """Return a phrase with its attention over the first reference, if there is one, row by row."""
    attention = None
    if phrase.attention is not None:
        rows, columns = phrase.attention.shape
        values = [round(float(value), 5) for value in phrase.attention.flatten().tolist()]
        attention = {"rows": rows, "columns": columns, "values": values}
    return {"text": phrase.text, "start": phrase.start, "end": phrase.end, "attention": attention}


def export(photos: Collection[Photo], kind: str) -> tuple[bytes, str]:
    """Return a list of images as a file, and its name: ``text``, a path a line, or ``json``.

    Raises:
        InputError: for another kind.
    """
    if kind == "text":  # a line feed in the name of a file is escaped
        lines = "".join(f"{printable(photo.path)}\n" for photo in photos)
        return lines.encode("utf-8", "backslashreplace"), "photos.txt"
    if kind == "json":
        fields = ("path", "sha256", "size", "format", "width", "height")
        listed = [
            {**{name: getattr(photo, name) for name in fields}, "taken": day_and_time(photo.taken)} for photo in photos
        ]
        return as_json(listed), "photos.json"
    raise InputError(f"expected one of {', '.join(EXPORTS)}, got {shown(kind)}", setting="format")
