"""The figure of a study: for every figure a panel with a point and an interval for each variant."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.study_report import Table

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
