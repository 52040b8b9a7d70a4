"""Drawing what queries retrieve: a panel for each, with reference and target to the left and a row for each ranking.

Imported when something is drawn: matplotlib takes a second to load.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from callbacks.figures import CHARACTERS_PER_INCH, GREY, LINE, write_caption
from callbacks.spans import Pieces, wrap

SIDE, GAP = 1.0, 0.08  # inches: of an image, and between two
UNDER = 0.2  # below an image, for its score
LABEL = 0.98  # to the left of a ranking
EDGE, BETWEEN = 0.15, 0.35  # of the figure, and between its columns
RIGHT = "#009E73"  # frame of right answers: Wong's green, told from grey by all
PIXELS = 256  # larger images are reduced before they are drawn


class Shown(NamedTuple):
    """A ranking: ``pictures`` with ``scores``, which of them are ``right``, and the ``rank`` of the target, or 0."""

    pictures: Sequence[Image.Image]
    scores: Sequence[float]
    right: Sequence[bool]
    rank: int


class QueryPanel(NamedTuple):
    """A query to draw. ``phrases``: characters ``[start, end)`` of the caption; ``rows``: rankings by name."""

    name: str
    caption: str
    phrases: Sequence[tuple[int, int]]
    reference: Image.Image
    target: Image.Image | None
    rows: Mapping[str, Shown]


def draw_sheet(title: str, panels: Sequence[QueryPanel], footer: str) -> Figure:
    """Return the figure of some queries, in two columns where there are more than two of them."""
    columns = 1 if len(panels) <= 2 else 2
    images = max((len(row.pictures) for panel in panels for row in panel.rows.values()), default=1)
    width = SIDE + LABEL + images * (SIDE + GAP)  # of a panel
    lines = [wrap(panel.caption, panel.phrases, int((width - 0.1) * CHARACTERS_PER_INCH)) for panel in panels]
    rankings = max((len(panel.rows) for panel in panels), default=1)
    body = max(rankings, 2) * (SIDE + UNDER + GAP)
    grid = [range(start, min(start + columns, len(panels))) for start in range(0, len(panels), columns)]
    heights = [LINE * (max(len(lines[number]) for number in row) + 1) + body + 0.15 for row in grid]
    notes = footer.splitlines()
    size = (2 * EDGE + columns * width + (columns - 1) * BETWEEN, 0.4 + sum(heights) + LINE * len(notes) + 2 * EDGE)
    figure = Figure(figsize=size, dpi=110, facecolor="white")
    FigureCanvasAgg(figure)  # draws without a screen, and without touching the process-wide backend
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    text(axis, EDGE, EDGE + 0.08, title, size=11, weight="bold")
    top = EDGE + 0.35
    for row, height in zip(grid, heights, strict=True):
        for column, number in enumerate(row):
            draw_panel(figure, axis, panels[number], lines[number], EDGE + column * (width + BETWEEN), top)
        top += height
    for number, note in enumerate(notes):
        text(axis, EDGE, top + LINE * (number + 0.5), note, size=8.5, color="#333333")
    axis.set_xlim(0, size[0])
    axis.set_ylim(size[1], 0)  # inches from the top
    return figure


def draw_panel(
    figure: Figure,
    axis: Axes,
    panel: QueryPanel,
    lines: Sequence[Pieces],
    left: float,
    top: float,
) -> None:
    """Draw a query whose left top corner is at this place, in inches."""
    text(axis, left, top + 0.5 * LINE, panel.name, size=8, color=GREY)
    write_caption(figure, lines, panel.phrases, left, top + 1.5 * LINE)
    top += LINE * (len(lines) + 1) + 0.06
    step = SIDE + UNDER + GAP
    for number, (name, picture) in enumerate((("reference", panel.reference), ("target", panel.target))):
        if picture is not None:
            draw_picture(axis, picture, left, top + number * step, name, right=False)
    for number, (name, row) in enumerate(panel.rows.items()):
        y, x = top + number * step, left + SIDE + LABEL
        middle = y + SIDE / 2
        text(axis, x - GAP, middle - 0.09, name, size=9, weight="bold", ha="right")
        rank = f"rank {row.rank:,}" if row.rank else "not ranked"
        text(axis, x - GAP, middle + 0.1, rank, size=9, ha="right", color=RIGHT if row.rank == 1 else "#333333")
        for place, (picture, score, right) in enumerate(zip(row.pictures, row.scores, row.right, strict=True)):
            label = f"✓ {score:.3f}" if right else f"{score:.3f}"
            draw_picture(axis, picture, x + place * (SIDE + GAP), y, label, right)


def draw_picture(axis: Axes, picture: Image.Image, x: float, y: float, label: str, right: bool) -> None:
    """Draw an image as large as fits into its square, with a label below it; framed if it is a right answer."""
    small = picture.convert("RGB")
    small.thumbnail((PIXELS, PIXELS))
    scale = SIDE / max(small.size)
    width, height = small.width * scale, small.height * scale
    x0, y0 = x + (SIDE - width) / 2, y + (SIDE - height) / 2
    axis.imshow(small, extent=(x0, x0 + width, y0 + height, y0), aspect="auto", interpolation="bilinear")
    style = {"edgecolor": RIGHT, "linewidth": 3} if right else {"edgecolor": "#BBBBBB", "linewidth": 0.8}
    axis.add_patch(Rectangle((x0, y0), width, height, fill=False, **style))
    colour, weight = (RIGHT, "bold") if right else (GREY, "normal")
    text(axis, x + SIDE / 2, y + SIDE + UNDER / 2, label, size=7.5, ha="center", color=colour, weight=weight)


def text(axis: Axes, x: float, y: float, words: str, **style: object) -> None:
    """Write a line, centred on height ``y``; a dollar sign is a dollar sign."""
    axis.text(x, y, words, va="center", parse_math=False, **{"color": "#222222", **style})
