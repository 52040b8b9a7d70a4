"""Which files of a folder are photos, whatever they are called, and what is said of the others."""

import os
from pathlib import Path
from typing import Any

import pytest

from contextcir.errors import MissingFileError
from contextcir.search import listing, photos
from contextcir.search.listing import list_photos
from tests.helpers.photos import save

HOSTILE = (
    "it's \"quoted\".png", "new\nline.png", "<img src=x>.png", "tab\t.png", "\u202ertl\u05d0.png", "-rf.png",
    "a;b&c|d.png", "%2e%2e.png", "emoji 👩.png", "UPPER.PNG", "e\u0301 nfd.png", "x..dots.png", " lead.png",
    "back\\slash.png", "${HOME}.png", "a" * 200 + ".png",
)  # fmt: skip


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        save(tmp_path / "with space" / name, number)
    found = list_photos(tmp_path)
    assert set(found.photos) == {f"with space/{name}" for name in HOSTILE} and not found.skipped
    for path, (size, modified) in found.photos.items():
        status = (tmp_path / path).stat()
        assert (size, modified) == (status.st_size, status.st_mtime_ns)


def test_a_name_that_is_no_utf8_is_skipped_and_can_be_printed(tmp_path: Path) -> None:
    for name in (b"\xff\xfe.png", b"folder\xff"):
        path = os.path.join(os.fsencode(tmp_path), name)
        if name.endswith(b"png"):
            Path(os.fsdecode(path)).write_bytes(b"x")
        else:
            save(Path(os.fsdecode(path)) / "a.png", 1)
    found = list_photos(tmp_path)
    assert not found.photos and len(found.skipped) == 2
    for left in found.skipped:
        assert left.path.encode() and "\\xff" in left.path and "not UTF-8" in left.reason


def test_hidden_files_and_the_index_are_ignored(tmp_path: Path) -> None:
    for name in ("a.png", ".hidden.png", ".folder/b.png", "sub/.c/d.png", "photos.index/e.png", "sub/f.png"):
        save(tmp_path / name, 1)
    found = list_photos(tmp_path, leave_out=tmp_path / "photos.index")
    assert set(found.photos) == {"a.png", "sub/f.png"} and not found.skipped


def test_what_is_not_read_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.NEF", "b.mp4", "c.heic", "d.svg", "e.txt", "f", "g.xmp", "h.jpg"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.setattr(photos, "_heif_opener", lambda: None)
    found = list_photos(tmp_path)
    told = dict(found.skipped)
    assert set(found.photos) == {"h.jpg"} and set(told) == {"a.NEF", "b.mp4", "c.heic", "d.svg", "pipe.jpg"}
    assert "raw" in told["a.NEF"] and "video" in told["b.mp4"] and "no ordinary file" in told["pipe.jpg"]
    assert "pip install pillow-heif" in told["c.heic"] and found.may_hold("c.heic") and not found.may_hold("a.NEF")
    monkeypatch.setattr(photos, "_heif_opener", lambda: open)
    assert set(list_photos(tmp_path).photos) == {"h.jpg", "c.heic"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "outside" / "secret.png", 1)
    save(tmp_path / "in" / "a.png", 2)
    for name, to in {
        "link.png": "a.png", "out.png": "../outside/secret.png", "folder": "../outside", "loop": ".",
        "broken.png": "none", "self.png": "self.png", "text": "../outside/none.txt",
    }.items():  # fmt: skip
        (tmp_path / "in" / name).symlink_to(to)
    found = list_photos(tmp_path / "in")
    assert set(found.photos) == {"a.png"}
    assert {left.path for left in found.skipped} == {"link.png", "out.png", "folder", "loop", "broken.png", "self.png"}
    assert all("links are not followed" in left.reason for left in found.skipped)
    (tmp_path / "door").symlink_to("in")
    assert set(list_photos(tmp_path / "door").photos) == {"a.png"}  # the folder itself may be one


def test_a_folder_that_can_not_be_listed_may_hold_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/b/c.png", "a/d.png", "e.png"):
        save(tmp_path / name, 1)
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    found = list_photos(tmp_path)
    assert set(found.photos) == {"a/d.png", "e.png"} and "Permission denied" in dict(found.skipped)["a/b"]
    assert found.may_hold("a/b/c.png") and found.may_hold("a/b/x/y.png")
    assert not found.may_hold("a/bb.png") and not found.may_hold("a/x.png")


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("none", "file"):
        with pytest.raises(MissingFileError, match=name):
            list_photos(tmp_path / name)
