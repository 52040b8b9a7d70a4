"""Files are written whole or not at all; a folder has one writer, and a dead one is replaced."""

import os
import re
import threading
import time
from pathlib import Path

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
