"""A searcher over drawn pictures whose order can be said beforehand, with the interface of the real one."""

import io
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from contextcir.errors import InputError
from contextcir.search.index import Hit, Photo
from contextcir.search.queries import Found, Phrase, Query, Result
from tests.helpers.photos import MemoryIndex

COLOURS = {
    "red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 200), "yellow": (225, 200, 40),
    "purple": (130, 50, 150), "white": (240, 240, 240),
}  # fmt: skip
DAY = 86_400


def drawn(colour: str, size: tuple[int, int] = (120, 90), shift: int = 0) -> Image.Image:
    """Return a disc of a colour on grey."""
    image = Image.new("RGB", size, (128, 128, 128))
    middle, radius = (size[0] // 2 + shift, size[1] // 2), min(size) // 3
    box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
    ImageDraw.Draw(image).ellipse(box, fill=COLOURS[colour])
    return image


def jpeg(image: Image.Image, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def colour_of(image: Image.Image) -> Tensor:
    """Return the direction of the mean colour (3,) of an image, from grey."""
    pixels = torch.tensor(np.asarray(image.convert("RGB").resize((16, 16)), dtype=np.float32))
    return torch.nn.functional.normalize(pixels.mean((0, 1)) - 127.4, dim=0)


def whole(image: Image.Image) -> Tensor:
    """Return an image as pixels (3, 8, 8), all of it."""
    return torch.tensor(np.asarray(image.resize((8, 8)))).permute(2, 0, 1)


def middle(image: Image.Image) -> Tensor:
    """Return the middle square of an image as pixels (3, 8, 8)."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return whole(image.crop((left, top, left + side, top + side)))


class FakeSearcher:
    """Finds by colour: the mean of the references' colours, and of those that the text names.

    ``calls`` holds the sizes of the batches; each takes ``seconds``. A text with "fault" is one that it fails at.
    Pictures in a folder ``copies`` are copies of that which differs by the folder only.
    """

    def __init__(self, folder: Path, pictures: Mapping[str, Image.Image], seconds: float = 0.0) -> None:
        self.folder, self.index, self.seconds = folder, MemoryIndex(), seconds
        self.described = {"model": "colours"}
        self.model = SimpleNamespace(preprocess=whole)
        self.calls: list[int] = []
        self.threads: set[int] = set()
        photos = []
        for number, (path, image) in enumerate(pictures.items()):
            content = jpeg(image)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
            taken = None if number % 3 == 2 else (20_000 + 40 * number) * DAY
            size, thumbnail = image.size, jpeg(image.resize((60, 45)))
            photos.append(Photo(path, len(content), 0, "0" * 64, 0, taken, "JPEG", *size, thumbnail))
        self.index.upsert(photos, torch.stack([colour_of(image) for image in pictures.values()]))

    def check(self, query: Query) -> None:
        """Refuse a text with "refused"."""
        if "refused" in query.text:
            raise InputError("this text is refused", setting="text")

    def search_many(self, queries: Sequence[Query]) -> list[Found]:
        """Answer a batch."""
        self.calls.append(len(queries))
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        if any("fault" in query.text for query in queries):
            raise RuntimeError("the model fails at this batch")
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> Found:
        parts = [colour_of(image) for image in query.images]
        spans = list(re.finditer(rf"(?:a |the )?({'|'.join(COLOURS)})(?: \w+)?", query.text))
        parts += [3 * torch.nn.functional.normalize(torch.tensor(COLOURS[s[1]]) - 127.4, dim=0) for s in spans]
        wanted = torch.nn.functional.normalize(torch.stack(parts or [torch.ones(3)]).mean(0), dim=0)
        for path in query.without:
            wanted = torch.nn.functional.normalize(2 * wanted - self.index.vectors[path], dim=0)
        hits = self.index.search(wanted[None], 10**6, query.where, query.without)[0]
        found: dict[str, tuple[Hit, list[Photo]]] = {}
        for hit in hits:
            key = hit.photo.path.replace("copies/", "") if query.fold else hit.photo.path
            if key in found:
                found[key][1].append(hit.photo)
            else:
                found[key] = hit, []
        listed = list(found.values())[: query.count]
        results = tuple(Result(i, hit.score, hit.photo, tuple(c)) for i, (hit, c) in enumerate(listed, 1))
        phrases = tuple(Phrase(s[0], s.start(), s.end(), self._map(i, query)) for i, s in enumerate(spans))
        return Found(results, phrases, query.text)

    @staticmethod
    def _map(number: int, query: Query) -> Tensor | None:
        """Return a map of 3 rows and 4 columns, nearly all of it at one patch."""
        if not (query.maps and query.images):
            return None
        attention = torch.full((12,), 0.02)
        attention[number % 12] = 1 - 0.02 * 11
        return attention.view(3, 4)


def gallery() -> dict[str, Image.Image]:
    """Return pictures of all colours in two folders, three of each colour, and copies of some."""
    pictures = {}
    for number, colour in enumerate(COLOURS):
        for shift in range(3):
            folder = "summer" if (number + shift) % 2 else "winter/snow"
            pictures[f"{folder}/{colour}-{shift}.jpg"] = drawn(colour, shift=10 * shift - 10)
    for name in ("summer/red-1.jpg", "winter/snow/red-0.jpg"):
        if name in pictures:
            pictures[f"copies/{name}"] = pictures[name]
    return pictures
