"""What a study found: tables in Markdown and CSV, and a figure.

The figure of a study: for every figure a panel with a point and an interval for each variant.
"""

import csv
import io
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.study.lock import write_at_once
from experiments.study.plan import Plan
from experiments.study.results import Figures, Interval, interval, paired_difference
from experiments.study.runner import read_result

if TYPE_CHECKING:
    from experiments.study.report import Table


PANEL = (2.6, 0.26)  # inches: width, height of a variant
MOST = 6  # panels in a row
BLUE, GREY = "#0072B2", "#555555"


def draw(tables: Sequence["Table"], references: Mapping[str, str], path: Path) -> None:
    """Draw all tables; variants that others are compared with are grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(t, t.labels[i : i + MOST]) for t in tables for i in range(0, len(t.labels), MOST)]
    names = list(tables[0].cells)
    columns = max(len(labels) for _, labels in rows)
    height = 0.75 + PANEL[1] * len(names)
    figure = Figure(figsize=(1.2 + PANEL[0] * columns, height * len(rows)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for (table, labels), line in zip(rows, axes, strict=True):
        for number, axis in enumerate(line):
            if number >= len(labels):
                axis.set_axis_off()
                continue
            for place, name in enumerate(names):
                cell = table.cells[name].get(labels[number])
                if cell is not None:
                    colour = GREY if name in references.values() else BLUE
                    axis.errorbar(cell.mean.mean, place, xerr=cell.mean.half, fmt="o", ms=4, color=colour, capsize=2)
                    dots = list(cell.values.values())
                    axis.plot(dots, [place + 0.25] * len(dots), ".", ms=2, color=colour, alpha=0.5)
            axis.set_title(f"{table.title}: {labels[number]}" if table.title else labels[number], fontsize=7)
            axis.set_yticks(range(len(names)), names if number == 0 else [""] * len(names), fontsize=7)
            axis.set_ylim(len(names) - 0.4, -0.6)
            axis.tick_params(axis="x", labelsize=6)
            axis.grid(axis="x", alpha=0.3)
    figure.savefig(path)


NONE = "–"


class Choices(NamedTuple):
    """What tuning has found: mean of the ``metric`` by variant and setting, and the number of the chosen setting."""

    metric: str
    seeds: tuple[int, ...]
    means: dict[str, list[float]]
    chosen: dict[str, int]


class Cell(NamedTuple):
    """A figure of a variant: its values by seed, and what is made of them. ``difference``: to the reference."""

    values: dict[int, float]
    mean: Interval
    difference: Interval | None


class Table(NamedTuple):
    """A section of the study: ``cells`` by variant and label of the metric."""

    title: str
    labels: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]


def collect(plan: Plan, results: Mapping[str, Mapping[int, Figures]], complete: bool) -> list[Table]:
    """Return the tables of a study from its runs' figures by variant and seed.

    Figures that only ``test`` has seen are left out until the study is ``complete``: they are looked at once.

    Raises:
        ValueError: if a pattern fits no figure of any run, though all are there.
    """
    runs = [figures for by_seed in results.values() for figures in by_seed.values()]
    tables = []
    for title, patterns in plan.metrics.items():
        names: dict[str, str] = {}
        for label, pattern in patterns.items():
            found: dict[str, str] = {}
            for figures in runs:
                found |= {
                    k: name for k, name in figures.names(pattern).items() if complete or not figures.is_test(name)
                }
            if complete and not found:
                known = ", ".join(sorted({name for figures in runs for name in figures.values}))
                raise ValueError(f"metrics: no run has {pattern} ({label}); known: {known}")
            names |= {label.replace("*", what.replace("_", " ")): found[what] for what in sorted(found)}
        cells: dict[str, dict[str, Cell]] = {variant.name: {} for variant in plan.variants}
        for (label, name), variant in itertools.product(names.items(), plan.variants):
            values = _values(results, variant.name, name)
            if not values:
                continue
            reference = _values(results, plan.references.get(variant.name, ""), name)
            both = sorted(values.keys() & reference.keys())
            difference = paired_difference([values[s] for s in both], [reference[s] for s in both]) if both else None
            cells[variant.name][label] = Cell(values, interval(list(values.values())), difference)
        if names:
            tables.append(Table(title, tuple(names), cells))
    return tables


def _values(results: Mapping[str, Mapping[int, Figures]], variant: str, name: str) -> dict[int, float]:
    found = {seed: figures.get(name) for seed, figures in results.get(variant, {}).items()}
    return {seed: value for seed, value in sorted(found.items()) if value is not None}


def write_report(plan: Plan, root: Path, choices: Choices | None, commands: Sequence[str]) -> list[Path]:
    """Write ``NAME.md``, ``NAME.csv`` and ``NAME.png`` into the study's folder; return them."""
    trials = plan.trials(choices.chosen) if choices else []
    results = {trial: result for trial in trials if (result := read_result(trial, root)) is not None}
    complete = bool(trials) and len(results) == len(trials)
    figures: dict[str, dict[int, Figures]] = {}
    for trial, result in results.items():
        figures.setdefault(trial.variant, {})[trial.seed] = Figures(result["metrics"])
    tables = collect(plan, figures, complete)
    tuned = [result for trial in plan.tuning_trials() if (result := read_result(trial, root)) is not None]
    parts = [
        f"# {plan.title}",
        *header(plan, [*tuned, *results.values()], commands),
        f"{len(results)} of {len(trials) or len(plan.variants) * len(plan.seeds)} runs are done."
        + ("" if complete else " Figures of test are left out until all are: they are looked at once."),
    ]
    if plan.tune is not None and choices is not None:
        parts.append(tuning_table(plan, choices))
    parts += [text for table in tables for text in markdown(plan, table)]
    picture = root / f"{plan.name}.png"
    if tables:
        draw(tables, plan.references, picture)
        parts.append(f"![Means and 95 % intervals]({picture.name})")
    files = {f"{plan.name}.md": "\n\n".join(parts) + "\n", f"{plan.name}.csv": csv_text(tables)}
    for name, text in files.items():
        write_at_once(root / name, text)
    return [*(root / name for name in files), *([picture] if tables else [])]


def publish_report(report: Sequence[Path], plan: Plan, folder: Path) -> list[Path]:
    """Copy the files of a report to a folder; return the copies."""
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(path, folder / path.name)) for path in report]


def header(plan: Plan, results: Sequence[Mapping[str, Any]], commands: Sequence[str]) -> list[str]:
    """Return what made the figures: commands, seeds, machine, versions, commit, dates and time."""
    lines = ["    " + "\n    ".join(commands)] if commands else []

    def all_of(key: str) -> str:
        found = dict.fromkeys(str(result[key]) for result in results if result.get(key) is not None)
        return " and ".join(found) or NONE

    seeds = f"Seeds {', '.join(map(str, plan.seeds))}"
    if plan.tune is not None:
        seeds += f"; settings chosen with {', '.join(map(str, plan.tune.seeds))}"
    if results:
        versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in results)
        dates = sorted(result["finished"] for result in results)
        minutes = sum(result["seconds"] for result in results) / 60
        time = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.1f} min"
        days = " to ".join(dict.fromkeys((dates[0][:10], dates[-1][:10])))
        lines.append(
            f"{seeds}. {len(results)} runs, {time} in all, threads of each: {all_of('threads')}, on "
            f"{all_of('machine')}; {days}. {' and '.join(versions)}. "
            f"Commit {all_of('commit')}, code {all_of('code')}."
        )
    lines.append(
        "Mean over seeds ± half of the 95 % interval (Student's t). Differences are between runs of the same seed; "
        "**bold** where the interval excludes 0."
    )
    return lines


def tuning_table(plan: Plan, choices: Choices) -> str:
    """Return the table of all settings that were tried, with the chosen ones in bold."""
    rows = []
    for variant in plan.variants:
        for number, setting in enumerate(plan.tune.settings[variant.name]):
            cells = [variant.name, f"`{json.dumps(setting)}`", f"{choices.means[variant.name][number]:.2f}"]
            rows.append([f"**{cell}**" for cell in cells] if number == choices.chosen[variant.name] else cells)
    return "## Settings, chosen on val\n\n" + grid(["variant", "setting", f"`{choices.metric}`"], rows)


def markdown(plan: Plan, table: Table) -> list[str]:
    """Return a section: the means, and the differences to the references where there are any."""
    title = f"## {table.title}\n\n" if table.title else ""
    means = [
        [name, *(cells[label].mean.text() if label in cells else NONE for label in table.labels)]
        for name, cells in table.cells.items()
    ]
    parts = [title + grid(["", *table.labels], means)]
    differences = [
        [f"{name} - {plan.references[name]}", *(_difference(cells.get(label)) for label in table.labels)]
        for name, cells in table.cells.items()
        if name in plan.references
    ]
    return parts + ([grid(["difference", *table.labels], differences)] if differences else [])


def _difference(cell: Cell | None) -> str:
    if cell is None or cell.difference is None:
        return NONE
    text = cell.difference.text(signed=True)
    return f"**{text}**" if cell.difference.excludes_zero else text


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def csv_text(tables: Sequence[Table]) -> str:
    """Return all figures in long form, with the values of every seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["section", "variant", "metric", "mean", "half", "runs", "difference", "difference_half", "values"])
    for table in tables:
        for variant, cells in table.cells.items():
            for label, cell in cells.items():
                values = " ".join(f"{seed}:{value:g}" for seed, value in cell.values.items())
                numbers = [*cell.mean[:2], cell.mean.count, *(cell.difference or (None, None))[:2]]
                writer.writerow([table.title, variant, label, *map(_number, numbers), values])
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
