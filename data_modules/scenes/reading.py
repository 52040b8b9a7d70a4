"""Parses instructions about scenes into the changes that they ask for.

The grammar shares only the vocabulary with the code that writes such texts, so that it can find errors of that code.
"""

import re
from dataclasses import dataclass

from data_modules.scenes.graph import BACKGROUNDS, COLOURS, FILLS, SHAPES, SIZES

KINDS = {  # attribute by word
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(FILLS, "fill"),
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(SHAPES, "shape"),
}
GENERIC = ("object", "shape")  # nouns without an attribute
ROWS = {"top": 0, "bottom": 2}
COLUMNS = {"left": 0, "right": 2}
COMPARED = {"smaller": "small", "bigger": "large", "larger": "large"}
BACKGROUND = "background"

ADJECTIVE = rf"(?:{'|'.join((*SIZES, *FILLS, *COLOURS))})"
NOUN = rf"(?:{'|'.join((*SHAPES, *GENERIC))})"
THE = rf"(?P<it>the (?:{ADJECTIVE} )*{NOUN})"
A = rf"(?P<new>an? (?:{ADJECTIVE} )*(?:{'|'.join(SHAPES)}))"
INTO = rf"an? (?P<shape>{'|'.join(SHAPES)})"
VALUE = rf"(?P<value>{ADJECTIVE})"
GROUND = rf"(?P<ground>{'|'.join(BACKGROUNDS)})"
WHERE = (
    r"(?:in|at|on|to) the (?P<place>centre|middle|(?:top|bottom) (?:left|right)|top|bottom|left|right)"
    r"(?: (?:corner|edge|side))?"
)

PATTERNS = (
    rf"(?:make|change|turn|paint|colour|recolour) {THE} (?:to |in )?{VALUE}",
    rf"fill {THE} so that it is {VALUE}",
    rf"give {THE} an? {VALUE} fill",
    rf"{THE} (?:should be|is|becomes) {VALUE}(?: now)?",
    rf"make {THE} (?P<compared>{'|'.join(COMPARED)})",
    rf"(?P<shrink>shrink|reduce) {THE}",
    rf"scale {THE} (?P<scale>down|up)",
    rf"(?P<grow>enlarge) {THE}",
    rf"(?:turn|replace|change|make|swap) {THE} (?:into |with |to |for )?{INTO}",
    rf"{THE} should be {INTO}",
    rf"{INTO} instead of {THE}",
    rf"(?:move|shift|put) {THE} {WHERE}",
    rf"{THE} is {WHERE} now",
    rf"(?P<remove>remove|delete|take away|get rid of|without|erase) {THE}",
    rf"{THE} is (?P<gone>gone)",
    rf"(?:add|put|place|there should be|insert|draw) {A}(?: {WHERE}| somewhere)?",
    rf"(?:change|make) the background (?:to )?{GROUND}",
    rf"the background (?:is|should be) {GROUND}",
    rf"(?:on|with|use) an? {GROUND} background",
)
CLAUSES = tuple(re.compile(pattern) for pattern in PATTERNS)
JOINTS = re.compile(r"\. also |\. |, then |, | and ")


@dataclass(frozen=True)
class Look:
    """The attributes that a phrase gives an object; None for those left open. ``cell``: its place, as in a scene."""

    size: str | None = None
    fill: str | None = None
    colour: str | None = None
    shape: str | None = None
    cell: int | None = None


@dataclass(frozen=True)
class Statement:
    """One change that a text asks for.

    ``about``: the look of the object in the reference; None where an object is added, or the background changes.
    ``becomes``: its new attributes; None if the object is removed. ``background``: the new one.
    """

    about: Look | None = None
    becomes: Look | None = None
    background: str | None = None


class Unreadable(ValueError):
    """A clause that the grammar does not have."""


def read(text: str) -> tuple[Statement, ...]:
    """Return the changes that a text asks for, in order; each once, but as many additions as there are.

    Raises:
        Unreadable: if the grammar does not have some clause.
    """
    clauses = JOINTS.split(" ".join(text.lower().split()).rstrip("."))
    statements: list[Statement] = []
    for statement in map(_read_clause, clauses):
        adds = statement.about is None and statement.becomes is not None  # twice "a red star" are two stars
        if adds or statement not in statements:
            statements.append(statement)
    return tuple(statements)


def _read_clause(clause: str) -> Statement:
    for pattern in CLAUSES:
        if match := pattern.fullmatch(clause):
            return _statement({name: words for name, words in match.groupdict().items() if words})
    raise Unreadable(f"no clause about scenes: {clause!r}")


def _statement(words: dict[str, str]) -> Statement:
    if "ground" in words:
        return Statement(background=words["ground"])
    cell = _cell(words["place"]) if "place" in words else None
    if "new" in words:
        return Statement(becomes=Look(**_attributes(words["new"]), cell=cell))
    about = Look(**_attributes(words["it"]))
    if "remove" in words or "gone" in words:
        return Statement(about)
    if cell is not None:
        return Statement(about, Look(cell=cell))
    if "shape" in words:
        return Statement(about, Look(shape=words["shape"]))
    if "value" in words:
        return Statement(about, Look(**_attributes(words["value"])))
    if "compared" in words:
        return Statement(about, Look(size=COMPARED[words["compared"]]))
    return Statement(about, Look(size="large" if "grow" in words or words.get("scale") == "up" else "small"))


def _attributes(phrase: str) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for word in phrase.split():
        if word in KINDS and attributes.setdefault(KINDS[word], word) != word:
            raise Unreadable(f"two values of one attribute: {phrase!r}")
    return attributes


def _cell(place: str) -> int:
    """Return the cell of a place; cells are counted in rows of three from the top left."""
    words = place.split()
    row = next((ROWS[word] for word in words if word in ROWS), 1)
    column = next((COLUMNS[word] for word in words if word in COLUMNS), 1)
    return 3 * row + column
