"""What lies among photos: pipes, devices, links, folders, turned and huge images; each is read in one way, or named."""

import io
import json
import os
import socket
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextcir.errors import InputError
from contextcir.files import Inside
from contextcir.synthesis.describe import DescribeReference
from contextcir.synthesis.mining.images import ImageFiles
from contextcir.synthesis.models.chat import ImageLimits
from contextcir.synthesis.outputs.sheet import EmbeddedImages
from contextcir.synthesis.outputs.write import turned
from contextcir.synthesis.photos import list_images
from contextcir.synthesis.request_stage import Item, ItemFailed


def photo(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    """A photo whose stored left half is red and whose right half is blue."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = pixels[:, size[0] // 2 :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return path


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name must be short
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(600_000_000)


def many_pixels(path: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(path, "PNG")


ODD: list[tuple[Callable[[Path], object], str]] = [
    (pipe, "a named pipe"),
    (listening, "a socket"),
    (lambda path: path.symlink_to("/dev/zero"), "leads out of|a device"),
    (lambda path: path.symlink_to("/dev/null"), "leads out of|a device"),
    (lambda path: path.symlink_to(path), "can't be read|leads out of"),
    (lambda path: path.symlink_to("nowhere.jpg"), "a broken link|no file"),
    (lambda path: path.mkdir(), "a folder"),
    (sparse, "at most 500,000,000 bytes"),
    (many_pixels, "12,000 x 12,000 pixels"),
    (lambda path: path.write_bytes(b""), "no image"),
    (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "none of the formats"),
]


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize(("make", "words"), ODD)
def test_what_is_no_photo_is_named_at_once_by_all_who_read_it(
    make: Callable[[Path], object], words: str, links: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    photo(folder / "good.jpg", (16, 16))
    make(folder / "odd.jpg")
    start = time.monotonic()
    listing = list_images(folder, links)
    refused = dict(listing.refused)
    if "odd.jpg" not in refused:
        assert listing.images == ["good.jpg", "odd.jpg"]
        refused["odd.jpg"] = ImageFiles(folder, ["odd.jpg"], lambda image: image, 8, links)[0].reason
    assert any(word in refused["odd.jpg"] for word in words.split("|")), refused
    with pytest.raises(InputError) as caught:
        ImageLimits().data_url(Inside(folder, links).path("odd.jpg"))
    assert "\n" not in str(caught.value)
    EmbeddedImages().address(folder / "odd.jpg", tmp_path)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(24, 16), (3000, 2000)])
def test_a_turned_photo_is_upright_for_all_whatever_its_size(
    size: tuple[int, int], suffix: str, tmp_path: Path
) -> None:
    if suffix == ".png" and size[0] > 1000:
        size = (1400, 900)
    path = photo(tmp_path / f"a{suffix}", size, orientation=6)  # the stored left half is to be the upper one
    sent = b64decode(ImageLimits().data_url(path).partition(",")[2])
    page = b64decode(EmbeddedImages(side=64).address(path, tmp_path).partition(",")[2])
    mined: list[Image.Image] = []
    ImageFiles(tmp_path, [path.name], mined.append, 32)[0]
    for image in (Image.open(io.BytesIO(sent)), Image.open(io.BytesIO(page)), mined[0]):
        assert image.height > image.width and image.getexif().get(0x0112, 1) == 1
        red, _, blue = image.convert("RGB").getpixel((image.width // 2, 1))  # type: ignore[misc]
        assert red > 150 > 100 > blue


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_a_small_upright_photo_is_sent_as_it_is(orientation: int, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", (24, 16), orientation)
    assert b64decode(ImageLimits().data_url(path).partition(",")[2]) == path.read_bytes()


def test_images_behind_links_are_sent_only_if_links_are_allowed(tmp_path: Path) -> None:
    photo(tmp_path / "private" / "x.jpg", (16, 16))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").symlink_to(tmp_path / "private" / "x.jpg")
    (tmp_path / "photos" / "sub").symlink_to(tmp_path / "private")
    for image in ("a.jpg", "sub/x.jpg"):
        with pytest.raises(ItemFailed, match="outside the image folder") as caught:
            DescribeReference(tmp_path / "photos").request(Item(image, image, image))
        assert "(links)" in caught.value.detail
        DescribeReference(tmp_path / "photos", links=True).request(Item(image, image, image))
    with pytest.raises(InputError, match=r"2 are refused.*\(links allows it\)"):
        list_images(tmp_path / "photos")
    assert list_images(tmp_path / "photos", links=True).images == ["a.jpg", "sub/x.jpg"]


def test_a_root_that_is_a_link_is_no_link_out(tmp_path: Path) -> None:
    photo(tmp_path / "real" / "a.jpg", (16, 16))
    (tmp_path / "photos").symlink_to(tmp_path / "real")
    assert list_images(tmp_path / "photos").images == ["a.jpg"]


def test_endings_in_any_case_and_mixed_are_found(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpeg", "c.Png", "d.TIFF"):
        photo(tmp_path / name, (16, 16))
    assert list_images(tmp_path).images == ["a.JPG", "b.jpeg", "c.Png", "d.TIFF"]


def test_turned_images_of_a_manifest_are_counted(tmp_path: Path) -> None:
    for name, orientation in (("a.jpg", 6), ("b.jpg", 1), ("c.png", 3), ("sub/d.jpg", 8)):
        photo(tmp_path / "photos" / name, (24, 16), orientation)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"x")
    pairs = [("a.jpg", "b.jpg"), ("b.jpg", "c.png"), ("a.jpg", "none.jpg"), ("broken.jpg", "sub/d.jpg")]
    (tmp_path / "out" / "manifest").mkdir(parents=True)
    lines = [json.dumps({"reference": one, "target": other}) for one, other in pairs]
    (tmp_path / "out" / "manifest" / "train.jsonl").write_text("\n".join(lines) + "\n")
    assert turned(tmp_path / "out", tmp_path / "photos") == 3
