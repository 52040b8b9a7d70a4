"""The leaderboard as one HTML page that loads nothing: what comes from data is escaped text in it."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.leaderboard.entries import REPRODUCED, Cell, Entry
from experiments.leaderboard.markdown import GAP, INTERVALS, NOT_MIXED, about, columns
from experiments.leaderboard.tables import COMPOSED, SIDES, Table, gap, short

FOLDER = Path(__file__).parent
NUMBERS = ("gap", "seeds", "parameters", "dimension", "verified")  # columns that sort by number


def render(tables: Sequence[Table], title: str) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # no other command needs it

    environment = Environment(autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(FOLDER))
    script, style = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    parts = [
        {"name": name, "kind": kind, "note": note, "tables": [_table(t) for t in tables if t.kind == kind]}
        for name, kind, note in (
            (
                "Reproduced",
                REPRODUCED,
                f"Percent, computed by this project from ranks that are kept. In small print {INTERVALS} {GAP}",
            ),
            ("Reported", "reported", NOT_MIXED),
        )
    ]
    return environment.get_template("page.html").render(
        title=title,
        parts=[part for part in parts if part["tables"]],
        script=script,
        style=style,
        script_hash=hashes[0],
        style_hash=hashes[1],
    )


def _table(table: Table) -> dict[str, Any]:
    headers = [
        {"title": short(metric), "numeric": True, "sorted": "descending" if not number else ""}
        for number, metric in enumerate(table.metrics)
    ]
    headers += [{"title": name, "numeric": name in NUMBERS, "sorted": ""} for name in columns(table)]
    return {
        "title": table.title,
        "anchor": table.anchor,
        "words": table.words,
        "headers": headers,
        "groups": [_group(entry, table) for entry in table.entries],
        "sides": any(row in entry.figures for entry in table.entries for row in SIDES),
        "sources": list(dict.fromkeys(entry.source for entry in table.entries)) if table.kind != REPRODUCED else [],
    }


def _group(entry: Entry, table: Table) -> dict[str, Any]:
    texts, titles = about(entry, table), columns(table)
    keys: dict[str, Any] = {
        "gap": gap(entry),
        "seeds": entry.seeds,
        "parameters": entry.parameters,
        "dimension": entry.dimension,
        "verified": None if entry.checked is None else entry.checked[0] / max(1, entry.checked[1]),
    }
    more = [
        {"text": text.replace("\\", ""), "numeric": title in NUMBERS, "key": keys.get(title, text.lower())}
        for text, title in zip(texts, titles, strict=True)
    ]
    return {
        "name": entry.name,
        "note": entry.source,
        "cells": [_cell(entry.figures.get(COMPOSED, {}).get(metric)) for metric in table.metrics],
        "more": more,
        "sides": [
            {
                "name": row.replace("_", " "),
                "cells": [_cell(entry.figures[row].get(metric)) for metric in table.metrics],
            }
            for row in SIDES
            if row in entry.figures
        ],
    }


def _cell(cell: Cell | None) -> dict[str, Any]:
    if cell is None:
        return {"text": "–", "interval": "", "key": None}
    interval = "" if cell.low is None or cell.high is None else f"{cell.low:.1f} to {cell.high:.1f}"
    return {"text": f"{cell.mean:.2f}", "interval": interval, "key": cell.mean}
