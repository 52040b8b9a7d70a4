"""Words for scenes: captions, clause by clause with the span of every noun phrase, and full descriptions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from data_modules.scenes.graph import Scene, SceneObject, pick


@dataclass(frozen=True)
class Phrase:
    """A noun phrase of a caption: characters ``[start, end)``, and the object that it names in the reference."""

    start: int
    end: int
    key: int | None


@dataclass
class Caption:
    """A caption under construction."""

    text: str = ""
    phrases: list[Phrase] = field(default_factory=list)

    def say(self, template: str, **phrases: tuple[str, int | None]) -> None:
        """Append a template, each of whose ``{name}`` stands for a noun phrase given as (words, object key)."""
        while "{" in template:
            before, _, rest = template.partition("{")
            name, _, template = rest.partition("}")
            words, key = phrases[name]
            start = len(self.text) + len(before)
            self.text += before + words
            self.phrases.append(Phrase(start, start + len(words), key))
        self.text += template


def article(words: str) -> str:
    """Put the indefinite article before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def refer(rng: np.random.Generator, scene: Scene, item: SceneObject) -> str:
    """Name an object by a phrase that just distinguishes it: no shorter choice of its attributes would do."""
    names = ("size", "fill", "colour", "shape")
    others = [o for o in scene.objects if o.key != item.key]
    for count in range(1, 5):
        enough = [
            chosen
            for chosen in combinations(names, count)
            if not any(all(getattr(o, a) == getattr(item, a) for a in chosen) for o in others)
        ]
        # A bare attribute ("the striped object") is right but rare in speech; prefer to name the shape.
        shaped = [chosen for chosen in enough if "shape" in chosen]
        if shaped and (count > 1 or rng.random() < 0.8):
            enough = shaped
        if enough:
            chosen = pick(rng, enough)
            words = [getattr(item, a) for a in names if a in chosen]
            if "shape" not in chosen:
                words.append(pick(rng, ("object", "shape")))
            return "the " + " ".join(words)
    raise ValueError(f"two objects of the scene look alike: {item}")


def place_words(rng: np.random.Generator, cell: int, motion: bool = False) -> tuple[str, str]:
    """Say where a cell is, as (preposition, noun phrase): ("in", "the top left corner")."""
    row, column = divmod(cell, 3)
    name = " ".join(w for w in (("top", "", "bottom")[row], ("left", "", "right")[column]) if w)
    to = "to" if motion else None
    if not name:
        return to or "in", pick(rng, ("the centre", "the middle"))
    if " " in name:
        return to or "in", f"the {name} corner" if rng.random() < 0.5 else f"the {name}"
    if name in ("left", "right"):
        return to or "on", f"the {name}" if rng.random() < 0.5 else f"the {name} side"
    return to or "at", f"the {name}" if rng.random() < 0.5 else f"the {name} edge"


def describe_object(item: SceneObject) -> str:
    """Name all attributes of an object."""
    return article(" ".join(item.look))


_OPENINGS: tuple[tuple[str, str], ...] = (
    ("", " on {b}"), ("", ", on {b}"), ("{b} with ", ""), ("on {b} there is ", ""), ("a picture of ", " on {b}"),
    ("", " in front of {b}"), ("{b} and ", ""), ("an image that shows ", " on {b}"),
)  # fmt: skip


def describe(rng: np.random.Generator, scene: Scene, omit: float = 0.1) -> str:
    """Describe a whole scene in one sentence; ``omit`` is the chance that a place or a single attribute goes unsaid."""
    parts = []
    for index in rng.permutation(len(scene.objects)):
        item = scene.objects[index]
        words = list(item.look)
        if rng.random() < omit:
            words.pop(int(rng.integers(2)))  # size or fill: colour and shape are always said
        part = article(" ".join(words))
        if rng.random() >= omit:
            preposition, place = place_words(rng, item.cell)
            part += f" {preposition} {place}"
        parts.append(part)
    joiner = pick(rng, (", ", " and ", "; ", ", and "))
    before, after = pick(rng, _OPENINGS)
    background = article(f"{scene.background} background") if rng.random() < 0.5 else scene.background
    return (before + joiner.join(parts) + after).replace("{b}", background)


def join_clauses(rng: np.random.Generator, clauses: list[Callable[[Caption], None]]) -> Caption:
    """Say the clauses one after the other, in one of the ways in which people do."""
    caption = Caption()
    style = int(rng.integers(4))
    for number, clause in enumerate(clauses):
        last = number == len(clauses) - 1
        if number:
            caption.text += ((", ", " and ")[last], ", then ", ", ", (". ", ". also ")[last])[style]
        clause(caption)
    if style == 3:
        caption.text += "."
    return caption
