"""A page of what a search found: one file with all pictures in it, on which every name is escaped text."""

import base64
import time
from collections.abc import Iterator
from typing import NamedTuple

from contextcir.errors import printable
from contextcir.search.index import Photo
from contextcir.search.photos import thumbnail_of
from contextcir.search.queries import Found, Query

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Photos</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222; }
header { display: flex; gap: 1em; align-items: center; flex-wrap: wrap; border-bottom: 1px solid #ccc; }
header img { height: 9em; } mark { background: #fff1b8; } small, figcaption { color: #555; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(14em, 1fr)); gap: 1.2em; margin-top: 1.5em; }
figure { margin: 0; } figure img { width: 100%; height: 14em; object-fit: contain; background: #f4f4f4; }
figcaption { overflow-wrap: anywhere; }
</style>
</head>
<body>
<header>
{% for picture in pictures %}<img src="{{ picture }}" alt="image of the query">{% endfor %}
<p>{% for part in parts %}{% if part.marked %}<mark>{{ part.text }}</mark>{% else %}{{ part.text }}{% endif %}\
{% endfor %}</p>
</header>
<p><small>{{ results|length }} photos of {{ folder }}</small></p>
<main>
{% for result in results %}
<figure><img src="{{ result.picture }}" alt="photo {{ result.rank }}">
<figcaption>{{ result.rank }}. <bdi>{{ result.path }}</bdi><br>\
<small>{{ result.score }}{% if result.day %}, {{ result.day }}{% endif %}\
{% if result.copies %}; like it: {% for path in result.copies %}<bdi>{{ path }}</bdi> {% endfor %}{% endif %}</small>
</figcaption></figure>
{% endfor %}
</main>
</body>
</html>
"""


class Part(NamedTuple):
    """A piece of the text, and whether it is a noun phrase."""

    text: str
    marked: bool


def page_of(query: Query, found: Found, folder: str) -> str:
    """Return the page; ``folder``: of the photos."""
    from jinja2 import Environment

    page = Environment(autoescape=True, keep_trailing_newline=True).from_string(PAGE)
    results = [
        {
            "rank": result.rank,
            "score": f"{result.score:.3f}",
            "path": printable(result.photo.path),
            "day": _day(result.photo),
            "picture": _address(result.photo.thumbnail),
            "copies": [printable(photo.path) for photo in result.copies],
        }
        for result in found.results
    ]
    pictures = [_address(thumbnail_of(image)) for image in query.images]
    return page.render(pictures=pictures, parts=list(parts_of(found)), results=results, folder=printable(folder))


def parts_of(found: Found) -> Iterator[Part]:
    """Yield the pieces of the text; of phrases that overlap, the first one counts."""
    place = 0
    for phrase in found.phrases:
        if phrase.start >= place:
            yield Part(found.text[place : phrase.start], False)
            yield Part(phrase.text, True)
            place = phrase.end
    yield Part(found.text[place:], False)


def _address(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _day(photo: Photo) -> str:
    return "" if photo.taken is None else time.strftime("%Y-%m-%d", time.gmtime(photo.taken))
