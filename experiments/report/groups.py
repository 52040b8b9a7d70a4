"""Groups of queries that figures are repeated for: strata of the benchmark, and the length of the caption."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.results import Split

TITLES = {
    "concepts": "Number of concepts",
    "aspect": "Kind of edit, or semantic aspect",
    "answerable": "What it takes to answer",
}
ANSWERABLE = {  # of scenes
    "text": "the text",
    "unbound": "text + attributes",
    "bound": "text + whole reference",
    "several": "several images fit",
}
OTHER, LENGTH = "Other groups", "Length of the caption"
LENGTHS = 4  # groups of about equal size


class Group(NamedTuple):
    """Some queries of a split: ``key`` names the group in a page, ``label`` for a reader; ``members`` are positions."""

    key: str
    label: str
    members: Sequence[int]


def groups_of(split: Split) -> dict[str, list[Group]]:
    """Return all groups by the title of their kind; the first is that of all queries."""
    found: dict[str, list[Group]] = {"All": [Group("all", "all queries", range(len(split.queries)))]}
    for name, members in sorted(split.strata.items(), key=lambda item: _natural(item[0])):
        stem, _, rest = name.partition("_")
        title = TITLES.get(stem, OTHER)
        label = (rest if stem in TITLES else name).replace("_", " ")
        label = ANSWERABLE.get(rest, label) if stem == "answerable" else label
        found.setdefault(title, []).append(Group(name, label, members))
    lengths = by_length(split)
    return found | ({LENGTH: lengths} if len(lengths) > 1 else {})


def by_length(split: Split) -> list[Group]:
    """Return the queries by the number of words of their captions, in groups of about equal size."""
    if not split.found:
        return []
    words = np.array([len(query.text.split()) for query in split.found])
    edges = sorted({int(edge) for edge in np.quantile(words, np.arange(1, LENGTHS) / LENGTHS, method="lower")})
    groups, low = [], int(words.min())
    for high in [*(edge for edge in edges if edge < words.max()), int(words.max())]:
        members = ((words >= low) & (words <= high)).nonzero()[0].tolist()
        if members:
            label = f"{low} to {high} words" if low < high else f"{low} words"
            groups.append(Group(f"words_{low}_{high}", label, members))
        low = high + 1
    return groups


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort numbers in names by their value."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
