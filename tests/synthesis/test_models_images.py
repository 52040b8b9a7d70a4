"""Images as data URLs: small files as they are, others scaled down, broken ones named."""

import io
from base64 import b64decode

import pytest
from PIL import Image

from contextcir.synthesis.models.chat import ImageLimits
from tests.helpers.asking import GOOD, ask, endpoint, request
from tests.helpers.model_server import ModelServer


def drawn(path, size=(40, 30), mode="RGB", **options):
    Image.new(mode, size, options.pop("color", None)).save(path, **options)
    return path


def decoded(url):
    kind, _, data = url.partition(";base64,")
    return kind, b64decode(data)


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "data:image/jpeg"), ("a.png", "data:image/png")])
def test_small_files_are_sent_as_they_are(tmp_path, name, kind):
    path = drawn(tmp_path / name)
    assert decoded(ImageLimits().data_url(path)) == (kind, path.read_bytes())


def test_the_content_says_the_kind_not_the_name(tmp_path):
    path = drawn(tmp_path / "a.jpg", format="PNG")
    assert ImageLimits().data_url(path).startswith("data:image/png")


@pytest.mark.parametrize(
    ("name", "size", "limits", "expected"),
    [
        ("a.jpg", (400, 200), ImageLimits(longest_side=100), (100, 50)),
        ("a.png", (30, 300), ImageLimits(longest_side=100), (10, 100)),
        ("a.png", (40, 30), ImageLimits(largest_file=10), (40, 30)),
        ("a.webp", (40, 30), ImageLimits(), (40, 30)),
        ("a.bmp", (40, 30), ImageLimits(), (40, 30)),
    ],
)
def test_other_files_become_jpeg_of_a_longest_side(tmp_path, name, size, limits, expected):
    kind, content = decoded(limits.data_url(drawn(tmp_path / name, size)))
    found = Image.open(io.BytesIO(content))
    assert (kind, found.format, found.size, found.mode) == ("data:image/jpeg", "JPEG", expected, "RGB")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_any_mode_can_be_sent(tmp_path, mode):
    path = drawn(tmp_path / "a.tiff" if mode in ("CMYK", "I;16") else tmp_path / "a.png", (300, 200), mode)
    _, content = decoded(ImageLimits(longest_side=64).data_url(path))
    assert Image.open(io.BytesIO(content)).mode == "RGB"


def test_what_is_transparent_is_white(tmp_path):
    _, content = decoded(ImageLimits(longest_side=8).data_url(drawn(tmp_path / "a.png", (32, 32), "RGBA")))
    assert min(Image.open(io.BytesIO(content)).getpixel((4, 4))) > 250


def test_a_turned_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = drawn(tmp_path / "a.jpg", (400, 200), exif=exif)
    _, content = decoded(ImageLimits(longest_side=100).data_url(path))
    assert Image.open(io.BytesIO(content)).size == (50, 100)


def broken_files(folder):
    good = drawn(folder / "good.jpg", (600, 600)).read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"no image\x00\xff")
    (folder / "half.jpg").write_bytes(good[: len(good) // 2])
    (folder / "folder.jpg").mkdir()
    return [folder / name for name in ("empty.jpg", "text.png", "half.jpg", "folder.jpg", "missing.jpg")]


def test_broken_files_are_named_in_one_line(tmp_path):
    for path in broken_files(tmp_path):
        with pytest.raises(ValueError, match=path.name) as caught:
            ImageLimits(longest_side=100).data_url(path)
        assert "\n" not in str(caught.value)


def test_images_go_before_the_text_and_broken_ones_are_failures(tmp_path):
    pytest.importorskip("openai")
    paths = (drawn(tmp_path / "a.png"), drawn(tmp_path / "b.jpg"))
    with ModelServer(lambda body: GOOD) as server:
        answers = ask(endpoint(server.url), [request("x", paths), request("y", (tmp_path / "missing.png",))])
    assert answers["x"].content == GOOD
    assert [decoded(url)[1] for url in server.asked[0].images] == [path.read_bytes() for path in paths]
    assert answers["y"].failure == "unreadable image" and "missing.png" in answers["y"].detail
    assert len(server.asked) == 1
