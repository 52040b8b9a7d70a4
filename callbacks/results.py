"""The result files of a run: ``metrics.json``, and the same figures as tables."""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

METRICS_FILE = "metrics.json"
TABLE_FILE = "recall_table.md"

PHASES = {
    "fit_start": "before training",
    "fit_end": "after training",
    "validate": "validate",
    "test": "test",
}
SHORT = {"recall_at_": "R@", "subset_recall_at_": "Rsub@", "map_at_": "mAP@"}


class Sheet(NamedTuple):
    """A table of texts."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.header, ["---", *("---:" for _ in self.header[1:])], *self.rows]
        return f"**{self.title}**\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def add_results(folder: Path, phase: str, split: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Put figures of one split into ``metrics.json``, beside what is there, and write the tables anew.

    Returns the whole content. Both files are replaced at once: a reader never sees half of one.

    Raises:
        ValueError: if there is a ``metrics.json`` that is not a JSON object.
    """
    path = folder / METRICS_FILE
    try:
        results = json.loads(path.read_text()) if path.exists() else {}
        results.setdefault(phase, {}).setdefault(split, {}).update(entry)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds something else than results ({error}): move it away") from error
    replace_text(path, json.dumps(results, indent=2) + "\n")
    sheets = [
        sheet
        for phase in PHASES
        for split, entry in results.get(phase, {}).items()
        if "rows" in entry
        for sheet in make_sheets(phase, split, entry)
    ]
    if sheets:
        replace_text(folder / TABLE_FILE, "\n".join(sheet.markdown() for sheet in sheets))
    return results


def replace_text(path: Path, text: str) -> None:
    """Write a file next to ``path`` and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, suffix=".part", delete=False) as part:
        part.write(text)
    try:
        os.chmod(part.name, 0o644)
        os.replace(part.name, path)
    except OSError:
        os.unlink(part.name)
        raise


def make_sheets(phase: str, split: str, entry: Mapping[str, Any]) -> list[Sheet]:
    """Return the table of all rows, and the one of the composed row by stratum where the protocol has strata."""
    protocol, seen, rows = entry["protocol"], entry["seen"], entry["rows"]
    strata = {name: count for name, count in protocol["strata"].items() if _with_suffix(rows["composed"], name)}
    names = [name for name in rows["composed"] if not any(name.endswith(f"_{stratum}") for stratum in strata)]
    size = " x ".join(
        f"{total:,} {what}" if seen[what] == total else f"{seen[what]:,} of {total:,} {what}"
        for what, total in (("queries", protocol["queries"]), ("gallery", protocol["gallery"]))
    )
    title = f"{protocol['benchmark']} {split}, {PHASES[phase]} ({size} images; percent)"
    header = [_short(name) for name in names]
    body = [[row.replace("_", " "), *_cells(figures[name] for name in names)] for row, figures in rows.items()]
    sheets = [Sheet(title, ["query", *header], body)]
    if strata:
        composed = rows["composed"]
        body = [
            [stratum.replace("_", " "), f"{count:,}", *_cells(composed[f"{name}_{stratum}"] for name in names)]
            for stratum, count in strata.items()
        ]
        title = f"{protocol['benchmark']} {split}, {PHASES[phase]}: composed, by group"
        sheets.append(Sheet(title, ["group", "queries", *header], body))
    return sheets


def _with_suffix(figures: Mapping[str, float], stratum: str) -> bool:
    return any(name.endswith(f"_{stratum}") for name in figures)


def _short(name: str) -> str:
    return next((short + name.removeprefix(long) for long, short in SHORT.items() if name.startswith(long)), name)


def _cells(values: Iterable[float]) -> list[str]:
    return [f"{value:.2f}" for value in values]
