"""The leaderboard in Markdown."""

import re
from collections.abc import Sequence

from experiments.command import table as grid
from experiments.leaderboard.entries import REPRODUCED, Entry
from experiments.leaderboard.tables import COMPOSED, SIDES, Table, gap, short, text_of

REPRODUCED_TITLE, REPORTED_TITLE = "Reproduced", "Reported"
INTERVALS = (
    "the 95 % interval: over seeds (Student's t) where a row has several, else over the references of the queries "
    "(bootstrap)."
)
GAP = "Gap: 1 - max(image only, text only) / composed, on nDCG of the whole ranking."
NOT_MIXED = "Published figures, none of them measured here: protocols, backbones and training data differ."


def markdown(tables: Sequence[Table]) -> str:
    """Return all tables; what was reproduced and what is reported in parts of their own."""
    parts = []
    for title, kind, note in (
        (REPRODUCED_TITLE, REPRODUCED, f"Percent. In brackets {INTERVALS} {GAP}"),
        (REPORTED_TITLE, "reported", NOT_MIXED),
    ):
        chosen = [table for table in tables if table.kind == kind]
        if chosen:
            parts.append(f"## {title}\n\n{note}\n")
            parts += [_table(table) for table in chosen]
    return "\n".join(parts)


def _table(table: Table) -> str:
    header = ["model", *map(short, table.metrics), *columns(table)]
    rows = []
    for entry in table.entries:
        rows.append([_safe(entry.name), *_figures(entry, COMPOSED, table), *about(entry, table)])
        rows += [
            [f"· {row.replace('_', ' ')}", *_figures(entry, row, table), *[""] * len(columns(table))]
            for row in SIDES
            if row in entry.figures
        ]
    text = f"### {table.title}\n\n{_safe(table.words)}\n\n{grid(header, rows)}"
    sources = dict.fromkeys(entry.source for entry in table.entries)
    if table.kind != REPRODUCED:
        text += "\nSources: " + "; ".join(_safe(source) for source in sources) + ".\n"
    return text


def columns(table: Table) -> list[str]:
    """Return the titles of the columns beside the metrics."""
    titles = ["gap"] if table.has_gap else []
    if table.kind == REPRODUCED:
        return [*titles, "seeds", "parameters", "dimension", "licence", "verified"]
    known = [
        title
        for title, value in (("parameters", "parameters"), ("dimension", "dimension"), ("licence", "licence"))
        if any(getattr(entry, value) for entry in table.entries)
    ]
    return [*titles, *known, *(["note"] if any(entry.note for entry in table.entries) else [])]


def about(entry: Entry, table: Table) -> list[str]:
    """Return what stands in these columns."""
    found = gap(entry)
    cells = {
        "gap": "–" if found is None else f"{found:.3f}",
        "seeds": "–" if entry.seeds is None else str(entry.seeds),
        "parameters": size_text(entry.parameters),
        "dimension": "–" if entry.dimension is None else f"{entry.dimension:,}",
        "licence": _safe(entry.licence or "–"),
        "verified": "–" if entry.checked is None else f"{entry.checked[0]:,} of {entry.checked[1]:,}",
        "note": _safe(entry.note),
    }
    return [cells[title] for title in columns(table)]


def size_text(parameters: int | None) -> str:
    """Return a number of parameters, short."""
    if parameters is None:
        return "–"
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)


def _figures(entry: Entry, row: str, table: Table) -> list[str]:
    figures = entry.figures.get(row, {})
    return [text_of(figures.get(metric)) for metric in table.metrics]


def _safe(text: str) -> str:
    """Return a text of data that can't end a cell, or be a link or a tag."""
    return re.sub(r"([|\\`*_\[\]<>])", r"\\\1", " ".join(str(text).split()))
