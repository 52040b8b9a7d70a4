"""The tables of a report: recall by group, what comes first instead of the target, and two runs side by side."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.report.groups import Group, groups_of
from experiments.report.results import COMPOSED, Split
from experiments.report.statistics import Estimate, estimate, mcnemar

BASELINES = ("sum", "image_only", "text_only")
NOBODY = "another image"
ORDER = ("target", "reference")  # what comes first in the table of confusions


class Column(NamedTuple):
    """A figure: its title, and the value of every query, None for one that does not count."""

    title: str
    values: Sequence[float | None]


class Line(NamedTuple):
    """A group and the figures of a table for it."""

    group: Group
    cells: list[Estimate | None]


class Section(NamedTuple):
    """The lines of one kind of groups."""

    title: str
    lines: list[Line]


class Table(NamedTuple):
    """Figures by group. ``titles``: of the columns."""

    titles: list[str]
    sections: list[Section]


def by_group(split: Split, columns: Sequence[Column]) -> Table:
    """Return the means of columns, with their intervals, by group."""
    clusters = split.clusters()
    sections = [
        Section(title, [Line(g, [estimate(c.values, clusters, g.members) for c in columns]) for g in groups])
        for title, groups in groups_of(split).items()
    ]
    return Table([column.title for column in columns], sections)


def recall_columns(split: Split) -> list[Column]:
    """Return the figures of the composed query, then the first recall of the other rows."""
    first = "Rsub@" if split.in_subsets else "R@"
    columns = [Column(f"{first}{k}", split.hits(k)) for k in ((1, 2, 3) if split.in_subsets else (1, 5, 10))]
    if split.has_subsets():
        columns.append(Column("Rsub@1", split.hits(1, subset=True)))
    if split.several_targets:
        columns.append(Column("mAP@5", split.precision(5)))
    rows = [row for row in BASELINES if row in split.rows]
    return columns + [Column(f"{row.replace('_', ' ')} {first}1", split.hits(1, row)) for row in rows]


def one_sided_columns(split: Split) -> list[Column]:
    """Return which queries one side alone ranks first, so that they need no composition; [] where no row says so."""
    if not {"image_only", "text_only"} <= split.rows.keys():
        return []
    image, text, composed = split.hits(1, "image_only"), split.hits(1, "text_only"), split.hits(1)

    def both(of: Callable[[float, float, float], float]) -> list[float | None]:
        return [
            None if i is None or t is None or c is None else of(i, t, c)
            for i, t, c in zip(image, text, composed, strict=True)
        ]

    return [
        Column("image alone", image),
        Column("text alone", text),
        Column("either alone", both(lambda i, t, c: max(i, t))),
        Column("neither, but composed", both(lambda i, t, c: c * (1 - max(i, t)))),
        Column("lost by composing", both(lambda i, t, c: (1 - c) * max(i, t))),
    ]


class Confusion(NamedTuple):
    """What comes first: how often, of ``total`` queries, by row of the recall table."""

    kind: str
    counts: dict[str, int]


def confusions(split: Split) -> tuple[list[Confusion], dict[str, int]]:
    """Return what the first image is to the query, the most frequent confusion first, and the queries of each row."""
    rows = [row for row in (COMPOSED, "sum") if any(row in query.top for query in split.found or ())]
    of: dict[str, Counter[str]] = {row: Counter() for row in rows}
    for query in split.found or ():
        for row in rows:
            if query.top.get(row):
                of[row][query.kinds.get(query.top[row][0][0], NOBODY)] += 1
    kinds = sorted(
        {kind for counter in of.values() for kind in counter},
        key=lambda kind: (kind == NOBODY, [*ORDER, kind].index(kind), -of[COMPOSED][kind], kind),
    )
    return [Confusion(kind, {row: of[row][kind] for row in rows}) for kind in kinds], {
        row: counter.total() for row, counter in of.items()
    }


def roles(split: Split) -> list[tuple[str, Estimate]]:
    """Return how often the target comes before all hard negatives of a kind, the hardest kind first."""
    found = []
    for role, before in split.before.items():
        values = [None if first is None else float(first) for first in before]
        figure = estimate(values, split.clusters(), range(len(values)))
        if figure is not None:
            found.append((role, figure))
    return sorted(found, key=lambda item: (item[1].mean, item[0]))


class Paired(NamedTuple):
    """Two runs on a group: recall at 1 of both, their difference, queries that the second won and lost, and p."""

    group: Group
    first: Estimate
    second: Estimate
    difference: Estimate
    won: int
    lost: int
    p: float


def compare(first: Split, second: Split) -> list[tuple[str, list[Paired]]]:
    """Return the comparison of two runs by group, the second minus the first, over queries that both have seen."""
    before, after = first.hits(1), second.hits(1)
    seen = [place for place, pair in enumerate(zip(before, after, strict=True)) if None not in pair]
    change = [None if b is None or a is None else a - b for b, a in zip(before, after, strict=True)]
    clusters, inside = first.clusters(), set(seen)
    sections = []
    for title, groups in groups_of(first if first.found else second).items():
        lines = []
        for group in groups:
            members = [place for place in group.members if place in inside]
            figures = [estimate(values, clusters, members) for values in (before, after, change)]
            if members and None not in figures:
                won, lost = (sum(change[place] == sign for place in members) for sign in (1, -1))
                lines.append(Paired(group, *figures, won, lost, mcnemar(won, lost)))
        if lines:
            sections.append((title, lines))
    return sections


def changed(first: Split, second: Split, won: bool, count: int) -> list[int]:
    """Return the queries that the second run won at 1, or lost, those whose rank changed the most first."""
    before, after = first.ranks(), second.ranks()
    places = []
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        if old is None or new is None or (old == 1) == (new == 1) or (new == 1) != won:
            continue
        other = old if won else new
        places.append((other > 0, -other, place))  # a target that was not ranked is further away than any rank
    return [place for _, _, place in sorted(places)][:count]
