"""What a leaderboard is made of: rows of runs that were reproduced, in a folder, and figures that were published."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import parse_json, read_text
from experiments.bundle.contents import FORMAT
from experiments.bundle.rows import row_of
from experiments.bundle.verify import read_bundle, refuse_different
from experiments.yaml_files import read_mapping

REPORTED_FILE = Path(__file__).with_name("reported.yaml")
REPRODUCED, REPORTED = "reproduced", "reported"
MOST = 5_000_000  # bytes of a row
MOST_FILES = 10_000


class Cell(NamedTuple):
    """A figure in percent, with its interval where there is one: ``over`` seeds or references."""

    mean: float
    low: float | None = None
    high: float | None = None
    over: str = ""


class Entry(NamedTuple):
    """One model under one protocol.

    ``kind``: `REPRODUCED` or `REPORTED`. ``figures``: by row of the query (``composed``, ``image_only``, ...) and by
    metric. ``seeds``: how many; None where that is not known or where nothing is trained. ``checked``: how many figures
    were verified, of how many. ``source``: of a reported figure, or the run. ``data``: digest of the queries, their
    references and groups.
    """

    name: str
    kind: str
    protocol: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Cell]]
    parameters: int | None = None
    dimension: int | None = None
    licence: str | None = None
    seeds: int | None = None
    checked: tuple[int, int] | None = None
    source: str = ""
    note: str = ""
    seen: Mapping[str, Any] | None = None
    missing_images: int = 0
    mean_of: tuple[str, ...] = ()
    data: str | None = None


def read_folder(folder: Path) -> list[Entry]:
    """Return the entries of all rows (``.json``) and bundles (``.zip``) in a folder, and in folders below it.

    Raises:
        MissingFileError: if there is no such folder, or nothing in it.
        InputError: if a file is something else, or the figures of a bundle differ from its ranks.
    """
    if not folder.is_dir():
        raise MissingFileError("no such folder", file=folder)
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".zip"))
    if not files or len(files) > MOST_FILES:
        raise MissingFileError(f"expected 1 to {MOST_FILES:,} files .json or .zip, found {len(files):,}", file=folder)
    return [entry for file in files for entry in read_file(file)]


def read_file(file: Path) -> list[Entry]:
    """Return the entries of a row or of a bundle; raises as `read_folder`."""
    if file.suffix == ".zip":
        bundle = read_bundle(file)
        refuse_different(bundle, file)
        row = row_of(bundle)
    else:
        row = parse_json(read_text(file, most=MOST), file)
    if not isinstance(row, dict) or row.get("format") != FORMAT or row.get("kind") != REPRODUCED:
        raise InputError("is no row of results: `python -m experiments.bundle row` makes one", file=file)
    try:
        return [_entry(row, table) for table in row["tables"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"is no row of results that this version reads ({type(error).__name__}: {shown(str(error))[1:-1]})"
        raise InputError(problem, file=file) from None


def _entry(row: Mapping[str, Any], table: Mapping[str, Any]) -> Entry:
    model, checked = row["model"], table["checked"]
    return Entry(
        name=str(row["name"]),
        kind=REPRODUCED,
        protocol=dict(table["protocol"]),
        figures={
            str(name): {
                str(metric): Cell(float(cell["mean"]), cell.get("low"), cell.get("high"), str(cell.get("over", "")))
                for metric, cell in figures.items()
            }
            for name, figures in table["rows"].items()
        },
        parameters=model.get("parameters"),
        dimension=model.get("dimension"),
        licence=model.get("licence"),
        seeds=len(row["seeds"]) or None,
        checked=(int(checked["verified"]), sum(map(int, checked.values()))),
        source=str(row.get("run", "")),
        seen=table.get("seen"),
        missing_images=int(table.get("missing_images", 0)),
        mean_of=tuple(table.get("mean_of", ())),
        data=table.get("data"),
    )


def read_reported(file: Path) -> list[Entry]:
    """Return the entries of a file of published figures: see ``reported.yaml``, which explains its form.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if a table or a row lacks something, or has a source that is not listed.
    """
    content = read_mapping(file, "sources and tables")
    try:
        sources = content["sources"]
        return [entry for table in content["tables"] for entry in _reported(table, sources, file)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"is no file of published figures ({type(error).__name__}: {error})", file=file) from None


def _reported(table: Mapping[str, Any], sources: Mapping[str, str], file: Path) -> list[Entry]:
    metrics: Sequence[str] = table["metrics"]
    protocol = {
        "benchmark": table["benchmark"],
        "split": table["split"],
        "words": table["protocol"],
        "headline": table.get("headline", metrics[0]),
        "group": table.get("group", ""),
    }
    entries = []
    for row in table["rows"]:
        source = row.get("source", table.get("source"))
        if source not in sources:
            raise InputError(f"{row['name']}: no source {shown(source)} is listed", file=file, field="sources")
        if len(row["figures"]) != len(metrics):
            problem = f"{row['name']}: expected {len(metrics)} figures, null for one that is not known"
            raise InputError(problem, file=file)
        known = zip(metrics, row["figures"], strict=True)
        figures = {metric: Cell(float(value)) for metric, value in known if value is not None}
        entries.append(
            Entry(
                name=row["name"],
                kind=REPORTED,
                protocol=protocol,
                figures={"composed": figures},
                parameters=row.get("parameters"),
                dimension=row.get("dimension"),
                licence=row.get("licence"),
                source=sources[source],
                note=row.get("note", ""),
            )
        )
    return entries
