"""Image files: what is read, and what is said where that fails."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_modules.loading.images import ImageStore, find_images
from tests.helpers.make_data import colour_of, write_image


def noise(size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    noise().convert(mode).save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"))
    image = ImageStore(tmp_path, {"x": next(tmp_path.iterdir()).name}).load("x")
    assert image.mode == "RGB" and image.size == (64, 48)
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(np.asarray(image), np.asarray(noise()))


def test_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "x.png", transparency=bytes([0, 128]))
    assert ImageStore(tmp_path, {"x": "x.png"}).load("x").getpixel((0, 0)) == (200, 100, 50)


def test_sixteen_bit_grey_is_not_clipped_to_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x4000, dtype=np.uint16)).save(tmp_path / "x.png")
    assert ImageStore(tmp_path, {"x": "x.png"}).load("x").getpixel((0, 0)) == (64, 64, 64)


def test_the_file_is_closed_and_fully_decoded(tmp_path: Path) -> None:
    noise().save(tmp_path / "x.jpg")
    image = ImageStore(tmp_path, {"x": "x.jpg"}).load("x")
    (tmp_path / "x.jpg").unlink()
    assert np.asarray(image).std() > 0


def test_opening_a_store_touches_no_file(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "nowhere", {"a": "a.png", "b": "b.png"})
    assert store.names == ("a", "b") and len(store) == 2 and store.index("b") == 1


def one_line(error: BaseException) -> str:
    message = str(error)
    assert "\n" not in message
    return message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ImageStore(tmp_path, {"x": "sub/x.png"}).load("x", "reference of record 3")
    message = one_line(caught.value)
    assert str(tmp_path / "sub" / "x.png") in message and message.endswith("(reference of record 3)")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_and_empty_files_are_errors(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"x.{suffix}"
    noise().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError) as caught:
        ImageStore(tmp_path, {"x": path.name}).load("x")
    message = one_line(caught.value)
    assert str(path) in message and f"{int(kept * len(content)):,} bytes" in message


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\xff\xd8\xff" * 9])
def test_files_that_are_no_images_are_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        ImageStore(tmp_path, {"x": "x.png"}).load("x")
    assert "is damaged or no image" in one_line(caught.value)


def test_a_folder_in_the_place_of_an_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(ValueError) as caught:
        ImageStore(tmp_path, {"x": "x.png"}).load("x")
    assert str(tmp_path / "x.png") in one_line(caught.value)


LISTED = {f"i{number}": f"./train/{number}/i{number}.png" for number in range(5)}


@pytest.mark.parametrize(
    "written",
    ["{folder}/train/{n}/i{n}.png", "{folder}/train/i{n}.png", "{folder}/i{n}.png", "{folder}/train/i{n}.jpg"],
)
def test_images_are_found_however_they_are_unpacked(tmp_path: Path, written: str) -> None:
    for number in range(5):
        write_image(tmp_path / written.format(folder="second", n=number), f"i{number}")
    store = find_images([tmp_path / "first", tmp_path / "second"], LISTED)
    for name in LISTED:
        assert np.abs(np.subtract(store.load(name).getpixel((5, 5)), colour_of(name))).max() < 4


def test_one_missing_image_does_not_hide_the_folder(tmp_path: Path) -> None:
    for number in range(1, 5):
        write_image(tmp_path / f"train/{number}/i{number}.png", f"i{number}")
    store = find_images([tmp_path / "other", tmp_path], LISTED)
    store.load("i3")
    with pytest.raises(FileNotFoundError, match="i0.png"):
        store.load("i0")


def test_the_official_folder_wins(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for number in range(5):
            write_image(tmp_path / folder / f"train/{number}/i{number}.png", f"i{number}")
    assert find_images([tmp_path / "a", tmp_path / "b"], LISTED).root == tmp_path / "a"


def test_no_images_at_all_lists_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find_images([tmp_path / "a", tmp_path / "b"], LISTED)
    message = one_line(caught.value)
    assert str(tmp_path / "a") in message and str(tmp_path / "b") in message
    assert "train/0/i0.png" in message and message.endswith("(data.root)")
