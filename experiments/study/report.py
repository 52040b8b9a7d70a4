"""The report of a study: tables in Markdown and CSV, and figures."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contextcir.errors import InputError
from contextcir.files import write_text
from experiments import command
from experiments.study.answers import Answer, answers_text, collect_answers
from experiments.study.pictures import draw, draw_answers, draw_curves
from experiments.study.plan import Plan
from experiments.study.queries import QueryFigures, read_queries
from experiments.study.results import (
    FEWEST,
    Choices,
    Figures,
    Interval,
    interval,
    paired_difference,
    read_result,
)
from experiments.study.tables import NONE, Cell, Table
from experiments.study.training import Records, cost_text, curve_text, curves


def collect(plan: Plan, results: Mapping[str, Mapping[int, Figures]], complete: bool) -> list[Table]:
    """Return the tables of a study from its runs' metrics by variant and seed.

    Metrics that only ``test`` has evaluated are left out until the study is ``complete``: they are looked at once.

    Raises:
        InputError: if a pattern matches no metric of any run, though all are done.
    """
    runs = [figures for by_seed in results.values() for figures in by_seed.values()]

    def matches(pattern: str) -> dict[str, str]:
        names = {
            match: name
            for figures in runs
            for match, name in figures.names(pattern).items()
            if complete or not figures.is_test(name)
        }
        return dict(sorted(names.items()))

    def values_of(variant: str, name: str) -> dict[int, float]:
        values = {seed: figures.get(name) for seed, figures in sorted(results.get(variant, {}).items())}
        return {seed: value for seed, value in values.items() if value is not None}

    tables = []
    for title, patterns in plan.metrics.items():
        names: dict[str, str] = {}
        for label, pattern in patterns.items():
            matching = matches(pattern)
            if complete and not matching:
                known = ", ".join(sorted({name for figures in runs for name in figures.values}))
                raise InputError(f"no run has {pattern} ({label}); known: {known}", file=plan.file, field="metrics")
            names |= {label.replace("*", match.replace("_", " ")): name for match, name in matching.items()}
        cells: dict[str, dict[str, Cell]] = {variant.name: {} for variant in plan.variants}
        for (label, name), variant in itertools.product(names.items(), cells):
            values, reference = values_of(variant, name), values_of(plan.references.get(variant, ""), name)
            if values:
                both = sorted(values.keys() & reference.keys())
                pairs = [values[seed] for seed in both], [reference[seed] for seed in both]
                difference = paired_difference(*pairs) if both else None
                cells[variant][label] = Cell(values, interval(list(values.values())), difference)
        if names:
            tables.append(Table(title, tuple(names), cells))
    return tables


def write_report(plan: Plan, root: Path, choices: Choices | None, commands: Sequence[str]) -> list[Path]:
    """Write ``NAME.md``, ``NAME.csv`` and the figures into the study's folder; return them."""
    trials = plan.trials(choices.chosen) if choices else []
    results = {trial: result for trial in trials if (result := read_result(trial, root)) is not None}
    complete = bool(trials) and len(results) == len(trials)
    figures: dict[str, dict[int, Figures]] = {}
    queries: dict[str, dict[int, QueryFigures]] = {}
    records: dict[str, dict[int, Mapping[str, Any]]] = {}
    for trial, result in results.items():
        found = read_queries(trial, root)
        figures.setdefault(trial.variant, {})[trial.seed] = Figures(result["metrics"], found.outcomes)
        queries.setdefault(trial.variant, {})[trial.seed] = found
        if result.get("training"):
            records.setdefault(trial.variant, {})[trial.seed] = result["training"]
    for name in once(plan):  # what was found stands for all seeds, in differences from trained variants too
        for by_variant in (figures, queries):
            for found in list(by_variant.get(name, {}).values()):
                by_variant[name] = dict.fromkeys(plan.seeds, found)
    tables = collect(plan, figures, complete)
    seen = [run for by_seed in figures.values() for run in by_seed.values()]
    labels = [label for label, name in plan.answers.items() if complete or not any(run.is_test(name) for run in seen)]
    answers = collect_answers(plan, queries, labels)
    tuned = [result for trial in plan.tuning_trials() if (result := read_result(trial, root)) is not None]
    parts = [
        f"# {plan.title}",
        *header(plan, [*tuned, *results.values()], commands),
        f"{len(results)} of {plan.runs} runs are done."
        + ("" if complete else " Figures of test are left out until all are: they are looked at once."),
    ]
    pictures: list[Path] = []

    def add_picture(suffix: str, caption: str, draw: Callable[[Path], None]) -> None:
        pictures.append(root / f"{plan.name}{suffix}.png")
        draw(pictures[-1])
        parts.append(f"![{caption}]({pictures[-1].name})")

    if answers:
        parts.append(answers_text(answers, labels))
        caption = "Differences and their 95 % intervals over references"
        add_picture("-answers", caption, lambda path: draw_answers(answers, labels, path))
    if records:
        parts.append(cost(plan, records, figures, complete))
    courses = curves(records, plan.curve)
    if any(len(points) > 1 for points in courses.values()):
        parts.append(curve_text(plan, courses))
        add_picture("-curves", "Val during training", lambda path: draw_curves(courses, plan.curve, path))
    if plan.tune is not None and choices is not None:
        parts.append(tuning_table(plan, choices))
    parts += [text for table in tables for text in markdown(plan, table)]
    if tables:
        what = "Differences from the reference" if plan.references else "Means"
        add_picture("", f"{what} and 95 % intervals", lambda path: draw(tables, plan.references, path))
    files = {f"{plan.name}.md": "\n\n".join(parts) + "\n", f"{plan.name}.csv": csv_text(tables, answers)}
    for name, text in files.items():
        write_text(root / name, text)
    return [*(root / name for name in files), *pictures]


def once(plan: Plan) -> list[str]:
    """Return the names of the variants that are evaluated once: they have nothing to train."""
    return [variant.name for variant in plan.variants if not variant.train]


def cost(plan: Plan, records: Records, figures: Mapping[str, Mapping[int, Figures]], complete: bool) -> str:
    """Return the table of costs, with the first figure of the answers, or that of the curve until it may be seen."""
    seen = [run for by_seed in figures.values() for run in by_seed.values()]
    label, name = next(iter(plan.answers.items()), (f"`{plan.curve}`", plan.curve))
    if not complete and any(run.is_test(name) for run in seen):
        label, name = f"`{plan.curve}`", plan.curve

    def figure(variant: str) -> Interval | None:
        values = [run.get(name) for run in figures[variant].values()]
        known = [value for value in values if value is not None]
        return interval(known) if known else None

    return cost_text(records, label, figure)


def header(plan: Plan, results: Sequence[Mapping[str, Any]], commands: Sequence[str]) -> list[str]:
    """Return what made the figures: commands, seeds, machine, versions, commit, dates and time."""
    lines = ["    " + "\n    ".join(commands)] if commands else []

    def all_of(key: str) -> str:
        values = dict.fromkeys(str(result[key]) for result in results if result.get(key) is not None)
        return " and ".join(values) or NONE

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
        "Mean over seeds ± half of the 95 % interval (Student's t)"
        + ("" if len(plan.seeds) >= FEWEST else f", which takes {FEWEST} seeds or more")
        + ". Differences are between runs of the same seed; "
        "**bold** where the interval excludes 0."
        + (f" Evaluated once, as nothing in them is trained: {', '.join(once(plan))}." if once(plan) else "")
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
    """Return a section: the means, and the differences from the references where there are any."""
    title = f"## {table.title}\n\n" if table.title else ""
    means = [
        [name, *(cells[label].mean.text() if label in cells else NONE for label in table.labels)]
        for name, cells in table.cells.items()
    ]
    differences = [
        [f"{name} - {plan.references[name]}", *(difference_text(cells.get(label)) for label in table.labels)]
        for name, cells in table.cells.items()
        if name in plan.references
    ]
    parts = [title + grid(["", *table.labels], means)]
    return parts + ([grid(["difference", *table.labels], differences)] if differences else [])


def difference_text(cell: Cell | None) -> str:
    """Return a difference as it stands in a table, in bold where its interval excludes 0."""
    if cell is None or cell.difference is None:
        return NONE
    text = cell.difference.text(signed=True)
    return f"**{text}**" if cell.difference.excludes_zero else text


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without its last line break."""
    return command.table(header, rows).rstrip("\n")


def csv_text(tables: Sequence[Table], answers: Sequence[Answer] = ()) -> str:
    """Return all figures in long form, with the values of every seed.

    Answers are rows of the section ``Answers``: the difference of two variants, over references ``low`` to ``high``,
    and over seeds ``half``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = "section variant metric mean half runs difference difference_half values low high"
    writer.writerow(header.split())
    for table in tables:
        for variant, cells in table.cells.items():
            for label, cell in cells.items():
                values = " ".join(f"{seed}:{value:g}" for seed, value in cell.values.items())
                numbers = [*cell.mean[:2], cell.mean.count, *(cell.difference or (None, None))[:2]]
                figures = ["" if number is None else f"{number:.6g}" for number in numbers]
                writer.writerow([table.title, variant, label, *figures, values, "", ""])
    for pair, differences in answers:
        for label, (over_references, over_seeds) in differences.items():
            half = "" if over_seeds.half is None else f"{over_seeds.half:.6g}"
            mean, low, high = (f"{value:.6g}" for value in over_references[:3])
            names = f"{pair.first} - {pair.second}"
            writer.writerow(["Answers", names, label, "", "", over_seeds.count, mean, half, "", low, high])
    return text.getvalue()
