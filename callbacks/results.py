"""The result files of a run: ``metrics.json``, and the same figures as tables."""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from rich import box
from rich.console import Console
from rich.table import Table

from contextcir.errors import InputError
from contextcir.files import read_json, write_json, write_text
from contextcir.weights import state_digest

METRICS_FILE = "metrics.json"
TABLE_FILE = "recall_table.md"

PHASES = {
    "fit_start": "before training",
    "fit_end": "after training",
    "validate": "validate",
    "test": "test",
}
SHORT = {
    "recall_at_": "R@",
    "subset_recall_at_": "Rsub@",
    "map_at_": "mAP@",
    "ndcg_at_": "nDCG@",
    "precision_at_": "P@",
    "neg_recall_at_": "NegR@",
    "any_negative_at_": "AnyNeg@",
    "map_without_negatives_at_": "mAP@-neg ",
}
SOFT = "soft_"


class Sheet(NamedTuple):
    """A table of texts, with a line below it, if any."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.header, ["---", *("---:" for _ in self.header[1:])], *self.rows]
        below = f"\n{self.note}\n" if self.note else ""
        return f"**{self.title}**\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + below


def show(sheet: Sheet, left: int = 1, bold: str | None = None) -> None:
    """Print a table to the terminal; ``left`` columns are aligned to the left, ``bold``: first cell of bold rows."""
    table = Table(box=box.SIMPLE_HEAD)
    for position, name in enumerate(sheet.header):
        table.add_column(name, justify="left" if position < left else "right", no_wrap=True)
    for cells in sheet.rows:
        table.add_row(*cells, style="bold" if cells[0] == bold else None)
    # In a log file there is no terminal whose width rich could take, and it would squeeze the columns.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(sheet.title, style="bold", highlight=False)
    console.print(table)
    if sheet.note:
        console.print(sheet.note, highlight=False)


def provenance(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return what made the figures of an evaluation, for a result JSON; all ranks take part.

    ``model`` and ``pretrained`` of the backbone. ``checkpoint``: the file of ``--ckpt_path`` and the SHA-256 of its
    content. Where there was none, as during training, ``checkpoint`` is null, and ``weights`` the SHA-256 over the
    state dict as it is now. ``parameters``: how many the whole model has, None where they are sharded; ``dimension`` of
    an embedding. A module with a ``provenance`` of its own says all of this itself.
    """
    if hasattr(module, "provenance"):
        return module.provenance()
    sharded = type(trainer.strategy).__name__.startswith("FSDP")
    made: dict[str, Any] = {
        "model": module.backbone.model_name,
        "pretrained": module.backbone.pretrained,
        "parameters": None if sharded else sum(weight.numel() for weight in module.parameters()),
        "dimension": module.backbone.widths.embed,
    }
    file = None if trainer.state.fn == "fit" else trainer.ckpt_path
    if file is not None and Path(file).is_file():
        with open(file, "rb") as content:
            return made | {
                "checkpoint": {"file": str(file), "sha256": hashlib.file_digest(content, "sha256").hexdigest()},
                "weights": None,
            }
    state = trainer.strategy.lightning_module_state_dict()  # a collective where the weights are sharded
    return made | {"checkpoint": None, "weights": state_digest(state) if trainer.is_global_zero else None}


def add_results(folder: Path, phase: str, split: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Put figures of one split into ``metrics.json``, beside what is there, and write the tables anew.

    Returns the whole content. Both files are replaced at once: a reader never sees half of one.

    Raises:
        InputError: if there is a ``metrics.json`` that is not a JSON object of results.
    """
    path = folder / METRICS_FILE
    try:
        results = read_json(path) if path.exists() else {}
        results.setdefault(phase, {}).setdefault(split, {}).update(entry)
    except (ValueError, AttributeError) as error:
        raise InputError(f"holds something else than results ({error}): move it away", file=path) from error
    write_json(path, results, indent=2)
    sheets = [
        sheet
        for phase in PHASES
        for split, entry in results.get(phase, {}).items()
        if "rows" in entry
        for sheet in make_sheets(phase, split, entry)
    ]
    if sheets:
        write_text(folder / TABLE_FILE, "\n".join(sheet.markdown() for sheet in sheets))
    return results


def make_sheets(phase: str, split: str, entry: Mapping[str, Any]) -> list[Sheet]:
    """Return the tables of an entry: all rows; their soft scores; the composed row by group of queries."""
    protocol, rows = entry["protocol"], entry["rows"]
    strata = {name: count for name, count in protocol["strata"].items() if _with_suffix(rows["composed"], name)}
    names = [name for name in rows["composed"] if not any(name.endswith(f"_{stratum}") for stratum in strata)]
    hard = [name for name in names if not name.startswith(SOFT)]
    soft = [name for name in names if name.startswith(SOFT)]
    title = f"{protocol['benchmark']} {split}, {PHASES[phase]}"
    sheets = [_all_rows(f"{title} ({_scope(entry)}; percent)", hard, rows)._replace(note=_gap_note(entry))]
    if soft:
        sheets.append(_all_rows(f"{title}: highest relevance among the first, soft targets", soft, rows))
    if strata:
        composed, gaps = rows["composed"], entry.get("composition", {}).get("strata", {})
        body = [
            [
                stratum.replace("_", " "),
                f"{count:,}",
                *_cells(composed[f"{name}_{stratum}"] for name in hard),
                *([_gap(gaps.get(stratum))] if gaps else []),
            ]
            for stratum, count in strata.items()
        ]
        header = ["group", "queries", *(_short(name) for name in hard), *(["gap"] if gaps else [])]
        sheets.append(Sheet(f"{title}: composed, by group", header, body))
    return sheets


def _all_rows(title: str, names: list[str], rows: Mapping[str, Mapping[str, float]]) -> Sheet:
    body = [[row.replace("_", " "), *_cells(figures[name] for name in names)] for row, figures in rows.items()]
    return Sheet(title, ["query", *(_short(name) for name in names)], body)


def _gap_note(entry: Mapping[str, Any]) -> str:
    """Return a line on the Composition Gap; "" where there are no rows of the query's sides."""
    found = entry.get("composition", {})
    ndcg = found.get("ndcg", {})
    if not {"composed", "image_only", "text_only"} <= ndcg.keys():
        return ""
    values = ", ".join(f"{row.replace('_', ' ')} {ndcg[row]:.2f}" for row in ("composed", "image_only", "text_only"))
    return f"Composition Gap {_gap(found['gap'])} (nDCG of the whole ranking: {values})"


def _gap(gap: float | None) -> str:
    return "not defined" if gap is None else f"{gap:.3f}"


def _scope(entry: Mapping[str, Any]) -> str:
    """What the figures are over: queries and images, or other splits."""
    if "mean_of" in entry:
        return f"mean of {', '.join(entry['mean_of'])}"
    seen, protocol = entry["seen"], entry["protocol"]
    size = " x ".join(
        f"{total:,} {what}" if seen[what] == total else f"{seen[what]:,} of {total:,} {what}"
        for what, total in (("queries", protocol["queries"]), ("gallery", protocol["gallery"]))
    )
    missing = f", {entry['missing_images']:,} missing" if entry.get("missing_images") else ""
    return f"{size} images{missing}"


def _with_suffix(figures: Mapping[str, float], stratum: str) -> bool:
    return any(name.endswith(f"_{stratum}") for name in figures)


def _short(name: str) -> str:
    name = name.removeprefix(SOFT)
    short = (short + name.removeprefix(long) for long, short in SHORT.items() if name.startswith(long))
    return next(short, name.replace("_", " "))


def _cells(values: Iterable[float]) -> list[str]:
    return [f"{value:.2f}" for value in values]
