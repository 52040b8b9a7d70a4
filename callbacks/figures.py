"""Drawing a query: reference, target, caption with coloured phrases, and one heat map per phrase.

Imported when something is drawn: matplotlib takes a second to load.
"""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from PIL import Image
from torch import Tensor

from callbacks.spans import COLOURS, Pieces, Spans, underlines, wrap

GREY = "#777777"
PANEL, GAP = 1.75, 0.12  # inches: a panel, and between two
COLUMNS = 6
LINE = 0.2  # inches: of the caption
CHARACTERS_PER_INCH = 13.29  # of the caption: 9 points, of which a character is 0.602 wide
TITLE_LINE, TITLE_CHARACTERS = 0.15, 24  # of a panel
SCALE = 0.55  # inches below the panels: legend and colour bar
COLOUR_MAP = "inferno"


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

    All maps have one scale of colours, in multiples of an even map: 1 is what each patch would have if a phrase looked
    everywhere alike. ``reference`` (3, S, S) in 0..1: what the model saw, so that patches fall where they belong.
    ``caption``: the text that the phrases' characters refer to. Phrases whose map is NaN (cut off the caption) are left
    out of the panels.
    """
    drawn = [(number, phrase) for number, phrase in enumerate(phrases) if phrase.heat.isfinite().all()]
    heads = [["reference"], *([] if target is None else [["target"]])]
    heads += [title_lines(caption[phrase.start : phrase.end]) for _, phrase in drawn]
    columns = max(-(-len(heads) // -(-len(heads) // COLUMNS)), 3)  # rows of about equal length
    rows = [heads[start : start + columns] for start in range(0, len(heads), columns)]
    title_heights = [TITLE_LINE * max(map(len, row)) + 0.06 for row in rows]
    width = columns * (PANEL + GAP) + GAP
    lines = wrap(caption, phrases, int((width - 2 * GAP) * CHARACTERS_PER_INCH))
    head = LINE * (len(lines) + 1) + 0.15  # inches above the panels: title and caption
    height = head + sum(title_heights) + len(rows) * (PANEL + 0.06) + (SCALE if drawn else 0.06)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)  # draws without a screen, and without touching the process-wide backend
    figure.text(GAP / width, 1 - 0.16 / height, title, fontsize=7, color=GREY, va="center", parse_math=False)
    write_caption(figure, lines, phrases, GAP, 0.4)
    axes, top = [], head
    for row, above in zip(rows, title_heights, strict=True):
        top += above
        for column in range(len(row)):
            place = GAP + column * (PANEL + GAP), height - top - PANEL, PANEL, PANEL
            axes.append(figure.add_axes((place[0] / width, place[1] / height, PANEL / width, PANEL / height)))
        top += PANEL + 0.06
    show_picture(axes[0], reference.permute(1, 2, 0).numpy(), "reference")
    if target is not None:
        show_picture(axes[1], target.convert("RGB"), "target")
    scale = Scale.of([phrase.heat for _, phrase in drawn])
    first = len(heads) - len(drawn)
    for axis, words, (number, phrase) in zip(axes[first:], heads[first:], drawn, strict=True):
        show_heat(axis, reference, phrase, "\n".join(words), COLOURS[number % len(COLOURS)], scale)
    if drawn:
        boxes = any(phrase.box.isfinite().all() for _, phrase in drawn)
        draw_scale(figure, scale, boxes)
    return figure


class Scale(NamedTuple):
    """The lowest and the highest value of all maps of a figure, in multiples of an even map."""

    low: float
    high: float

    @classmethod
    def of(cls, maps: Sequence[Tensor]) -> "Scale":
        """Return the scale of maps (rows, columns), each a share of 1 or in any other unit."""
        levels = [multiples(heat) for heat in maps]
        low = min((level.min().item() for level in levels), default=0.0)
        high = max((level.max().item() for level in levels), default=1.0)
        return cls(low, high)

    def place(self, level: Tensor) -> Tensor:
        """Return values as places on the scale, in 0..1."""
        return ((level - self.low) / max(self.high - self.low, 1e-12)).clamp(0, 1)


def multiples(heat: Tensor) -> Tensor:
    """Return a map (rows, columns) in multiples of its mean."""
    return heat.float() / heat.float().mean().clamp(min=1e-12)


def draw_scale(figure: Figure, scale: Scale, boxes: bool) -> None:
    """Draw what cross and frame mean, and the bar of colours, below the panels."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((0, 0, 1, SCALE / height), label="scale")
    axis.set_xlim(0, width)
    axis.set_ylim(0, SCALE)
    axis.axis("off")
    style = {"fontsize": 7.5, "va": "center", "color": "#333333"}
    y = 0.3
    for x in (GAP, GAP + 0.96) if boxes else (GAP,):
        axis.add_patch(Rectangle((x, y - 0.1), 0.2, 0.2, color="#6B6B6B", linewidth=0))
    axis.plot(GAP + 0.1, y, marker="+", color="white", markersize=8, markeredgewidth=1.5, path_effects=outline())
    axis.text(GAP + 0.26, y, "maximum", **style)
    if boxes:
        square = {"fill": False, "edgecolor": "white", "linewidth": 1.2, "path_effects": outline()}
        axis.add_patch(Rectangle((GAP + 1.0, y - 0.06), 0.12, 0.12, **square))
        axis.text(GAP + 1.24, y, "object", **style)
    bar = (width - 1.9, 0.3, 1.7, 0.09)  # left, bottom, width, height
    colours = torch.linspace(0, 1, 256)[None].numpy()
    axis.imshow(
        colours, cmap=COLOUR_MAP, extent=(bar[0], bar[0] + bar[2], bar[1], bar[1] + bar[3]), aspect="auto", zorder=2
    )
    axis.text(bar[0] - 0.12, bar[1] + bar[3] / 2, "attention, 1 = even", ha="right", **style)
    ticks = [(0.0, scale.low), (1.0, scale.high)]
    even = (1 - scale.low) / max(scale.high - scale.low, 1e-12)
    if 0.15 < even < 0.85:  # else its number would stand in that of an end
        ticks.append((even, 1.0))
    for place, value in ticks:
        x = bar[0] + place * bar[2]
        axis.plot([x, x], [bar[1] - 0.03, bar[1]], color="#333333", linewidth=0.8)
        number = f"{value:.0f}" if value == 1 else f"{value:.2f}" if value < 1 else f"{value:.1f}"
        axis.text(x, bar[1] - 0.1, number, ha="center", **{**style, "fontsize": 7})
    axis.set_xlim(0, width)
    axis.set_ylim(0, SCALE)


def outline() -> list[Any]:
    """Return the effects by which white can be seen on bright colours too."""
    return [Stroke(linewidth=3, foreground="#00000090"), Normal()]


def title_lines(text: str) -> list[str]:
    """Break the title of a panel into lines; nothing is cut off."""
    return textwrap.wrap(text, TITLE_CHARACTERS) or [""]


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


def show_heat(axis: Axes, reference: Tensor, phrase: PhraseFigure, text: str, colour: str, scale: Scale) -> None:
    """Draw a phrase's map over the reference, in the colours of the scale (dark is low), with its box.

    The cross marks the centre of the best patch, as in the pointing game.
    """
    side = reference.shape[-1]
    rows, columns = phrase.heat.shape
    heat = scale.place(multiples(phrase.heat))
    smooth = F.interpolate(heat[None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
    # Half the colour is kept, so that "the red square" can still be told from the others.
    faded = (0.5 * reference + 0.5 * reference.mean(0)).permute(1, 2, 0)  # (S, S, 3)
    glow = torch.from_numpy(colormaps[COLOUR_MAP](smooth.numpy())[:, :, :3].copy()).float()
    share = 0.45 + 0.2 * smooth[:, :, None]
    show_picture(axis, ((1 - share) * faded + share * glow).clamp(0, 1).numpy(), "")
    style = {"fontsize": 8, "pad": 3, "color": colour, "fontweight": "bold", "linespacing": 1.05}
    axis.set_title(text, parse_math=False, **style)
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.5)
    best = int(phrase.heat.argmax())
    x, y = (best % columns + 0.5) / columns * side, (best // columns + 0.5) / rows * side
    # Pixel centres are at whole numbers, so the picture begins at -0.5.
    axis.plot(x - 0.5, y - 0.5, marker="+", color="white", markersize=8, markeredgewidth=1.5, path_effects=outline())
    if phrase.box.isfinite().all():
        x0, y0, x1, y1 = (phrase.box.float() * side - 0.5).tolist()
        style = {"fill": False, "edgecolor": "white", "linewidth": 1.2, "path_effects": outline()}
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **style))


def write_caption(figure: Figure, lines: Sequence[Pieces], phrases: Spans, left: float, top: float) -> None:
    """Write the lines of a caption, in inches from the left and the top; a phrase that holds others is underlined."""
    width, height = figure.get_size_inches()
    under = underlines(lines, phrases)
    letter = round(9 * 0.602 * figure.dpi / 72) / figure.dpi  # inches: letters are drawn a whole number of pixels apart
    for number, (line, strokes) in enumerate(zip(lines, under, strict=True)):
        y = top + LINE * number
        write_line(figure, line, left / width, 1 - y / height)
        for start, end, phrase, depth in strokes:
            across = [(left + column * letter) / width for column in (start, end)]
            down = 1 - (y + 0.085 + 0.025 * depth) / height
            style = {"color": COLOURS[phrase % len(COLOURS)], "linewidth": 1.2, "solid_capstyle": "butt"}
            figure.add_artist(Line2D(across, [down, down], **style))


def write_line(figure: Figure, pieces: Pieces, x: float, y: float) -> None:
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
