"""A small SVG: boxes, texts and arrows, in colours for light and dark surroundings.

The picture has a background of its own. So it can be read on any page, also where the page is dark and the reader's
system is light, which is what an image goes by.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif"
NAME, PLAIN = 13, 12  # sizes of the first line of a box, and of all other text
LINE = 16  # from a line of text to the next
# Fill and edge by kind, light and dark. Hues are told apart by people who see few colours (Okabe and Ito 2008).
KINDS = {
    "image": (("#e4f0fa", "#0072b2"), ("#15334a", "#56b4e9")),
    "text": (("#fdeee2", "#c75300"), ("#46270f", "#f0a060")),
    "fusion": (("#e2f4ed", "#007a5a"), ("#0f3a2e", "#3fc79a")),
    "loss": (("#f7eaf2", "#a8487f"), ("#432338", "#e29cc4")),
    "inner": (("#ffffff", "#007a5a"), ("#1c2029", "#3fc79a")),
}
# Background, text, quiet text, and lines.
LIGHT = ("#ffffff", "#1b232d", "#4c5664", "#6b7684")
DARK = ("#1c2029", "#eceff3", "#b4bcc8", "#8d97a5")


class Drawing:
    """Parts of a picture of a width, in the order in which they are painted; the height is given when it is written."""

    def __init__(self, width: int, title: str) -> None:
        self.width = width
        self.title = title
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "plain", anchor: str = "middle") -> None:
        """Write a line around, or from, ``x``, on the base line ``y``; ``kind`` is ``name``, ``plain`` or ``quiet``."""
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, lines: Sequence[str] = ()) -> None:
        """Draw a box with its lines in the middle, the first one as its name."""
        self.parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>')
        first = y + height / 2 - LINE * (len(lines) - 1) / 2 + 4.5
        for number, line in enumerate(lines):
            self.text(x + width / 2, first + LINE * number, line, "plain" if number else "name")

    def cells(self, x: float, y: float, width: float, height: float, count: int, kind: str) -> None:
        """Draw a row of equal cells, one for each token."""
        step = width / count
        gap = min(1.5, step / 3)
        for number in range(count):
            self.parts.append(
                f'<rect class="{kind} cell" x="{x + number * step + gap / 2:.2f}" y="{y:g}" '
                f'width="{step - gap:.2f}" height="{height:g}"/>'
            )

    def patches(self, x: float, y: float, side: float, shares: Sequence[Sequence[float]], kind: str) -> None:
        """Draw a square of rows and columns of patches; a share in 0..1 is how strongly each is filled."""
        step = side / len(shares)
        for row, line in enumerate(shares):
            for column, share in enumerate(line):
                self.parts.append(
                    f'<rect class="{kind} patch" x="{x + column * step:.2f}" y="{y + row * step:.2f}" '
                    f'width="{step:.2f}" height="{step:.2f}" fill-opacity="{share:.2f}"/>'
                )

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line through points, with its head at the last one."""
        places = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline class="arrow" points="{places}" marker-end="url(#head)"/>')

    def line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a dashed line."""
        (x, y), (u, v) = start, end
        self.parts.append(f'<line class="border" x1="{x:g}" y1="{y:g}" x2="{u:g}" y2="{v:g}"/>')

    def svg(self, height: int) -> str:
        """Return the file."""
        size = f'viewBox="0 0 {self.width} {height}" width="{self.width}" height="{height}"'
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="head" d="M0 0 8 4 0 8z"/></marker>'
        )
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(self.title)}">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{_style()}</style>",
            f"<defs>{head}</defs>",
            f'<rect class="paper" width="{self.width}" height="{height}" rx="10"/>',
            *self.parts,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"


def _style() -> str:
    """Return the style sheet."""
    fixed = (
        f"text{{font-family:{FONT};font-size:{PLAIN}px}}.name{{font-size:{NAME}px;font-weight:600}}"
        "rect{stroke-width:1.3}.patch{stroke-width:.6}"
        ".arrow{fill:none;stroke-width:1.4}.border{stroke-width:1;stroke-dasharray:4 4}.paper{stroke:none}"
    )
    return f"{fixed}{_colours(0)}@media (prefers-color-scheme:dark){{{_colours(1)}}}"


def _colours(scheme: int) -> str:
    """Return the rules of the light (0) or dark (1) colours."""
    paper, ink, quiet, line = (LIGHT, DARK)[scheme]
    rules = [
        f".paper{{fill:{paper}}}.name,.plain{{fill:{ink}}}.quiet{{fill:{quiet}}}",
        f".arrow,.border{{stroke:{line}}}.head{{fill:{line}}}",
    ]
    for kind, schemes in KINDS.items():
        fill, edge = schemes[scheme]
        rules.append(
            f".{kind}{{fill:{fill};stroke:{edge}}}.{kind}.cell,.{kind}.patch{{fill:{edge}}}.{kind}.cell{{stroke:none}}"
        )
    return "".join(rules)
