"""Whatever lies in the place of annotations, lists and images is told at once, in one line that names it."""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contextcir.errors import InputError
from contextcir.files import Inside
from data_modules.circo import CIRCOReader
from data_modules.cirr import CIRRReader
from data_modules.converters import HotelConverter, LaSCoConverter
from data_modules.fashioniq import FashionIQReader
from data_modules.genecis import GeneCISReader
from data_modules.lasco import LaSCoReader
from data_modules.loading.images import ImageStore
from data_modules.manifest import ManifestReader
from experiments.check_data import main as check_data
from experiments.convert import main as convert
from tests.helpers.make_convertible import HOTEL, make_hotel, make_lasco_files
from tests.helpers.make_data import edited, make_circo, make_cirr, write_image, write_json

CAPTIONS, SPLIT = "captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"
COCO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


@contextmanager
def one_line(*words: str) -> Iterator[None]:
    """Expect an error of the user, in one short line that has all of the words."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert message.isprintable() and len(message) < 450, message
    for word in words:
        assert word in message, message


def put(path: Path, content: object) -> None:
    """Put something in the place of a file: a text, bytes, or a kind of thing by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    if content in MAKE:
        MAKE[content](path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(str(content))


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(short := os.path.join(tempfile.gettempdir(), f"s{os.getpid()}"))  # paths of sockets are short
    os.rename(short, path)


MAKE: dict[object, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": bind,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
}
THINGS = {
    "pipe": "expected a file, found a named pipe",
    "socket": "expected a file, found a socket",
    "folder": "expected a file, found a folder",
    "device": "expected a file, found a device",
    "loop": "can't be read: Too many levels of symbolic links",
}
TEXTS = [
    ("[" * 100_000, "nested too deeply"),
    ("[" + "1" * 400 + "]", "a number of 400 digits"),
    ("[1e999]", "the number 1e999 is too large"),
    ("[-Infinity]", "-Infinity is no number in JSON"),
    ('[{"a": 1, "a": 2}]', "the key 'a' stands twice"),
    ('["\\udc00"]', "half a surrogate pair"),
    ('[{"a": 1', "not valid JSON"),
    (json.dumps("x" * 100_000), "got 'xxx"),
    ("[]".encode("utf-16"), "expected text in UTF-8, found byte 0xff at 0"),
    (bytes(range(256)), "expected text in UTF-8"),
    ("", "not valid JSON"),
]
Read = Callable[[Path], object]
# The file that is replaced, what makes the others, and what reads all.
FILES: list[tuple[str, Read, Read]] = [
    (CAPTIONS, lambda root: make_cirr(root, sets=1), lambda root: CIRRReader(root).read_evaluation("val")),
    (SPLIT, lambda root: make_cirr(root, sets=1), lambda root: CIRRReader(root).read_evaluation("val")),
    ("annotations/val.json", make_circo, lambda root: CIRCOReader(root).read_evaluation("val")),
    (COCO, make_circo, lambda root: CIRCOReader(root).read_evaluation("val")),
    ("image_splits/split.dress.val.json", bool, lambda root: FashionIQReader(root).read_evaluation("val_dress")),
    ("lasco_val_corpus.json", bool, lambda root: LaSCoReader(root).read_evaluation("val")),
    ("genecis/focus_object.json", bool, lambda root: GeneCISReader(root).read_evaluation("focus_object")),
    ("train.json", bool, lambda root: ManifestReader(root).read_training("train")),
    ("val.jsonl", bool, lambda root: ManifestReader(root, file="{split}.jsonl").read_evaluation("val")),
    (str(HOTEL), bool, lambda root: HotelConverter(root, "train").run()),
    ("lasco_train.json", bool, lambda root: LaSCoConverter(root, "train").run()),
]


@pytest.mark.parametrize(("file", "make", "read"), FILES, ids=[file for file, _, _ in FILES])
def test_what_lies_in_the_place_of_an_annotation_file(tmp_path: Path, file: str, make: Read, read: Read) -> None:
    make(tmp_path)
    for content, problem in [*THINGS.items(), *TEXTS]:
        if file.endswith("l") and content in ("", '[{"a": 1'):
            continue  # no records, not broken ones; told by another rule
        put(tmp_path / file, content)
        with one_line(str(tmp_path / file), problem):
            read(tmp_path)


IMAGES = [
    *THINGS.items(),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is damaged or no image"),  # Pillow would run Ghostscript
    (b"\x89PNG\r\n\x1a\n", "is damaged or no image"),
]


@pytest.mark.parametrize(("content", "problem"), IMAGES)
def test_what_lies_in_the_place_of_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, problem: str
) -> None:
    root = make_cirr(tmp_path)
    image = root / "img_raw" / "dev" / "val-0-0-img1.png"
    put(image, content)
    store = ImageStore(root, {"x": "img_raw/dev/val-0-0-img1.png"}, Inside(root, links=True))
    with one_line("image x: ", str(image), problem):
        store.load("x", "reference of record 3")
    with one_line("image x: ", str(image), problem):
        store.size("x")
    with pytest.raises(SystemExit):
        check_data(["cirr", f"--root={root}", "--split=val", "--json", "--allow-links"])
    told = [entry["message"] for entry in json.loads(capsys.readouterr().out)["problems"]]
    assert any(str(image) in message and problem in message for message in told)


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(tmp_path / "x.png")
    with one_line(str(tmp_path / "x.png"), "12,000 x 12,000 pixels, expected at most 100,000,000"):
        ImageStore(tmp_path, {"x": "x.png"}).load("x")


@pytest.mark.parametrize(
    "path", ["../../x.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "", " ", ".", "a/", "a\0b", "y" * 5000]
)
def test_paths_in_data_stay_in_the_folder(tmp_path: Path, path: str) -> None:
    with edited(make_cirr(tmp_path / "cirr", sets=1) / SPLIT) as listed:
        listed["val-0-0-img1"] = path
    with one_line("split.rc2.val.json: the path of image val-0-0-img1 "):
        CIRRReader(tmp_path / "cirr").read_evaluation("val")
    with edited(make_circo(tmp_path / "circo") / COCO) as listed:
        listed["images"][2]["file_name"] = path
    with one_line("record 2 (id 102) of ", "field file_name "):
        CIRCOReader(tmp_path / "circo").read_evaluation("val")
    write_json(tmp_path / "train.json", [{"reference": "a.png", "target": path, "caption": "x"}])
    with one_line("record 0 of ", "field target "):
        ManifestReader(tmp_path).read_training("train")
    write_json(tmp_path / "gallery.json", ["a.png", path])
    write_json(tmp_path / "val.json", [{"reference": "a.png", "caption": "x"}])
    with one_line(f"record 1 of {tmp_path}/gallery.json: "):
        ManifestReader(tmp_path, gallery_file="gallery.json").read_evaluation("val")
    write_json(tmp_path / "image_splits" / "split.dress.val.json", ["a", path])
    with one_line("record 1 of ", "split.dress.val.json"):
        FashionIQReader(tmp_path).read_evaluation("val_dress")


def test_paths_in_files_to_convert_stay_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with edited(make_hotel(tmp_path) / HOTEL) as records:
        records[1]["query_image"] = "https://host.example/a/%2e%2e/%2e%2e/b.jpg"
    with edited(make_lasco_files(tmp_path, "train") / "lasco_train.json") as records:
        records[1]["query-image"][1] = "x/../y.jpg"
    for dataset, file in (("hotel", HOTEL), ("lasco", "lasco_train.json")):
        with pytest.raises(SystemExit) as end:
            convert([dataset, f"--root={tmp_path}", "--split=train", f"--out={tmp_path}/out.json"])
        told = capsys.readouterr().err
        assert end.value.code == 1 and told.startswith(f"error: record 1 of {tmp_path / file}: field query"), told
        assert "must be a path below the folder of images" in told and not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out={root}/captions"], "expected a file to write, found a folder (--out)"),
        (["--out={root}/folder.json"], "expected a file to write, found a folder (--out)"),
        (
            ["--out={root}/captions/hotel_train_data.json"],
            "is another file of this command: expected a new name (--out)",
        ),
        (["--out={root}/captions/hotel_train_data.json/x.json"], "can't be written: Not a directory (--out)"),
        (["--out={root}/o.json", "--gallery={root}/o.json"], "expected a new name (--gallery)"),
        (["--out={root}/o.json", "--split=../x"], "expected the name of a split, such as val, got '../x' (--split)"),
    ],
)
def test_converters_write_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    (make_hotel(tmp_path) / "folder.json").mkdir()
    before = (tmp_path / HOTEL).read_bytes()
    with pytest.raises(SystemExit) as end:
        convert(["hotel", f"--root={tmp_path}", "--split=train", *(flag.format(root=tmp_path) for flag in flags)])
    told = capsys.readouterr().err
    assert end.value.code == 1 and told.startswith("error: ") and told.endswith(f"{words}\n") and told.count("\n") == 1
    assert (tmp_path / HOTEL).read_bytes() == before


TRIPLETS = [
    {"reference": "a.png", "target": "b.png", "caption": "x"},
    {"reference": "b.png", "target": "a.png", "caption": "y"},
]
LINES = "\n\n".join(map(json.dumps, TRIPLETS))


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
@pytest.mark.parametrize(
    "text", [json.dumps(TRIPLETS, indent=1), "\ufeff" + json.dumps(TRIPLETS), LINES, f"\ufeff\n{LINES}\r\n"]
)
def test_lists_and_lines_are_told_apart_by_what_they_hold(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [record.caption for record in ManifestReader(tmp_path).read_training("train").records] == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1}\n' + "{\n" * 10_000, "not valid JSON in line 2, 3, 4 and 9,997 more"),
        ('{"a": 1}\n{"a": 1, "a": 2}', "the key 'a' stands twice in one object in line 2"),
        ("[" * 100_000, "nested too deeply"),
        ("\n".join("[" * 1000 for _ in range(9)), "nested too deeply"),
        (json.dumps(TRIPLETS, indent=1)[:-9], "not valid JSON"),
    ],
)
def test_broken_lines_are_named_but_not_all_of_them(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "train.jsonl").write_text(text)
    with one_line("train.jsonl: ", problem):
        ManifestReader(tmp_path).read_training("train")


def cirr_with(**fields: object) -> Read:
    def read(root: Path) -> object:
        with edited(make_cirr(root, sets=1) / CAPTIONS) as records:
            records[1] |= fields
        return CIRRReader(root).read_evaluation("val")

    return read


def split_with(**listed: object) -> Read:
    def read(root: Path) -> object:
        with edited(make_cirr(root, sets=1) / SPLIT) as paths:
            paths |= {key.replace("blank", " "): value for key, value in listed.items()}
        return CIRRReader(root).read_evaluation("val")

    return read


def gallery_of(*names: object) -> Read:
    def read(root: Path) -> object:
        write_json(root / "gallery.json", names)
        write_json(root / "val.json", [{"reference": "a.png", "caption": "x"}])
        return ManifestReader(root, gallery_file="gallery.json").read_evaluation("val")

    return read


def circo_with(**fields: object) -> Read:
    def read(root: Path) -> object:
        with edited(make_circo(root) / "annotations/val.json") as records:
            records[1] |= fields
        return CIRCOReader(root).read_evaluation("val")

    return read


def coco_with_one_file_twice(root: Path) -> object:
    with edited(make_circo(root) / COCO) as listed:
        listed["images"][4]["file_name"] = listed["images"][2]["file_name"]
    return CIRCOReader(root).read_evaluation("val")


SILENT: list[tuple[Read, str]] = [
    (split_with(blank="x.png"), "the name of the image 'x.png' is empty"),
    (split_with(other="dev/val-0-0-img1.png"), "images 'val-0-0-img1' and 'other' have one path"),
    (gallery_of("a.png", "b.png", "a.png"), "is 'a.png', as record 0"),
    (gallery_of("a.png", "b.png", "./b.png"), "is 'b.png', as record 1"),
    (gallery_of("a.png", " "), "must be the name of an image, got ' '"),
    (coco_with_one_file_twice, "field file_name is '000000000102.jpg', as in record 2"),
    (cirr_with(pairid=1000), "field pairid is 1000, as in record 0"),
    (cirr_with(image_size=[10**9, 5]), "field image_size must be [width, height] in pixels"),
    (cirr_with(image_size=[1e308, 5]), "field image_size must be [width, height] in pixels"),
    (cirr_with(phrases=[{"start": 0, "end": 4, "box": [0, 0, 1e308, 1e308]}]), "box must be [x0, y0, x1, y1]"),
    (cirr_with(concepts=-1), "field concepts must be greater than or equal to 0"),
    (circo_with(semantic_aspects=["two words"]), "must hold different words (letters, digits, _), got 'two words'"),
    (circo_with(semantic_aspects=["a", "a"]), "must hold different words"),
    (lambda root: ManifestReader(root, name=""), "expected a name, such as manifest, got '' (data.name)"),
    (lambda root: ManifestReader(root, name="../../x"), "expected a name, such as manifest, got '../../x' (data.name)"),
    (lambda root: ManifestReader(root, file=""), "is empty: expected a path (data.file)"),
    (lambda root: ManifestReader(root, gallery_file=" "), "is empty: expected a path (data.gallery_file)"),
    (lambda root: ManifestReader(root, recall_at=[]), "at least one, got [] (data.recall_at)"),
    (lambda root: ManifestReader(root, recall_at=[1, 1]), "expected different whole numbers"),
    (lambda root: ManifestReader(root, recall_at=[0]), "expected a whole number from 1 on, got 0 (data.recall_at)"),
    (lambda root: ManifestReader(""), "is empty: expected a path (data.root)"),
    (lambda root: ManifestReader(root).read_training("../x"), "expected the name of a split, such as val, got '../x'"),
    (lambda root: FashionIQReader(root, ["dress", "dress"]), "got ['dress', 'dress'] (data.train_categories)"),
]


@pytest.mark.parametrize(("read", "problem"), SILENT)
def test_what_was_wrong_in_silence(tmp_path: Path, read: Read, problem: str) -> None:
    with one_line(problem):
        read(tmp_path)


def test_the_root_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name in ("loop", "file", "n" * 256):
        with one_line(name, "expected the folder of the benchmark", "(data.root)"):
            CIRRReader(tmp_path / name).check_root()
    with one_line("no folder ", "(data.root)"):
        CIRRReader(tmp_path / "none").check_root()


def test_names_of_data_do_not_order_terminals_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", "a")
    write_json(tmp_path / "train.json", [{"reference": "a.png", "target": "\x1b[31m\n" + "z" * 900, "caption": "x"}])
    with pytest.raises(SystemExit):
        check_data(["manifest", f"--root={tmp_path}"])
    told = capsys.readouterr().out
    assert "\x1b[31m" not in told and r"\x1b[31m" in told and max(map(len, told.splitlines())) <= 300
