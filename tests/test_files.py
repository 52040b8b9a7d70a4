"""Only ordinary files are read; files are written whole or not at all; a folder has one writer at a time."""

import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import SoftFileLease

from contextcir import files
from contextcir.errors import InputError


def test_a_file_is_replaced_whole_and_leaves_no_other_file(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b.txt", "one")
    files.write_text(tmp_path / "a" / "b.txt", "two")
    assert [(path.name, path.read_text()) for path in (tmp_path / "a").iterdir()] == [("b.txt", "two")]


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    files.write_text(path, "old")
    with pytest.raises(KeyError), files.whole_file(path) as file:
        file.write(b"half of the n")
        raise KeyError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("b.txt", "old")]


@pytest.mark.parametrize(
    ("make", "words"), [(os.mkfifo, "a named pipe"), (os.mkdir, "a folder"), (lambda path: None, None)]
)
@pytest.mark.parametrize("linked", [False, True])
def test_only_a_file_is_ever_replaced(make, words: str | None, linked: bool, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    make(path)
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    for write in (lambda: files.write_text(path, "x"), lambda: files.write_json(path, 1), lambda: fill_array(path)):
        if words is None:
            write()
            assert path.is_file()
        else:
            with pytest.raises(InputError, match=f"expected a file, found {words}"):
                write()
            assert not path.is_file() and [item.name for item in tmp_path.iterdir() if "~" in item.name] == []


def fill_array(path: Path) -> None:
    with files.whole_array(path, (2,), np.float32) as array:
        array[:] = 1


def test_json_that_python_would_change_or_die_of_is_refused() -> None:
    good = {"a": [1, -2.5, None, True, "\U0001f600"], "b": {"a": "\n"}}
    assert files.parse_json(json.dumps(good)) == good
    faults = {
        '{"a": 1, "b": 2, "a": 3}': "f.json: the key 'a' stands twice in one object",
        "[" * 100_000: "f.json: lists or objects are nested too deeply",
        "1" * 400: "f.json: a number of 400 digits",
        "[1e999]": "f.json: the number 1e999 is too large",
        "[NaN]": "f.json: NaN is no number in JSON",
        '["\\ud83d"]': r"f.json: half a surrogate pair: '\ud83d'",
        "{": "f.json: not valid JSON: Expecting property name enclosed in double quotes in line 1, column 2",
    }
    for text, message in faults.items():
        with pytest.raises(InputError) as caught:
            files.parse_json(text, "f.json")
        assert str(caught.value) == message


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "mark").write_text("\ufeffa", encoding="utf-8")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        faults = {
            "none": "no file ",
            "mark/below": "no file ",
            "n" * 300: "can't be read: File name too long",
            "loop": "can't be read: Too many levels",
            "pipe": "found a named pipe",
            "socket": "found a socket",
            ".": "found a folder",
            "../" * 30 + "dev/zero": "found a device",
            "latin": "found byte 0xe9 at 3",
            "nul\0": "can't be read: embedded null byte",
        }
        for name, message in faults.items():
            with pytest.raises(InputError, match=message):
                files.read_text(tmp_path / name)
    assert files.read_text(tmp_path / "mark") == "a"
    with pytest.raises(InputError, match="expected at most 3 bytes, found 4"):
        files.read_text(tmp_path / "latin", most=3)


def test_paths_from_data_stay_inside_their_folder(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "rooted"
    for folder in (root / "a", other):
        folder.mkdir(parents=True)
        (folder / "b.png").touch()
    (root / "out").symlink_to(other)
    (root / "out.png").symlink_to(other / "b.png")
    (root / "in").symlink_to("a")
    inside = files.Inside(root, setting="data.links")
    assert [inside.path(name) for name in ("a/b.png", "in/b.png", "a/none")] == [
        root / name for name in ("a/b.png", "in/b.png", "a/none")
    ]
    for name in (
        "../rooted/b.png",
        str(other / "b.png"),
        "a/../../x",
        "",
        " ",
        "a\0b",
        "out/b.png",
        "out.png",
        "..\\x",
    ):
        with pytest.raises(InputError, match="expected a path below|a link that leads out"):
            inside.path(name)
    assert files.Inside(root, links=True).path("out/b.png").is_file()


def leave_lease(folder: Path, **changes: object) -> Path:
    """Write the lease of another owner: that of this process, with other fields."""
    lease = SoftFileLease(folder / ".lock", lease_duration=files.LEASE)
    lease.acquire()
    text = (folder / ".lock").read_text()
    lease.release()
    for name, value in changes.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    (folder / ".lock").write_text(text)
    return folder / ".lock"


def test_a_folder_has_one_writer_until_it_is_done(tmp_path: Path) -> None:
    writers = files.one_writer(tmp_path, "collects"), files.one_writer(tmp_path, "collects")
    with writers[0], pytest.raises(InputError, match="another process collects here already"), writers[1]:
        pytest.fail("two writers")
    with files.one_writer(tmp_path, "collects"):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_a_dead_writer_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    leave_lease(tmp_path, pid=2**22 + 1)  # there is no such process
    with files.one_writer(tmp_path, "collects"):
        pass


def test_a_writer_on_another_machine_is_replaced_only_after_its_last_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LEASE", 3.0)
    lock = leave_lease(tmp_path, host="elsewhere")
    with pytest.raises(InputError, match="already"), files.one_writer(tmp_path, "collects"):
        pytest.fail("the other one may be alive")
    os.utime(lock, (time.time() - 100,) * 2)
    start = time.monotonic()
    threading.Timer(0.3, os.utime, [lock]).start()  # alive all the same: the disk's clock was wrong
    with files.one_writer(tmp_path, "collects"):
        assert time.monotonic() - start > 3.2


def test_a_lease_without_a_name_is_that_of_a_process_that_was_killed_while_it_took_it(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with files.one_writer(tmp_path, "writes"):
        assert (tmp_path / ".lock").stat().st_size
    assert not (tmp_path / ".lock").exists()
