"""A folder in an index: only what is new or changed is encoded, and whatever happens, the next run puts it right."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contextcir.errors import InputError
from contextcir.files import in_shard
from contextcir.search import folder as folders
from contextcir.search import listing
from contextcir.search.embedded import EmbeddedIndex
from contextcir.search.folder import Loading, Progress, Report, index_folder, merge
from contextcir.search.index import Index
from tests.helpers.paths import PROJECT
from tests.helpers.photos import ColourEncoder, MemoryIndex, damaged, picture, save

HERE = Loading(workers=0)


def run(folder: Path, index: Index, **options: Any) -> tuple[Report, int]:
    """Index a folder; return the report and how many photos were encoded."""
    encoder = ColourEncoder()
    report = index_folder(folder, index, encoder, options.pop("loading", HERE), **options)
    assert report.encoded == encoder.calls
    return report, encoder.calls


def counts(report: Report) -> tuple[int, ...]:
    return report.new, report.changed, report.moved, report.deleted, report.unchanged


def check(folder: Path, index: Index) -> None:
    """Compare an index with a new one of the same folder."""
    fresh = MemoryIndex()
    run(folder, fresh)
    held = {stored.photo.path: stored for stored in index.fetch(embeddings=True)}
    assert held.keys() == fresh.photos.keys()
    for path, stored in held.items():
        assert stored.photo == fresh.photos[path], path
        assert torch.allclose(stored.embedding.float(), fresh.vectors[path], atol=1e-3), path


@pytest.fixture(params=["memory", "embedded"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    return MemoryIndex() if request.param == "memory" else EmbeddedIndex(tmp_path / "photos.index", {"model": "a"})


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for number in range(6):
        save(tmp_path / "album" / f"{'sub/' if number % 2 else ''}{number}.png", number)
    return tmp_path / "album"


def test_what_is_indexed_is_not_encoded_again(album: Path, index: Index) -> None:
    assert counts(run(album, index)[0]) == (6, 0, 0, 0, 0)
    report, encoded = run(album, index)
    assert counts(report) == (0, 0, 0, 0, 6) and encoded == 0
    check(album, index)


def test_new_changed_moved_and_deleted_photos_are_told_apart(album: Path, index: Index) -> None:
    run(album, index)
    save(album / "7.png", 7)
    save(album / "0.png", 8)
    (album / "other").mkdir()
    (album / "sub/1.png").rename(album / "other/1.png")
    (album / "2.png").unlink()
    report, encoded = run(album, index)
    assert counts(report) == (1, 1, 1, 1, 3) and encoded == 2
    check(album, index)


def test_a_touched_file_is_read_but_not_encoded(album: Path, index: Index) -> None:
    run(album, index)
    os.utime(album / "0.png", ns=(1, 1))
    report, encoded = run(album, index)
    assert counts(report) == (0, 0, 0, 0, 6) and encoded == 0
    (stored,) = index.fetch(["0.png"])
    assert stored.photo.modified == 1


def test_a_copy_has_the_embedding_of_its_source(album: Path, index: Index) -> None:
    run(album, index)
    (album / "copy.png").write_bytes((album / "0.png").read_bytes())
    report, encoded = run(album, index)
    assert counts(report) == (1, 0, 0, 0, 6) and encoded == 0
    check(album, index)


@pytest.mark.parametrize("commit", [1, 256])
def test_files_that_are_exchanged_keep_what_they_show(album: Path, index: Index, commit: int) -> None:
    run(album, index)
    one, other = album / "0.png", album / "2.png"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    for number, file in enumerate((one, other)):
        os.utime(file, ns=(number, number))
    report, _ = run(album, index, loading=Loading(0, commit=commit))
    assert report.changed == 2
    check(album, index)


def test_an_embedding_that_is_damaged_on_disk_is_made_again(album: Path, tmp_path: Path) -> None:
    index = EmbeddedIndex(tmp_path / "photos.index", {"model": "a"})
    run(album, index)
    file = tmp_path / "photos.index" / "features.bin"
    content = bytearray(file.read_bytes())
    content[5] ^= 0xFF
    file.write_bytes(content)
    report, encoded = run(album, EmbeddedIndex(tmp_path / "photos.index"))
    assert (report.unchanged, report.new, encoded) == (5, 1, 1)
    check(album, EmbeddedIndex(tmp_path / "photos.index"))


def test_damaged_files_are_listed_and_lose_their_place(album: Path, index: Index) -> None:
    names = damaged(album)
    report, _ = run(album, index)
    assert {left.path for left in report.damaged} == names.keys() and report.new == 6
    (album / "0.png").write_bytes(b"no more")
    report, encoded = run(album, index)
    assert {left.path for left in report.damaged} == {*names, "0.png"} and encoded == 0
    assert index.count() == 5 and not list(index.fetch(["0.png"]))


def test_a_file_that_goes_while_it_is_indexed_is_not_damaged(
    album: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(album, index)
    save(album / "0.png", 9)
    found = listing.list_photos(album)
    (album / "0.png").unlink()
    monkeypatch.setattr(folders, "list_photos", lambda *given: found)
    report, _ = run(album, index)
    assert not report.damaged and report.deleted == 1 and index.count() == 5


def test_an_empty_folder_does_not_empty_an_index(album: Path, index: Index, tmp_path: Path) -> None:
    run(album, index)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is the disk there"):
        run(tmp_path / "empty", index)
    assert index.count() == 6


def test_photos_of_a_folder_that_can_not_be_listed_are_kept(
    album: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(album, index)
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "sub":
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    report, _ = run(album, index)
    assert report.deleted == 0 and index.count() == 6


def test_shards_leave_each_other_alone_and_add_up(album: Path, index: Index) -> None:
    for shard in range(3):
        run(album, index, only=(shard, 3))
    check(album, index)
    for file in sorted(album.rglob("*.png")):
        file.unlink() if file.name != "0.png" else None
    mine = [path for path in ("0.png", "2.png", "4.png", "sub/1.png", "sub/3.png", "sub/5.png") if in_shard(path, 0, 3)]
    report, _ = run(album, index, only=(0, 3))
    assert report.deleted == len(set(mine) - {"0.png"}) and index.count() == 6 - report.deleted
    for shard in range(3):
        run(album, index, only=(shard, 3))
    check(album, index)


def test_indexes_of_shards_are_merged(album: Path, index: Index) -> None:
    shards = [MemoryIndex(), MemoryIndex()]
    for number, shard in enumerate(shards):
        run(album, shard, only=(number, 2))
    assert all(shard.photos for shard in shards)
    assert merge(index, shards) == 6
    check(album, index)


def test_progress_is_told(album: Path) -> None:
    told: list[Any] = []

    class Told(Progress):
        def compared(self, photos: int, to_read: int) -> None:
            told.append((photos, to_read))

        def advanced(self, done: int, total: int, rate: float, left: float) -> None:
            assert rate > 0 and left >= 0
            told.append((done, total))

    run(album, MemoryIndex(), progress=Told())
    assert told == [(6, 6), *((done, 6) for done in range(1, 7))]


def test_several_processes_find_the_same(album: Path, index: Index) -> None:
    run(album, index, loading=Loading(workers=2, batch=4))
    check(album, index)


def test_batches_are_committed_as_they_come(album: Path) -> None:
    index = MemoryIndex()
    run(album, index, loading=Loading(0, batch=2, commit=2))
    assert index.upserts == 3


KINDS = ("write", "move", "copy", "delete", "touch", "break")
CHANGES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 4), st.integers(0, 4)), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=CHANGES, then=CHANGES, commit=st.sampled_from([1, 2, 256]))
def test_after_any_changes_an_index_is_as_a_new_one(first: Any, then: Any, commit: int, tmp_path_factory: Any) -> None:
    album = tmp_path_factory.mktemp("album")
    save(album / "stays.png", 99)
    index, clock = MemoryIndex(), 1
    for changes in (first, then):
        for what, one, other in changes:
            source, target = album / f"{one}.png", album / f"{other}.png"
            clock += 1
            if what == "write":
                save(source, other)
            elif what == "break":
                source.write_bytes(b"x")
            elif not source.exists():
                continue
            elif what == "touch":
                os.utime(source, ns=(clock, clock))
            elif what == "delete":
                source.unlink()
            elif what == "move":
                source.rename(target)
            elif source != target:
                target.write_bytes(source.read_bytes())
            if target.exists() and what == "copy":
                os.utime(target, ns=(clock, clock))
        before = index.count()
        report, _ = run(album, index, loading=Loading(0, batch=2, commit=commit))
        assert index.count() == before + report.new - report.deleted
        check(album, index)


KILLED = """
import sys, time
from pathlib import Path
from contextcir.search.embedded import EmbeddedIndex
from contextcir.search.folder import Loading, Progress, index_folder
from tests.helpers.photos import ColourEncoder

class Slow(Progress):
    def advanced(self, done, total, rate, left):
        print(done, flush=True)
        time.sleep(0.01)

album, out = map(Path, sys.argv[1:])
index_folder(album, EmbeddedIndex(out, {"model": "a"}), ColourEncoder(), Loading(0, batch=2, commit=4), Slow())
"""


@pytest.mark.parametrize(
    "after", [pytest.param(1, marks=pytest.mark.slow), 9, pytest.param(30, marks=pytest.mark.slow)]
)
def test_a_killed_indexing_goes_on(after: int, tmp_path: Path) -> None:
    album, out = tmp_path / "album", tmp_path / "photos.index"
    for number in range(40):
        save(album / f"{number}.png", number)
    command = [sys.executable, "-c", KILLED, str(album), str(out)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == after:
            process.send_signal(signal.SIGKILL)
            break
    process.wait(60)
    index = EmbeddedIndex(out, {"model": "a"})
    kept = index.count()
    assert kept <= after + 1 and kept >= after - 5  # a commit is four photos, and what is read ahead of it
    report, encoded = run(album, index)
    assert (report.unchanged, report.new, encoded) == (kept, 40 - kept, 40 - kept)
    check(album, index)


@pytest.mark.parametrize(
    ("name", "value"), [("workers", -1), ("workers", 10**6), ("batch", 0), ("commit", 0), ("batch", True)]
)
def test_numbers_that_can_not_be_meant_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Loading(**{name: value})


def test_a_hundred_thousand_files_are_compared_in_seconds(tmp_path: Path) -> None:
    """One file stands for all: what is measured is listing and comparing."""
    first = save(tmp_path / "0" / "0.png", 1, compress_level=9)
    count = 20_000
    for number in range(1, count):
        if number % 1000 == 0:
            (tmp_path / str(number // 1000)).mkdir()
        os.link(first, tmp_path / str(number // 1000) / f"{number}.png")
    index = MemoryIndex()
    save(tmp_path / "one" / "0.png", 1)
    run(tmp_path / "one", index)
    photo, vector = next(iter(index.photos.values())), next(iter(index.vectors.values()))
    (tmp_path / "one" / "0.png").unlink()
    index.delete(["0.png"])
    index.upsert(
        [
            replace(photo, path=path, size=size, modified=modified)
            for path, (size, modified) in listing.list_photos(tmp_path).photos.items()
        ],
        vector.expand(count, -1),
    )
    begun = time.process_time()
    report, encoded = run(tmp_path, index)
    assert report.unchanged == count and encoded == 0
    assert time.process_time() - begun < 10  # 0.5 s on one core; a hundred thousand take five times as long


def test_a_picture_is_another_one_for_each_seed() -> None:
    assert picture(1).tobytes() != picture(2).tobytes()
