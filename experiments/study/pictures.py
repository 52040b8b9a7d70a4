"""The figures of a study's report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.study.answers import Answer
from experiments.study.results import Interval, interval
from experiments.study.tables import Table
from experiments.study.training import Point

PANEL = (2.6, 0.26)  # inches: width of a panel, height of a variant in it
PANELS = 5  # at most in a row
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
    """Draw a panel for every metric, with a point and an interval for each variant; references are grey."""
    rows = [(t, t.labels[i : i + PANELS]) for t in tables for i in range(0, len(t.labels), PANELS)]
    names = list(tables[0].cells)
    columns = max(len(labels) for _, labels in rows)
    height = 0.85 + PANEL[1] * len(names)
    figure = new_figure((1.4 + PANEL[0] * columns, height * len(rows)))
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
                    axis.errorbar(cell.mean.mean, place, xerr=cell.mean.half, fmt="o", ms=4, color=colour, lw=1.4)
                    dots = list(cell.values.values())
                    axis.plot(dots, [place + 0.28] * len(dots), ".", ms=3, color=colour, alpha=0.45, mew=0)
            axis.set_title("\n".join(filter(None, (table.title, labels[number]))), fontsize=8, loc="left")
            calm(axis, "x")
            axis.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
            axis.set_ylim(len(names) - 0.4, -0.6)
    figure.savefig(path)


def draw_answers(answers: Sequence[Answer], labels: Sequence[str], path: Path) -> None:
    """Draw a panel for every figure, with the difference of each question and its interval over references."""
    columns = min(len(labels), PANELS)
    lines = -(-len(labels) // columns)
    names = [f"{answer.pair.first} - {answer.pair.second}" for answer in answers]
    figure = new_figure((1.2 + 0.075 * max(map(len, names)) + PANEL[0] * columns, lines * (0.75 + 0.34 * len(answers))))
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for number, axis in enumerate(axes):
        if number >= len(labels):
            axis.set_axis_off()
            continue
        axis.axvline(0, color=GREY, lw=1)
        for place, answer in enumerate(answers):
            difference = answer.differences.get(labels[number])
            if difference is not None:
                found = difference.over_references
                colour = BLUE if found.excludes_zero else GREY
                axis.plot([found.low, found.high], [place, place], color=colour, lw=1.6)
                axis.plot([found.mean], [place], "o", ms=5, color=colour)
        axis.set_title(labels[number], fontsize=8, loc="left")
        calm(axis, "x")
        axis.set_yticks(range(len(names)), names if number % columns == 0 else [""] * len(names))
        axis.set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("difference in percentage points, 95 % over references; blue where it excludes 0", fontsize=8)
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
    axes[0].set_title(f"{name}, mean over seeds", fontsize=8, loc="left")
    handles, variants = axes[0].get_legend_handles_labels()
    figure.legend(handles, variants, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path)
