"""Stores of features that were cut, removed, changed, or have no room: noticed, and encoded again or told."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from contextcir import embeddings
from contextcir.embeddings import DONE, FEATURES, GalleryFeatures, reserve, write_rows
from contextcir.encoders.frozen import FeatureTable
from contextcir.errors import InputError

STAMPS = np.arange(1, 9, dtype=np.uint64) * np.uint64(0x0123456789ABCDEF)
VALUES = torch.arange(32.0).reshape(8, 4)


def stored(folder: Path) -> GalleryFeatures:
    return GalleryFeatures(folder, STAMPS, 4, "float32")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# What is done to a full store, and which rows are still there.
DAMAGE: dict[str, tuple[Callable[[Path], object], list[int]]] = {
    "cut": (lambda folder: os.truncate(folder / FEATURES, 40), [0, 1]),
    "emptied": (lambda folder: os.truncate(folder / FEATURES, 0), []),
    "removed": (lambda folder: (folder / FEATURES).unlink(), []),
    "zeros at the end": (lambda folder: [os.truncate(folder / FEATURES, size) for size in (64, 128)], [0, 1, 2, 3]),
    "a flipped bit": (lambda folder: flip(folder / FEATURES, 50), [0, 1, 2, 4, 5, 6, 7]),
    "a flipped mark": (lambda folder: flip(folder / DONE, 8), [0, 2, 3, 4, 5, 6, 7]),
    "marks cut": (lambda folder: os.truncate(folder / DONE, 20), [0, 1]),
    "marks removed": (lambda folder: (folder / DONE).unlink(), []),
    "all removed": (shutil.rmtree, []),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_rows_that_were_lost_are_not_there_and_can_be_stored_again(name: str, tmp_path: Path) -> None:
    change, left = DAMAGE[name]
    folder = tmp_path / "store"
    stored(folder).write(torch.arange(8), VALUES)
    change(folder)
    found = stored(folder)
    assert [row for row in range(8) if found.has(row)] == left and found.count() == len(left)
    assert all(torch.equal(found.read(row), VALUES[row]) for row in left)
    found.write(torch.arange(8), VALUES)
    for other in (found, stored(folder)):
        assert other.count() == 8 and torch.equal(torch.stack([other.read(row) for row in range(8)]), VALUES)


def test_a_store_that_shrinks_while_it_is_read_ends_no_process(tmp_path: Path) -> None:
    found = stored(tmp_path)
    found.write(torch.arange(8), VALUES)
    assert found.has(7)
    os.truncate(tmp_path / FEATURES, 10)
    with pytest.raises(InputError, match=r"features.bin: was cut off while it was read"):
        found.read(7)
    assert not found.has(6)


def test_a_table_that_shrinks_while_it_is_read_ends_no_process(tmp_path: Path) -> None:
    table = FeatureTable(tmp_path, STAMPS, 4, 4)
    table.write(range(8), VALUES[:, None], VALUES)
    found = table.read(np.array([3, 1]))
    assert torch.equal(found[1], VALUES[[3, 1]]) and torch.equal(found[0], VALUES[[3, 1]].half())
    assert [part.shape for part in table.read(np.array([], np.int64))] == [(0, 4), (0, 4)]
    os.truncate(tmp_path / FEATURES, 6 * table.size + 4)
    with pytest.raises(InputError, match="was cut off"):
        table.read(np.array([7]))
    again = FeatureTable(tmp_path, STAMPS, 4, 4)
    assert again.lacking() == [] and again.damaged(np.arange(8)) == [6, 7]


@pytest.mark.parametrize("name", [FEATURES, DONE])
@pytest.mark.parametrize("kind", ["folder", "FIFO", "file in the place of the folder"])
def test_other_things_in_the_place_of_the_store_are_told(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    if kind.startswith("file"):
        folder.write_text("here")
    else:
        folder.mkdir()
        (folder / name).mkdir() if kind == "folder" else os.mkfifo(folder / name)
    with pytest.raises(InputError, match=r"found a folder|found a named pipe|no features can be stored"):
        stored(folder)


def test_a_full_disk_is_told_in_one_line_and_room_is_enough_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        with pytest.raises(
            InputError, match=r"features.bin: no features can be stored: there is no room for 128 bytes; make"
        ):
            stored(tmp_path)
        assert (tmp_path / FEATURES).stat().st_size == 0
    with monkeypatch.context() as disk:  # a file system that can't set room aside, and is full when a row is written
        disk.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
        found = stored(tmp_path)
        disk.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="no features can be stored: No space left on device"):
            found.write(torch.arange(8), VALUES)
    assert not stored(tmp_path).count()
    found.write(torch.arange(8), VALUES)
    assert stored(tmp_path).count() == 8


def test_room_is_set_aside_before_anything_is_encoded(tmp_path: Path) -> None:
    for size in (0, 5_000_000):
        reserve(tmp_path / "a", size)
    state = (tmp_path / "a").stat()
    assert state.st_size == 5_000_000 and 512 * state.st_blocks >= 5_000_000
    write_rows(tmp_path / "a", np.array([1]), np.ones((1, 4), np.float32))
    reserve(tmp_path / "a", 5_000_000)
    assert np.fromfile(tmp_path / "a", np.float32, 4, offset=16).tolist() == [1] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_tmpfs_ends_in_one_line_and_not_in_a_bus_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        stored(disk / "small").write(torch.arange(8), VALUES)
        with pytest.raises(InputError, match=r"no room for 4,000,000 bytes"):
            GalleryFeatures(disk / "large", np.ones(1000, np.uint64), 1000, "float32")
        assert stored(disk / "small").count() == 8
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_belongs_to_a_store_is_written_or_told(tmp_path: Path) -> None:
    (tmp_path / "about.json").mkdir()
    with pytest.raises(InputError, match=r"about\.json: expected a file, found a folder"):
        embeddings.write_about(tmp_path, {"count": 1})
