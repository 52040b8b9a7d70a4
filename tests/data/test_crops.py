"""Crops of Visual Genome's images, against a loop over single pixels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_modules.genecis import Crop, cut


def published_pixels(pixels: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray | None:
    """The crop, pixel by pixel: from the left top corner moved out by 0.7, 1.7 times the size, centred in a square."""
    height, width = pixels.shape[:2]
    x, y, w, h = box
    left, top = max(0.0, x - 0.7 * w), max(0.0, y - 0.7 * h)
    right, bottom = min(float(width), left + 1.7 * w), min(float(height), top + 1.7 * h)
    columns, rows = range(round(left), round(right)), range(round(top), round(bottom))
    if not columns or not rows:
        return None
    side = max(len(columns), len(rows))
    square = np.zeros((side, side, 3), dtype=np.uint8)
    for to_row, row in enumerate(rows):
        for to_column, column in enumerate(columns):
            place = to_row + (side - len(rows)) // 2, to_column + (side - len(columns)) // 2
            if 0 <= row < height and 0 <= column < width:
                square[place] = pixels[row, column]
    return square


sides = st.floats(0.25, 25)


@given(st.integers(1, 20), st.integers(1, 20), st.floats(-3, 22), st.floats(-3, 22), sides, sides)
def test_crops_are_those_of_the_published_evaluation(
    width: int, height: int, x: float, y: float, w: float, h: float
) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (height, width, 3)).astype(np.uint8)
    square, expected = cut(Image.fromarray(pixels), Crop(x, y, w, h)), published_pixels(pixels, (x, y, w, h))
    if expected is None:
        assert square is None
    else:
        assert np.array_equal(np.asarray(square), expected)


def test_a_crop_grows_to_the_left_and_the_top() -> None:
    image = Image.new("RGB", (100, 100), "white")
    image.paste("red", (40, 40, 60, 50))
    square = cut(image, Crop(40, 40, 20, 10))
    assert square.size == (34, 34)  # 26..60 by 33..50, with 8 black rows above and 9 below
    assert square.getpixel((33, 24)) == (255, 0, 0) and square.getpixel((13, 24)) == (255, 255, 255)
    assert square.getpixel((0, 7)) == (0, 0, 0) and square.getpixel((0, 8)) == (255, 255, 255)
    assert square.getpixel((0, 25)) == (0, 0, 0)
