"""The image files below a folder, in an order that is the same every time."""

import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))


@dataclass
class Listing:
    """What a folder holds.

    ``images``: paths below it, with "/", sorted. ``refused``: names of images that can't be used, and why. ``others``:
    how many files are no images by their names, by suffix.
    """

    folder: str
    images: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Listing":
        """Return the listing that `to_json` made the values of."""
        return cls(**{**values, "refused": [(name, reason) for name, reason in values["refused"]]})


def list_images(folder: Path) -> Listing:
    """Return the images below a folder, known by their suffixes; folders that are links are followed, each once.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image.
        OSError: if a folder below it can't be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: change --images")
    listing, others, seen = Listing(str(folder.resolve())), Counter[str](), set()
    for place, below, files in os.walk(folder, followlinks=True, onerror=_fail):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above would never end
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        for name in files:
            path = Path(place, name).relative_to(folder).as_posix()
            suffix = os.path.splitext(name)[1].lower()
            if suffix not in SUFFIXES:
                others[suffix if suffix.isprintable() else "?"] += 1
            elif not path.isprintable():
                listing.refused.append((ascii(path)[1:-1], "the name can't be printed"))
            else:
                listing.images.append(path)
    if not listing.images:
        raise ValueError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}): change --images")
    listing.images.sort()
    listing.refused.sort()
    listing.others = dict(sorted(others.items()))
    return listing


def _fail(error: OSError) -> None:
    raise error
