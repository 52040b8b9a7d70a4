"""Drawing a query: reference, target, caption with coloured phrases, and one heat map per phrase.

Imported when something is drawn: matplotlib takes a second to load.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from PIL import Image
from torch import Tensor

# Readable on white, and apart for colour-blind readers (Wong, Nature Methods 2011).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#3B9DD6", "#7A4FBF", "#555555")
PANEL = 1.75  # inches
COLUMNS = 6
CHARACTERS_PER_INCH = 13.4  # of the caption


class PhraseFigure(NamedTuple):
    """A phrase to draw: its characters ``[start, end)`` of the caption, map (rows, columns), box (4,) or NaN."""

    start: int
    end: int
    heat: Tensor
    box: Tensor


def displayable(images: Tensor, preprocess: Callable[..., Any] | None) -> Tensor:
    """Return preprocessed images (B, 3, S, S) as colours in 0..1: the normalisation of ``preprocess`` is undone."""
    images = images.detach().float().cpu()
    for step in getattr(preprocess, "transforms", ()):
        if hasattr(step, "mean") and hasattr(step, "std"):
            images = images * torch.tensor(step.std).view(3, 1, 1) + torch.tensor(step.mean).view(3, 1, 1)
    return images.clamp(0, 1)


def draw_query(
    reference: Tensor, target: Image.Image | None, caption: str, phrases: Sequence[PhraseFigure], title: str
) -> Figure:
    """Return the figure of one query.

    ``reference`` (3, S, S) in 0..1: what the model saw, so that patches fall where they belong. ``caption``: the text
    that the phrases' characters refer to. Phrases whose map is NaN (cut off the caption) are left out of the panels.
    """
    drawn = [(number, phrase) for number, phrase in enumerate(phrases) if phrase.heat.isfinite().all()]
    pictures = 1 if target is None else 2
    columns = min(COLUMNS, max(pictures + len(drawn), 3))
    rows = -(-(pictures + len(drawn)) // columns)
    lines = wrap(caption, phrases, int(columns * PANEL * CHARACTERS_PER_INCH))
    head = 0.2 * (len(lines) + 1) + 0.05  # inches above the panels: title and caption
    height = head + rows * (PANEL + 0.1)
    figure = Figure(figsize=(columns * PANEL, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)  # draws without a screen, and without touching the process-wide backend
    figure.text(0.01, 1 - 0.16 / height, title, fontsize=7, color="#777777", va="center")
    for number, line in enumerate(lines):
        write_line(figure, line, 0.01, 1 - (0.4 + 0.2 * number) / height)
    grid = figure.add_gridspec(
        rows, columns, left=0.01, right=0.99, bottom=0.01, top=1 - (head + 0.26) / height, wspace=0.06, hspace=0.2
    )
    axes = (figure.add_subplot(grid[place // columns, place % columns]) for place in range(rows * columns))
    picture = reference.permute(1, 2, 0).numpy()  # (S, S, 3)
    show_picture(next(axes), picture, "reference")
    if target is not None:
        show_picture(next(axes), target.convert("RGB"), "target")
    for number, phrase in drawn:
        show_heat(next(axes), reference, phrase, caption[phrase.start : phrase.end], COLOURS[number % len(COLOURS)])
    for axis in axes:
        axis.axis("off")
    return figure


def same_size(files: Sequence[Path]) -> list[Image.Image]:
    """Return pictures from files on white canvases of one size: W&B shows those of one set side by side."""
    pictures = []
    for file in files:
        with Image.open(file) as picture:
            pictures.append(picture.convert("RGB"))
    size = (max((p.width for p in pictures), default=0), max((p.height for p in pictures), default=0))
    canvases = []
    for picture in pictures:
        canvases.append(Image.new("RGB", size, "white"))
        canvases[-1].paste(picture)
    return canvases


def show_picture(axis: Axes, picture: Any, title: str) -> None:
    """Draw an image with its title above."""
    axis.imshow(picture)
    axis.set_title(title, fontsize=8, pad=3)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("#BBBBBB")


def show_heat(axis: Axes, reference: Tensor, phrase: PhraseFigure, text: str, colour: str) -> None:
    """Draw a phrase's map over the reference, from its lowest (dark) to its highest value (bright), with its box.

    The cross marks the centre of the best patch, as in the pointing game.
    """
    side = reference.shape[-1]
    rows, columns = phrase.heat.shape
    heat = phrase.heat.float()
    heat = (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)  # 0..1 over the patches
    smooth = F.interpolate(heat[None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
    # Half the colour is kept, so that "the red square" can still be told from the others.
    faded = (0.5 * reference + 0.5 * reference.mean(0)).permute(1, 2, 0)  # (S, S, 3)
    glow = torch.from_numpy(colormaps["inferno"](smooth.numpy())[:, :, :3].copy()).float()
    share = 0.45 + 0.2 * smooth[:, :, None]
    show_picture(axis, ((1 - share) * faded + share * glow).clamp(0, 1).numpy(), "")
    axis.set_title(shorten(text, 24), fontsize=8, pad=3, color=colour, fontweight="bold", parse_math=False)
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.5)
    best = int(heat.argmax())
    x, y = (best % columns + 0.5) / columns * side, (best // columns + 0.5) / rows * side
    # Pixel centres are at whole numbers, so the picture begins at -0.5.
    outline = [Stroke(linewidth=3, foreground="#00000090"), Normal()]  # white has to be seen on bright yellow too
    axis.plot(x - 0.5, y - 0.5, marker="+", color="white", markersize=8, markeredgewidth=1.5, path_effects=outline)
    if phrase.box.isfinite().all():
        x0, y0, x1, y1 = (phrase.box.float() * side - 0.5).tolist()
        style = {"fill": False, "edgecolor": "white", "linewidth": 1.2, "path_effects": outline}
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **style))


def write_line(figure: Figure, pieces: Sequence[tuple[str, int | None]], x: float, y: float) -> None:
    """Write coloured pieces of text one after the other, from the left, centred on height ``y``."""
    areas = []
    for text, phrase in pieces:
        colour = "#222222" if phrase is None else COLOURS[phrase % len(COLOURS)]
        weight = "normal" if phrase is None else "bold"
        # `parse_math`: a dollar sign in a caption is a dollar sign, here and in the titles.
        style = {"fontsize": 9, "color": colour, "fontweight": weight, "family": "monospace", "parse_math": False}
        areas.append(TextArea(text, textprops=style))
    line = HPacker(children=areas, pad=0, sep=0)
    figure.add_artist(
        AnnotationBbox(line, (x, y), xycoords="figure fraction", box_alignment=(0, 0.5), frameon=False, pad=0)
    )


def wrap(caption: str, phrases: Sequence[PhraseFigure], width: int) -> list[list[tuple[str, int | None]]]:
    """Break a caption into lines of about ``width`` characters, each a list of (text, phrase number or None)."""
    owner: list[int | None] = [None] * len(caption)
    for number, phrase in enumerate(phrases):
        owner[phrase.start : phrase.end] = [number] * (phrase.end - phrase.start)
    lines, start = [], 0
    while start < len(caption):
        end = len(caption)
        if end - start > width:
            space = caption.rfind(" ", start + 1, start + width + 1)
            end = start + width if space == -1 else space + 1
        cuts = [start, *(i for i in range(start + 1, end) if owner[i] != owner[i - 1]), end]
        lines.append([(caption[a:b], owner[a]) for a, b in itertools.pairwise(cuts)])
        start = end
    return lines or [[("(blank caption)", None)]]


def shorten(text: str, length: int) -> str:
    """Cut a text that is too long for a title."""
    return text if len(text) <= length else text[: length - 1] + "…"
