"""Queries as a page shows them: texts with coloured phrases, reference, target, and first images of rankings."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from callbacks.examples import NEAR, near_misses, worst
from callbacks.retrieved import Found
from callbacks.spans import COLOURS, owners
from experiments.report.groups import Group, groups_of
from experiments.report.pictures import Thumbnails
from experiments.report.results import COMPOSED, Split
from experiments.report.tables import changed

OTHERS = ("sum", "image_only", "text_only")


@dataclass(frozen=True)
class Piece:
    """A part of a caption: its text, the colour of its phrase, and that of a phrase around this one, or ""."""

    text: str
    colour: str
    under: str


@dataclass(frozen=True)
class Shot:
    """An image of a card. ``kind``: what it is to the query, "" where that is not known; ``score``: "" for none."""

    name: str
    address: str
    kind: str
    score: str = ""

    @property
    def right(self) -> bool:
        """Whether it is a right answer."""
        return self.kind == "target"


@dataclass(frozen=True)
class Ranked:
    """A ranking of a card: who ranked, the place of the target, and the first images."""

    label: str
    rank: str
    shots: list[Shot]


@dataclass(frozen=True)
class Maps:
    """The attention of a run: each phrase, its colour, and the ``src`` of its map."""

    run: str
    phrases: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Card:
    """A query to look at: ``reasons`` why, ``groups`` that it is in."""

    query: int
    pieces: list[Piece]
    reference: Shot
    targets: list[Shot]
    rankings: list[Ranked]
    ranks: list[tuple[str, str]]
    reasons: list[str]
    groups: list[Group]
    maps: list[Maps] = field(default_factory=list)


class Cards:
    """Makes the cards of a split.

    Args:
        splits: of one run or of two, by the label of the run.
        thumbnails: its images.
        images: how many of the first images a ranking shows.
    """

    def __init__(self, splits: dict[str, Split], thumbnails: Thumbnails, images: int) -> None:
        self.splits, self.thumbnails, self.images = splits, thumbnails, images
        self.groups = [group for groups in groups_of(next(iter(splits.values()))).values() for group in groups]

    def failures(self, label: str, count: int, of_group: int) -> list[Card]:
        """Return the worst failures and the near misses of a run: of all its queries, and of each group."""
        split, margins = self.splits[label], self.splits[label].margins()
        reasons: dict[int, list[str]] = {}
        for group in self.groups:
            most = count if group.key == "all" else of_group
            for place in worst(split.ranks(), group.members, most):
                reasons.setdefault(place, ["failure"])
            for place in near_misses(split.ranks(), margins, group.members, most):
                reasons.setdefault(place, ["near"])
        order = sorted(reasons, key=lambda place: _order(split.ranks()[place], margins[place], place))
        return [self.card(label, place, reasons[place]) for place in order]

    def changes(self, count: int) -> Iterator[Card]:
        """Yield the queries that the second run won, then those that it lost, the largest changes of rank first."""
        first, second = self.splits.values()
        for won, reason in ((True, "won"), (False, "lost")):
            for place in changed(first, second, won, count):
                yield self.card(None, place, [reason])

    def card(self, label: str | None, place: int, reasons: list[str]) -> Card:
        """Return the card of a query with the ranking of one run, or of both where ``label`` is None."""
        shown = {name: split for name, split in self.splits.items() if label in (None, name)}
        first = next(iter(shown.values()))
        query = (first.found or [])[place]
        rankings = []
        for name, split in shown.items():
            if split.found:
                title = "composed" if label is not None else name
                rankings.append(self._ranked(title, split, split.found[place], COMPOSED, place))
        if label is not None and "sum" in query.top:
            rankings.append(self._ranked("sum", first, query, "sum", place))
        rows = [row for row in (COMPOSED, *OTHERS) if row in first.rows]
        ranks = [(row.replace("_", " "), rank_text(first.ranks(row)[place])) for row in rows]
        return Card(
            query=query.query,
            pieces=pieces(query.text, query.phrases),
            reference=Shot(query.reference, self.thumbnails.address(query.reference), "reference"),
            targets=[Shot(name, self.thumbnails.address(name), "target") for name in query.targets[:1]],
            rankings=rankings,
            ranks=ranks,
            reasons=reasons,
            groups=[group for group in self.groups if place in group.members],
            maps=[maps for name, split in shown.items() if (maps := self._maps(name, split, place)) is not None],
        )

    def _maps(self, label: str, split: Split, place: int) -> Maps | None:
        query = (split.found or [])[place]
        if not query.attention or split.head is None or split.head.grid is None:
            return None
        addresses = self.thumbnails.maps(query.reference, split.head.grid, query.attention)
        phrases = [
            (query.text[start:end], COLOURS[number % len(COLOURS)], address)
            for number, ((start, end), address) in enumerate(zip(query.phrases, addresses, strict=False))
        ]
        return Maps(label, phrases) if phrases else None

    def _ranked(self, label: str, split: Split, query: Found, row: str, place: int) -> Ranked:
        shots = [
            Shot(name, self.thumbnails.address(name), query.kinds.get(name, ""), f"{score:.3f}")
            for name, score in query.top.get(row, ())[: self.images]
        ]
        return Ranked(label, rank_text(split.ranks(row)[place]), shots)


def rank_text(rank: int | None) -> str:
    """Return a rank in words."""
    return "not seen" if rank is None else f"rank {rank:,}" if rank else "not ranked"


def pieces(text: str, phrases: Sequence[tuple[int, int]]) -> list[Piece]:
    """Return a caption as parts that have one colour each, and one phrase around them at most."""
    owner = owners(len(text), phrases)
    around: list[int | None] = [None] * len(text)
    for number, (start, end) in sorted(enumerate(phrases), key=lambda item: item[1][0] - item[1][1]):
        for place in range(start, min(end, len(text))):
            if any((a, b) != (start, end) and start <= a and b <= end for a, b in phrases):  # it holds another phrase
                around[place] = number
    marks = list(zip(owner, around, strict=True))
    cuts = [0, *(place for place in range(1, len(text)) if marks[place] != marks[place - 1]), len(text)]

    def colour(number: int | None) -> str:
        return "" if number is None else COLOURS[number % len(COLOURS)]

    return [Piece(text[a:b], colour(owner[a]), colour(around[a])) for a, b in itertools.pairwise(cuts) if a < b]


def _order(rank: int | None, margin: float | None, place: int) -> tuple[bool, bool, float, int]:
    """Sort failures, the worst first, before near misses, the nearest first."""
    near = rank is not None and 0 < rank <= NEAR
    if near:
        return True, False, float("inf") if margin is None else margin, place
    return False, rank != 0, -(rank or 0), place
