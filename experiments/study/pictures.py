"""The figures of a study's report."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.study.answers import Answer
from experiments.study.results import FEWEST, Interval, interval
from experiments.study.tables import Table
from experiments.study.training import Point

PANEL = (2.7, 0.3)  # inches: width of a panel, height of a variant in it
COLUMNS = 3  # panels in a row
MOST_PANELS = 6  # of the main figure; the tables have the rest
HIGHER_IS_BETTER = re.compile(r"(R|Rsub|mAP)@|.*\b(recall|before|pointing)\b", re.IGNORECASE)
BLUE, GREY, PALE = "#0072B2", "#555555", "#B0B0B0"
# Told apart by people who see few colours (Okabe and Ito 2008); the yellow is left out, which is pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
STYLES = ("-", "--", ":", "-.")


def new_figure(size: tuple[float, float]) -> Any:
    """Return an empty figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    return figure


def calm(axis: Any, grid: str) -> None:
    """Leave out what carries nothing: the frame, and the grid across."""
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(PALE)
    axis.tick_params(length=0, labelsize=8, colors="#333333")
    axis.grid(axis=grid, color="#E5E5E5", linewidth=0.8)
    axis.set_axisbelow(True)


def draw(tables: Sequence[Table], references: Mapping[str, str], path: Path) -> None:
    """Draw how far variants are from their references; the means, where no variant has one."""
    figure_of(tables, references).savefig(path)


def figure_of(tables: Sequence[Table], references: Mapping[str, str]) -> Any:
    """Return the main figure: a panel for each of the first `MOST_PANELS` metrics, and a line for each variant.

    With references, a line is the paired difference of a variant from its own one. Dots below are the single seeds.
    Metrics that are the same for all variants and seeds are left out, and those of one quantity share their axis.
    """
    compared = {name: of for name, of in references.items() if name in tables[0].cells and of in tables[0].cells}
    panels = chosen_panels(tables, MOST_PANELS)
    names = [name for name in tables[0].cells if name in compared or not compared]
    sole = len(set(compared.values())) == 1
    labels = [f"{name} - {compared[name]}" if compared and not sole else name for name in names]
    figure, axes = grid_of(len(panels), labels)
    common = len({table.title for table, _ in panels}) == 1
    if common and panels[0][0].title:
        figure.suptitle(panels[0][0].title, fontsize=9, x=0.01, ha="left")
    for axis, (table, label) in zip(axes, panels, strict=False):
        for place, name in enumerate(names):
            cell = table.cells[name].get(label)
            found = None if cell is None else cell.difference if compared else cell.mean
            if cell is None or found is None:
                continue
            values = list(cell.values.values())
            if compared:
                other = table.cells[compared[name]][label].values
                values = [value - other[seed] for seed, value in cell.values.items() if seed in other]
            colour = BLUE if not compared or found.excludes_zero else GREY
            axis.errorbar(found.mean, place, xerr=found.half, fmt="o", ms=5, color=colour, lw=1.6)
            axis.plot(values, [place + 0.27] * len(values), "o", ms=2.6, color=colour, alpha=0.55, mew=0)
        title = label if common else "\n".join(filter(None, (table.title, label)))
        finish_panel(axis, title, label, differs=bool(compared))
    share_axes(axes, [label for _, label in panels])
    seeds = max((len(cell.values) for of in tables[0].cells.values() for cell in of.values()), default=0)
    what = f"difference from {next(iter(compared.values()))}" if sole else "difference" if compared else "mean"
    unit = "percentage points" if compared else "percent"
    shades = "; blue: the interval excludes 0" if compared else ""
    line = f" and line: mean over {seeds} seeds and 95 % interval (Student's t){shades}"
    large = line if seeds >= FEWEST else f": mean over {seeds} seeds"
    figure.supxlabel(f"{what} in {unit}. Large dot{large}. Small dots: the seeds", fontsize=8)
    return figure


def chosen_panels(tables: Sequence[Table], most: int) -> list[tuple[Table, str]]:
    """Return the metrics that are drawn, in the order of the study, which begins with the most important ones."""
    found = []
    for table in tables:
        for label in table.labels:
            values = {v for cells in table.cells.values() if label in cells for v in cells[label].values.values()}
            if len(values) > 1:
                found.append((table, label))
    return found[:most]


def grid_of(count: int, names: Sequence[str]) -> tuple[Any, list[Any]]:
    """Return a figure with so many panels in rows, and the panels; the names of the lines are to the left of rows."""
    rows = max(1, -(-count // COLUMNS))
    columns = max(1, -(-count // rows))  # rows of about equal length
    left = 0.4 + 0.075 * max(map(len, names), default=0)
    figure = new_figure((left + PANEL[0] * columns, rows * (0.95 + PANEL[1] * len(names)) + 0.25))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for number, axis in enumerate(axes):
        if number >= count:
            axis.set_axis_off()
            continue
        calm(axis, "x")
        axis.set_yticks(range(len(names)), names if number % columns == 0 else [""] * len(names))
        axis.set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def finish_panel(axis: Any, title: str, label: str, differs: bool) -> None:
    """Give a panel its title, and say which side is better where that is known."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_title(title, fontsize=8, loc="left")
    if differs:
        axis.axvline(0, color=GREY, lw=1, zorder=0.5)
        if HIGHER_IS_BETTER.match(label):
            axis.set_title("better →", fontsize=7.5, loc="right", color=GREY)


def share_axes(axes: Sequence[Any], labels: Sequence[str]) -> None:
    """Let panels of one quantity, named by the words before the comma of their labels, have the same axis."""
    by_quantity: dict[str, list[Any]] = {}
    for axis, label in zip(axes, labels, strict=False):
        by_quantity.setdefault(label.partition(",")[0].strip(), []).append(axis)
    for alike in by_quantity.values():
        limits = [axis.get_xlim() for axis in alike]
        for axis in alike:
            axis.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))


def draw_answers(answers: Sequence[Answer], labels: Sequence[str], path: Path) -> None:
    """Draw a panel for every figure, with the difference of each question and its interval over references."""
    names = [f"{answer.pair.first} - {answer.pair.second}" for answer in answers]
    figure, axes = grid_of(len(labels), names)
    for axis, label in zip(axes, labels, strict=False):
        for place, answer in enumerate(answers):
            difference = answer.differences.get(label)
            if difference is not None:
                found = difference.over_references
                colour = BLUE if found.excludes_zero else GREY
                axis.plot([found.low, found.high], [place, place], color=colour, lw=1.6)
                axis.plot([found.mean], [place], "o", ms=5, color=colour)
        finish_panel(axis, label, label, differs=True)
    share_axes(axes, labels)
    figure.supxlabel(
        "difference in percentage points: mean and 95 % interval over references; blue: it excludes 0", fontsize=8
    )
    figure.savefig(path)


def draw_curves(courses: Mapping[str, Sequence[Point]], name: str, path: Path) -> None:
    """Draw a figure of val against steps, and against the processor's time."""
    figure = new_figure((9.0, 3.4))
    axes = figure.subplots(1, 2, sharey=True)
    for number, (variant, points) in enumerate(courses.items()):
        spread: list[Interval] = [interval(list(point.values.values())) for point in points]
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
        for axis, places in zip(axes, ([p.step for p in points], [p.seconds for p in points]), strict=True):
            axis.plot(places, [of.mean for of in spread], style, color=colour, lw=1.6, marker="o", ms=3, label=variant)
    for axis, label in zip(axes, ("steps", "CPU seconds of training"), strict=True):
        calm(axis, "y")
        axis.set_xlim(left=0)
        axis.set_xlabel(label, fontsize=8)
    axes[0].set_ylabel("percent", fontsize=8)
    axes[0].set_title(f"{name}, mean over seeds", fontsize=8, loc="left")
    handles, variants = axes[0].get_legend_handles_labels()
    figure.legend(handles, variants, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path)
