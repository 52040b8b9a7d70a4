"""An HTML page of random samples, on which everything from images, captions and models is escaped text."""

import base64
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import quote

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.files import write_text
from contextcir.images import ImageFile, StoredImage, read_image
from contextcir.shards.texts import SortedTexts
from contextcir.synthesis.outputs.manifest import FOLDER as MANIFEST
from contextcir.synthesis.photos import Photos, photos_of
from contextcir.synthesis.records import Description, Instruction, Pair, Verdict
from contextcir.synthesis.store import Lookup, read_stage

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 70em; }
article { border-top: 1px solid #999; padding: 1em 0; display: grid; grid-template-columns: 1fr 1fr 2fr; gap: 1em; }
img { max-width: 100%; max-height: 18em; } figure { margin: 0; } figcaption, small { color: #555; }
.rejected { background: #fff0f0; } ul { padding-left: 1.2em; } .same { color: #777; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ samples|length }} texts drawn at random. Grey: the same on both images. Red: rejected.</p>
{% for sample in samples %}
<article{% if sample.reason %} class="rejected"{% endif %}>
{% for side in sample.sides %}
<figure><img src="{{ side.address }}" alt="{{ side.path }}" loading="lazy">
<figcaption>{{ side.path }}
<ul>{% for entry in side.objects %}
<li{% if entry.same %} class="same"{% endif %}><b>{{ entry.name }}</b>: {{ entry.words }}</li>
{% endfor %}</ul></figcaption></figure>
{% endfor %}
<div><p><strong>{{ sample.caption }}</strong></p>
<ul>{% for edit in sample.edits %}<li>{{ edit }}</li>{% endfor %}</ul>
<small>{{ sample.key }}; {{ sample.verdict }}</small></div>
</article>
{% endfor %}
</body>
</html>
"""


class SheetImages(ABC):
    """How the page refers to images."""

    @abstractmethod
    def address(self, image: ImageFile, page: Path) -> str:
        """Return the ``src`` of an image on a page in the folder ``page``."""


class LinkedImages(SheetImages):
    """Links: the page shows the images as long as neither it nor they are moved; none where they are no files."""

    def address(self, image: ImageFile, page: Path) -> str:
        if isinstance(image, StoredImage):
            return ""
        # quoted, so that no name can be taken for a scheme, a query or markup
        return quote(os.path.relpath(image.absolute(), page.absolute()).replace(os.sep, "/"))


@dataclass(frozen=True)
class EmbeddedImages(SheetImages):
    """Small copies inside the page, which can then be passed on as one file.

    Args:
        side: Pixels of their longer side.
    """

    side: int = 192

    def __post_init__(self) -> None:
        whole(self.side, 1, "write.images.side", 10_000)

    def address(self, image: ImageFile, page: Path) -> str:
        buffer = io.BytesIO()
        try:
            small = read_image(image, upright=True, side=self.side)
        except InputError:
            return LinkedImages().address(image, page)  # shown as broken, with its path
        small.thumbnail((self.side, self.side))
        small.save(buffer, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_sheet(
    folder: Path, images: Path | Photos, show: SheetImages, samples: int, seed: int = 0, links: bool = False
) -> Path:
    """Write ``manifest/samples.html`` below the folder of a synthesis and return its path.

    Args:
        folder: of the synthesis; of its judged texts, kept and rejected, samples are drawn.
        images: the images, or the folder that their paths are below.
        show: how the page refers to them.
        samples: how many.
        seed: of the draw.
        links: let links lead out of the folder of images; the others are only named.
    """
    verdicts, texts, pairs, descriptions = (
        Lookup(folder, stage) for stage in ("filter", "instruct", "pairs", "describe")
    )
    keys = SortedTexts()
    for record in read_stage(folder, "filter"):
        keys.add(record["key"])
    chosen = Random(seed).sample(range(len(keys)), min(samples, len(keys)))  # noqa: S311  (no secret)
    places = set(chosen)
    named = {place: key for place, key in enumerate(keys) if place in places}
    drawn = [named[place] for place in chosen]
    path = folder / MANIFEST / "samples.html"
    entries, photos = [], photos_of(images, links)

    def address(image: str) -> str:
        try:
            return show.address(photos.image(image), path.parent)
        except InputError:
            return ""

    for key in drawn:
        instruction = Instruction.from_json(texts[key])
        entries.append(
            _sample(
                instruction,
                Pair.from_json(pairs[instruction.pair]),
                Description.from_json(descriptions[instruction.pair]),
                Verdict.from_json(verdicts[key]),
                address,
            )
        )
    write_text(path, render(entries))
    return path


def render(samples: Sequence[dict[str, object]], title: str = "Samples of synthetic triplets") -> str:
    """Return the page; every value is escaped by the template engine."""
    from jinja2 import Environment  # only the last stage needs it

    return Environment(autoescape=True).from_string(PAGE).render(title=title, samples=samples)


def _sample(
    instruction: Instruction,
    pair: Pair,
    description: Description,
    verdict: Verdict,
    address: Callable[[str], str],
) -> dict[str, object]:
    common = [entry for entry in description.reference if entry in description.target]
    sides = [
        {
            "path": path,
            "address": address(path),
            "objects": [
                {"name": entry["object"], "words": ", ".join(entry["descriptors"]), "same": entry in common}
                for entry in objects
            ],
        }
        for path, objects in ((pair.reference, description.reference), (pair.target, description.target))
    ]
    scores = ", ".join(f"{name} {value:.3f}" for name, value in verdict.scores.items())
    return {
        "key": instruction.key,
        "caption": instruction.caption,
        "edits": instruction.edits,
        "reason": verdict.reason,
        "verdict": (verdict.reason or "kept") + (f" ({scores})" if scores else ""),
        "sides": sides,
    }
