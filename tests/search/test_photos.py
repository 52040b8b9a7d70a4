"""Reading one photo: which way up it is, when it was taken, what it looks like, and what is refused."""

import calendar
import io
import struct
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

import contextcir.images
from contextcir.errors import InputError
from contextcir.search import photos
from contextcir.search.photos import PhotoReader, open_photo, upright_rgb
from tests.helpers.photos import damaged, encoded, picture, save

TURNS: dict[int, Any] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def exif(orientation: int = 1, original: Any = None, changed: Any = None) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    if changed is not None:
        block[0x0132] = changed
    if original is not None:
        block.get_ifd(0x8769)[0x9003] = original
    return block


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_is_upright_and_stays_so(orientation: int, kind: str) -> None:
    shown = picture(1, (64, 40))
    stored = shown.transpose(TURNS[orientation]) if orientation > 1 else shown
    content = encoded(stored, kind, exif=exif(orientation), **({"quality": 100} if kind == "JPEG" else {}))
    found = open_photo(content)
    assert (found.width, found.height) == found.image.size == (64, 40) and found.format == kind
    difference = np.asarray(found.image, dtype=float) - np.asarray(shown, dtype=float)
    assert abs(difference).mean() < 3
    # PIL's own reading agrees, and what is upright is not turned again
    with Image.open(io.BytesIO(content)) as opened:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(opened)), np.asarray(found.image))
    assert np.array_equal(np.asarray(upright_rgb(found.image)), np.asarray(found.image))


def test_a_large_jpeg_is_decoded_small_and_its_size_is_told_whole() -> None:
    large = encoded(picture(2, (1600, 1200)), exif=exif(6))
    found = open_photo(large, side=200)
    assert (found.width, found.height) == (1200, 1600) and found.image.size == (300, 400)


@pytest.mark.parametrize(
    ("original", "changed", "date"),
    [
        ("2021:07:04 12:30:05", "2023:01:01 00:00:00", (2021, 7, 4, 12, 30, 5)),
        (None, "2023:01:01 00:00:00", (2023, 1, 1, 0, 0, 0)),
        ("2021:07:04 12:30:05\0", None, (2021, 7, 4, 12, 30, 5)),
        ("0000:00:00 00:00:00", "2023:01:01 00:00:00", (2023, 1, 1, 0, 0, 0)),
        ("2021:02:30 00:00:00", None, None),
        ("yesterday", "    :  :     :  :  ", None),
        ("", "", None),
        (None, None, None),
    ],
)
def test_the_date_is_the_camera_s(original: Any, changed: Any, date: tuple[int, ...] | None) -> None:
    found = open_photo(encoded(picture(3), exif=exif(1, original, changed)))
    assert found.taken == (None if date is None else calendar.timegm((*date, 0, 0, 0)))


@pytest.mark.parametrize(
    "block", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + b"\7" * 60]
)
def test_a_damaged_exif_block_does_not_damage_the_photo(block: bytes) -> None:
    plain = encoded(picture(4))
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    found = open_photo(content)
    assert found.taken is None and found.image.size == (64, 48)


def test_the_look_is_the_perceptual_hash_and_survives_compression() -> None:
    image = picture(5, (200, 150))
    expected = int("".join("1" if bit else "0" for bit in imagehash.phash(image).hash.ravel()), 2)
    assert photos.look_of(image) == expected and 0 <= expected < 2**64
    again = Image.open(io.BytesIO(encoded(image.resize((100, 75)), quality=60)))
    assert (photos.look_of(again) ^ expected).bit_count() <= 4
    assert (photos.look_of(picture(6, (200, 150))) ^ expected).bit_count() > 12


def test_a_thumbnail_is_a_small_jpeg_and_small_images_stay_as_they_are() -> None:
    for size, expected in (((1000, 500), (320, 160)), ((40, 30), (40, 30))):
        with Image.open(io.BytesIO(photos.thumbnail_of(picture(7, size)))) as small:
            assert small.format == "JPEG" and small.size == expected


def test_transparent_pixels_are_white() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert open_photo(encoded(image, "PNG")).image.getpixel((3, 3)) == (255, 255, 255)


def test_heic_is_read_upright_where_its_library_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif, of the extra `heic`")
    file = io.BytesIO()
    heif.from_pillow(picture(8, (64, 40))).save(file, exif=exif(1, "2020:02:02 02:02:02").tobytes())
    found = open_photo(file.getvalue())
    assert found.format == "HEIF" and (found.width, found.height) == found.image.size == (64, 40)
    assert found.taken == calendar.timegm((2020, 2, 2, 2, 2, 2, 0, 0, 0))


def test_heic_without_its_library_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "_heif_opener", lambda: None)
    with pytest.raises(InputError, match="pip install pillow-heif"):
        open_photo(b"\0\0\0\x18ftypheic" + bytes(100))
    assert not photos.heic_is_read() and "pip install" in str(photos.why_not_read(".heic", False))


def test_photos_with_another_suffix_than_their_format_are_read(tmp_path: Path) -> None:
    picture(9).save(tmp_path / "a.jpg", "PNG")
    read = PhotoReader(tmp_path, np.asarray, 8).read("a.jpg")
    assert read.photo is not None and read.photo.format == "PNG"


def test_what_is_damaged_has_a_reason(tmp_path: Path) -> None:
    for name, words in damaged(tmp_path).items():
        read = PhotoReader(tmp_path, np.asarray, 8).read(name)
        assert read.photo is None and read.reason and words in read.reason and not read.missing, name


def test_limits_of_bytes_and_pixels_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", 1)
    reader = PhotoReader(tmp_path, np.asarray, 8)
    monkeypatch.setattr(contextcir.images, "MOST_PIXELS", 64 * 48 - 1)
    assert "64 x 48 pixels" in reader.read("a.png").reason
    monkeypatch.undo()
    monkeypatch.setattr(photos, "MOST_BYTES", 100)
    assert "at most 100 bytes" in reader.read("a.png").reason


def test_nothing_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    save(tmp_path / "secret.png", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in" / "folder").symlink_to(tmp_path)
    reader = PhotoReader(tmp_path / "in", np.asarray, 8)
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "folder/secret.png"):
        read = reader.read(name)
        assert read.photo is None and read.reason, name
    assert reader.read("none.png").missing


def test_a_known_content_is_not_decoded(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", 1)
    first = PhotoReader(tmp_path, np.asarray, 8).read("a.png")
    assert first.photo is not None and first.photo.sha256 == first.sha256
    again = PhotoReader(tmp_path, np.asarray, 8, frozenset({first.sha256})).read("a.png")
    assert again.photo is None and again.pixels is None and again.sha256 == first.sha256 and not again.reason
    assert (again.size, again.modified) == (file.stat().st_size, file.stat().st_mtime_ns)
