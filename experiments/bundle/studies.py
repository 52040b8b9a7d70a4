"""The rows of a study: every variant over its seeds, each seed's figures checked against its ranks."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, MissingFileError
from contextcir.files import read_json
from experiments.bundle.cleaning import Cleaner
from experiments.bundle.contents import content_of
from experiments.bundle.figures import ROWS
from experiments.bundle.rows import SEEDS, row_of
from experiments.bundle.verify import check_bundle, refuse_different
from experiments.study.results import RESULT, interval

TRIALS = "study"  # the runs that count; beside them are those that chose the settings
COMMANDS = "commands.txt"


def rows_of_study(root: Path, licence: str | None = None) -> dict[str, dict[str, Any]]:
    """Return a row of each variant whose runs are done, by name, as of `rows.row_of`.

    Figures are means over the seeds, with intervals of Student's t where there are three or more. A variant that has
    nothing to train has the same figures for every seed: its intervals are over references, and it has no seeds.

    Raises:
        MissingFileError: if no run of the study is done.
        InputError: if a figure differs from what its ranks give.
    """
    trials: dict[str, dict[int, Path]] = {}
    for file in sorted((root / TRIALS).glob(f"*/*/{RESULT}")):
        result = read_json(file)
        try:
            trials.setdefault(result["variant"], {})[int(result["seed"])] = file.parent
        except (LookupError, TypeError, ValueError):
            raise InputError("is no result of a run", file=file) from None
    if not trials:
        raise MissingFileError(f"no run of a study is done there: expected {TRIALS}/VARIANT/seed-N/{RESULT}", file=root)
    rows = {}
    for variant, folders in sorted(trials.items()):
        rows[variant] = _over_seeds(variant, {seed: folders[seed] for seed in sorted(folders)}, licence)
        rows[variant]["study"] = _about(root)
    return rows


def _over_seeds(variant: str, folders: Mapping[int, Path], licence: str | None) -> dict[str, Any]:
    rows = []
    for folder in folders.values():
        bundle = check_bundle(content_of(folder, licence), folder)
        refuse_different(bundle, folder)
        rows.append(row_of(bundle, variant))
    trained = "fit" in (read_json(next(iter(folders.values())) / RESULT) or {}).get("subcommands", ["fit"])
    first: dict[str, Any] = {**rows[0], "run": variant, "seeds": list(folders) if trained else []}
    if not trained or len(rows) == 1:
        return first
    tables = []
    for table in first["tables"]:
        same = [_same(row["tables"], table, variant) for row in rows]
        figures = {
            row: {name: _mean([other[ROWS][row][name]["mean"] for other in same]) for name in of}
            for row, of in table[ROWS].items()
        }
        checked = {state: sum(other["checked"][state] for other in same) for state in table["checked"]}
        of_one = {key: value for key, value in table.items() if key not in ("checkpoint", "weights")}
        tables.append({**of_one, ROWS: figures, "checked": checked})
    return {**first, "tables": tables}


def _same(tables: Sequence[Mapping[str, Any]], table: Mapping[str, Any], variant: str) -> Mapping[str, Any]:
    for other in tables:
        if all(other[key] == table[key] for key in ("phase", "split", "protocol")):
            return other
    raise InputError(f"the seeds of {variant} have other protocols of {table['split']}: they can't be averaged")


def _mean(values: Sequence[float]) -> dict[str, Any]:
    found = interval(values)
    cell = {"mean": round(found.mean, 4), "values": list(values), "over": SEEDS}
    if found.half is None:
        return cell
    return cell | {"low": round(found.mean - found.half, 2), "high": round(found.mean + found.half, 2)}


def _about(root: Path) -> dict[str, Any]:
    """Return the study's name, and its first command without paths."""
    path = root / COMMANDS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    words = shlex.split(lines[0].partition("\t")[2]) if lines else []
    cleaned = json.loads(json.dumps(Cleaner().clean(words, "command")))
    return {"name": root.absolute().name, "command": shlex.join(cleaned) or None}
