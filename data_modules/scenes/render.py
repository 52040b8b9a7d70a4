"""Draw a scene: jittered objects with solid, striped or dotted fills on a textured background, in numpy.

Everything slow (shape masks, textures) is computed once and kept; an image is then a handful of array slices.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from data_modules.scenes.graph import PLACES, Scene, SceneObject

SIDE = 96  # pixels
CELL = SIDE // 3
RADIUS = {"small": 8.0, "large": 13.5}  # pixels
RGB = {
    "red": (214, 40, 40), "orange": (245, 135, 20), "yellow": (250, 220, 40), "green": (35, 150, 60),
    "blue": (40, 80, 215), "purple": (140, 50, 175), "white": (248, 248, 248), "black": (22, 22, 26),
}  # fmt: skip
_VARIANTS = 9  # poses (rotation and scale) kept of each shape, size and fill
_SUPERSAMPLING = 4
_BOX = 17  # half the side of a sprite, in pixels: a large object with its jitter fits


class Placed(NamedTuple):
    """An object with its pose: centre in whole pixels, variant of its sprite, and a tint."""

    item: SceneObject
    x: int
    y: int
    variant: int
    tint: tuple[float, float, float]


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which points of the plane lie in the shape of unit radius; y points down."""
    if shape == "circle":
        return x**2 + y**2 <= 0.94**2
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.82
    if shape == "diamond":
        return abs(x) + abs(y) <= 1.05
    if shape == "triangle":
        return (y <= 0.72) & (y >= -0.95 + 1.75 * abs(x))
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) <= 0.33) & (np.maximum(abs(x), abs(y)) <= 0.95)
    if shape == "moon":
        return (x**2 + y**2 <= 0.96**2) & ((x - 0.52) ** 2 + (y + 0.12) ** 2 > 0.76**2)
    if shape == "heart":
        u, v = x * 1.2, -(y - 0.08) * 1.2
        return (u**2 + v**2 - 0.9) ** 3 - 1.6 * u**2 * v**3 <= 0
    if shape == "star":
        angle, radius = np.arctan2(x, -y), np.hypot(x, y)
        sector = np.mod(angle + np.pi / 5, 2 * np.pi / 5) - np.pi / 5
        # Straight edge between a tip at radius 1.05 and a notch at radius 0.44.
        tip, notch, half = 1.05, 0.44, np.pi / 5
        return radius * (
            np.cos(abs(sector)) * notch * np.sin(half) + np.sin(abs(sector)) * (tip - notch * np.cos(half))
        ) <= tip * notch * np.sin(half)
    raise ValueError(f"unknown shape {shape!r}")


@cache
def _sprite(shape: str, size: str, fill: str, variant: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coverage, share of main colour and share of outline, each (2 * _BOX, 2 * _BOX, 1) in 0..1."""
    pose = np.random.default_rng([variant, 77])
    angle, scale = np.deg2rad(pose.uniform(-8, 8)), RADIUS[size] * pose.uniform(0.94, 1.06)
    step = 1 / _SUPERSAMPLING
    line = np.arange(-_BOX + step / 2, _BOX, step)
    x, y = np.meshgrid(line, line)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = _inside(shape, u / scale, v / scale)
    core = _inside(shape, u / (scale - 1.3), v / (scale - 1.3))
    period = 7.0 if size == "large" else 5.0
    if fill == "striped":
        main = np.mod(u + v, period * 1.2) < period * 0.6
    elif fill == "dotted":
        main = np.hypot(np.mod(u, period) - period / 2, np.mod(v, period) - period / 2) > period * 0.3
    else:
        main = np.ones_like(inside)

    def pixels(mask: np.ndarray) -> np.ndarray:
        blocks = mask.reshape(2 * _BOX, _SUPERSAMPLING, 2 * _BOX, _SUPERSAMPLING)
        return blocks.mean(axis=(1, 3), dtype=np.float32)[..., None]  # (rows, columns, 1)

    return pixels(inside), pixels(main), pixels(inside & ~core)


@cache
def _texture(background: str) -> np.ndarray:
    """Return a muted texture larger than an image, float32 (224, 224, 3), to be cropped at random."""
    side = 224
    rng = np.random.default_rng(sum(map(ord, background)))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)

    def blobs(cell: int) -> np.ndarray:
        """Smooth noise in -1..1 with features of about `cell` pixels."""
        coarse = rng.uniform(-1, 1, (side // cell + 2, side // cell + 2)).astype(np.float32)
        rows, columns = y / cell, x / cell
        i, j = rows.astype(int), columns.astype(int)
        a, b = rows - i, columns - j
        top = coarse[i, j] * (1 - b) + coarse[i, j + 1] * b
        return top * (1 - a) + (coarse[i + 1, j] * (1 - b) + coarse[i + 1, j + 1] * b) * a

    tone, light = {
        "sand": ((201, 183, 146), 9 * blobs(3) + 7 * blobs(14)),
        "grass": ((122, 152, 98), 16 * blobs(4) + 9 * np.sin(x * 1.3 + 3 * blobs(9))),
        "water": ((126, 164, 190), 15 * np.sin(y * 0.55 + 2.5 * blobs(16)) + 4 * blobs(5)),
        "brick": ((172, 122, 104), 6 * blobs(4) + 0 * x),
        "paper": ((224, 220, 208), 5 * blobs(6) - 14 * (np.mod(y, 16) < 1.5)),
        "stone": ((142, 143, 150), 20 * blobs(18) + 9 * blobs(5)),
    }[background]
    image = np.asarray(tone, np.float32) + light[..., None]
    if background == "brick":
        course = (y // 14).astype(int)
        joint = (np.mod(y, 14) < 2) | (np.mod(x + 15 * (course % 2), 30) < 2)
        image[joint] += 34
    return image.astype(np.float32)


def place(scene: Scene, rng: np.random.Generator) -> list[Placed]:
    """Give every object of the scene a pose inside its cell."""
    placed = []
    for item in scene.objects:
        slack = min(5, int(CELL / 2 - RADIUS[item.size] * 1.06))
        row, column = divmod(item.cell, 3)
        x, y = (int(CELL * (i + 0.5) + rng.integers(-slack, slack + 1)) for i in (column, row))
        placed.append(Placed(item, x, y, int(rng.integers(_VARIANTS)), tuple(rng.uniform(0.93, 1.07, 3))))
    return placed


def box(placed: Placed) -> list[int]:
    """Return the object's bounding box ``[x0, y0, x1, y1]`` in pixels, clipped to the image."""
    coverage = _sprite(placed.item.shape, placed.item.size, placed.item.fill, placed.variant)[0][..., 0] > 0.5
    rows, columns = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
    left, top = placed.x - _BOX, placed.y - _BOX
    edges = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    return [int(np.clip(edge, 0, SIDE)) for edge in edges]


def _colours(placed: Placed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return main, second and outline colour; the second one contrasts with the main one in lightness."""
    main = np.clip(np.asarray(RGB[placed.item.colour]) * placed.tint, 0, 255).astype(np.float32)
    light = main @ np.float32([0.3, 0.59, 0.11]) > 125
    second = main * 0.4 if light else main * 0.3 + 0.7 * 245
    outline = np.full(3, 215 if placed.item.colour == "black" else 25, np.float32)
    return main, second, outline


def render(scene: Scene, placed: list[Placed], rng: np.random.Generator) -> np.ndarray:
    """Draw the scene: uint8 (SIDE, SIDE, 3)."""
    texture = _texture(scene.background)
    top, left = rng.integers(0, texture.shape[0] - SIDE, 2)
    image = texture[top : top + SIDE, left : left + SIDE] * np.float32(rng.uniform(0.93, 1.07))
    for spot in placed:
        coverage, share, edge = _sprite(spot.item.shape, spot.item.size, spot.item.fill, spot.variant)
        main, second, outline = _colours(spot)
        paint = share * main + (1 - share) * second
        paint = paint * (1 - edge) + edge * outline
        x0, y0 = max(spot.x - _BOX, 0), max(spot.y - _BOX, 0)
        x1, y1 = min(spot.x + _BOX, SIDE), min(spot.y + _BOX, SIDE)
        cut = np.s_[y0 - spot.y + _BOX : y1 - spot.y + _BOX, x0 - spot.x + _BOX : x1 - spot.x + _BOX]
        region = image[y0:y1, x0:x1]
        region += coverage[cut] * (paint[cut] - region)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


if len(PLACES) != 9:
    raise RuntimeError("the layout is a grid of 3 x 3 cells")
