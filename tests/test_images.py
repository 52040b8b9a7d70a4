"""Image files are read in one of two ways, whatever their size; what is no image is refused before it is decoded."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextcir import images
from contextcir.errors import InputError


def jpeg(side: tuple[int, int], orientation: int = 1) -> bytes:
    """A picture whose left half is red and whose right half is blue, as stored."""
    pixels = np.zeros((side[1], side[0], 3), np.uint8)
    pixels[:, : side[0] // 2, 0] = 255
    pixels[:, side[0] // 2 :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


@pytest.mark.parametrize("side", [(16, 8), (4032, 3024)])
def test_the_orientation_of_a_photo_is_followed_or_not_whatever_its_size(side: tuple[int, int]) -> None:
    content = jpeg(side, orientation=6)  # to be turned a quarter clockwise: the left half is then the upper one
    stored = images.decode_image(content, upright=False)
    assert stored.size == side and stored.getpixel((0, 0))[0] > 200 and stored.getpixel((side[0] - 1, 0))[2] > 200
    for limit in (None, 64):
        turned = images.decode_image(content, upright=True, side=limit)
        assert turned.height > turned.width
        assert turned.getpixel((0, 0))[0] > 200 and turned.getpixel((0, turned.height - 1))[2] > 200


def test_a_large_jpeg_is_decoded_smaller_where_that_is_enough() -> None:
    assert images.decode_image(jpeg((4032, 3024)), upright=True, side=300).size == (504, 378)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    file = io.BytesIO()
    grey = Image.new("L", (4, 4), 128)
    image = Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(file, "TIFF" if mode == "CMYK" else "PNG")
    decoded = images.decode_image(file.getvalue(), upright=False)
    assert decoded.mode == "RGB" and all(abs(part - 128) <= 3 for part in decoded.getpixel((1, 1)))


def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "half.jpg").write_bytes(jpeg((64, 64))[:400])
    Image.new("RGB", (4, 4)).save(tmp_path / "odd.jpg", "PPM")
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    faults = {
        "text.jpg": "damaged or no image (8 bytes; none of the formats JPEG",
        "half.jpg": "damaged or no image (400 bytes; ",
        "odd.jpg": "none of the formats",
        "huge.png": "12,000 x 12,000 pixels, expected at most 100,000,000 in all",
        "bomb.png": "damaged or no image",
        "pipe.jpg": "expected a file, found a named pipe",
        "zero.jpg": "expected a file, found a device",
    }
    for name, message in faults.items():
        with pytest.raises(InputError) as caught:
            images.read_image(tmp_path / name, upright=False)
        text = str(caught.value)
        assert text.startswith(f"{tmp_path / name}: {message}") or message in text, text
        assert "\n" not in text and len(text) < 300


def test_a_photo_of_several_pictures_is_its_first_one() -> None:
    file = io.BytesIO()
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    first.save(file, "MPO", save_all=True, append_images=[second])
    assert images.decode_image(file.getvalue(), upright=True).getpixel((4, 4))[0] > 250
