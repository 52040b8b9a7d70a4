"""The index in a folder: what a crash, damage, other processes and threads leave of it, and what a score is."""

import json
import multiprocessing
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from contextcir.embeddings import write_rows
from contextcir.errors import InputError
from contextcir.files import one_writer
from contextcir.search import database, rows
from contextcir.search.database import Change
from contextcir.search.embedded import EmbeddedIndex
from contextcir.search.index import Where
from tests.helpers.index_cases import fill, paths, photo

FEATURES, DATABASE = "features.bin", "photos.sqlite"
NAMES = [f"{number:03}" for number in range(40)]


def directions(version: int, width: int = 16) -> torch.Tensor:
    """Embeddings of `NAMES`, others for each version."""
    return torch.randn(len(NAMES), width, generator=torch.Generator().manual_seed(version))


def store(index: EmbeddedIndex, version: int) -> None:
    """Store `NAMES`, with the version as their size."""
    index.upsert([photo(name, size=version) for name in NAMES], directions(version))


def assert_whole(index: EmbeddedIndex) -> int:
    """Check that all photos are of one version, with its embeddings; return it."""
    stored = list(index.fetch(embeddings=True))
    assert [one.photo.path for one in stored] == NAMES
    (version,) = {one.photo.size for one in stored}
    expected = torch.nn.functional.normalize(directions(version), dim=1)
    torch.testing.assert_close(torch.stack([one.embedding for one in stored]), expected, atol=1e-3, rtol=0)
    assert list(index.damaged()) == [] and index.count() == len(NAMES)
    return version


def store_for_ever(folder: Path) -> None:
    torch.set_num_threads(1)
    database.REST = 0.0  # rows are used again at once
    with closing(EmbeddedIndex(folder)) as index:
        for version in range(2, 10_000):
            store(index, version)


@pytest.mark.parametrize("after", [0.05, 0.11, 0.23, 0.31])
def test_a_killed_process_leaves_the_old_photos_or_the_new_ones(tmp_path: Path, after: float) -> None:
    with closing(EmbeddedIndex(tmp_path / "index", {})) as index:
        store(index, 1)
    writer = multiprocessing.get_context("fork").Process(target=store_for_ever, args=(tmp_path / "index",))
    writer.start()
    with closing(EmbeddedIndex(tmp_path / "index")) as index:
        while next(index.fetch(["000"])).photo.size == 1 and writer.is_alive():
            time.sleep(0.01)
    time.sleep(after)
    assert writer.is_alive()
    writer.kill()
    writer.join()
    with closing(EmbeddedIndex(tmp_path / "index")) as index:
        assert assert_whole(index) > 1
        store(index, 10_000)  # the lease of the dead process is no hindrance
        assert assert_whole(index) == 10_000


@pytest.mark.parametrize(
    "place", ["rows.write_rows", "database.Change.remove", "database.Change.add", "database.Change.finish"]
)
@pytest.mark.parametrize("done", [True, False], ids=["after it", "before it"])
def test_a_batch_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, done: bool
) -> None:
    monkeypatch.setattr(database, "REST", 0.0)
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        for version in (1, 2, 3):
            store(index, version)
        module, _, name = place.rpartition(".")
        holder = {"rows": rows, "database.Change": Change}[module]
        real = getattr(holder, name)

        def fail(*args: object) -> None:
            if done:
                real(*args)
            raise RuntimeError

        with monkeypatch.context() as context:
            context.setattr(holder, name, fail)
            with pytest.raises(RuntimeError):
                store(index, 4)
        assert assert_whole(index) == 3
        store(index, 5)
        assert assert_whole(index) == 5


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, size: int) -> None:
        raise InputError("no features can be stored: there is no room", file=path)

    with closing(EmbeddedIndex(tmp_path, {})) as index:
        monkeypatch.setattr(rows, "reserve", full)
        with pytest.raises(InputError, match="no room"):
            store(index, 1)
        monkeypatch.undo()
        assert index.count() == 0 and index.search(torch.ones(1, 8), 1) == [[]]
        fill(index, {"a": [1, 0]})  # nothing settled the width
        assert index.count() == 1


def test_rows_that_were_given_up_are_used_again_but_not_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        size = len(NAMES) * 16 * 2
        for version in (1, 2):
            store(index, version)
            assert (tmp_path / FEATURES).stat().st_size == version * size
        monkeypatch.setattr(database, "REST", 0.0)
        index.delete(NAMES[:5])
        for version in range(3, 8):
            store(index, version)
        assert (tmp_path / FEATURES).stat().st_size == 2 * size
        assert assert_whole(index) == 7


def test_readers_in_threads_see_whole_versions_while_a_thread_writes(tmp_path: Path) -> None:
    faults: list[BaseException] = []
    seen: set[int] = set()
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        store(index, 1)
        done = threading.Event()

        def read() -> None:
            try:
                while not done.is_set():
                    (found,) = index.search(torch.ones(1, 16), len(NAMES))
                    (version,) = {hit.photo.size for hit in found}
                    expected = torch.nn.functional.normalize(directions(version), dim=1).sum(1) / 4
                    scores = {hit.photo.path: hit.score for hit in found}
                    assert [scores[name] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-3)
                    seen.add(version)
            except BaseException as fault:
                faults.append(fault)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for version in range(2, 12):
                store(index, version)
                time.sleep(0.02)
        finally:
            done.set()
            for reader in readers:
                reader.join()
        assert not faults and len(seen) > 1
        assert assert_whole(index) == 11


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        store(index, 1)
        with one_writer(tmp_path, "indexes"):
            with pytest.raises(InputError, match="another process changes the index here already, process"):
                store(index, 2)
            with pytest.raises(InputError, match="another process changes"):
                index.delete(["000"])
            assert assert_whole(index) == 1


@pytest.mark.parametrize("left", [0, 10 * 32, 40 * 32 - 1])
def test_embeddings_that_were_cut_off_are_told(tmp_path: Path, left: int) -> None:
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        store(index, 1)
        index.search(torch.ones(1, 16), 1)
        os.truncate(tmp_path / FEATURES, left)
        for again in (index, EmbeddedIndex(tmp_path)):
            with pytest.raises(InputError, match=r"features\.bin: was cut off; delete the folder of the index"):
                again.search(torch.ones(1, 16), 1)
            with pytest.raises(InputError, match="cut off"):
                store(again, 2)
            with pytest.raises(InputError, match="cut off"):
                list(again.fetch(embeddings=True))
            assert len(list(again.fetch())) == len(NAMES)
    os.unlink(tmp_path / FEATURES)
    with pytest.raises(InputError, match="No such file"), closing(EmbeddedIndex(tmp_path)) as index:
        index.search(torch.ones(1, 16), 1)


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_damaged_embeddings_are_told_and_can_be_stored_again(tmp_path: Path, value: float) -> None:
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        store(index, 1)
        write_rows(tmp_path / FEATURES, np.array([3, 17]), np.full((2, 16), value, np.float16))
        assert list(index.damaged()) == ["003", "017"]
        with pytest.raises(InputError, match=r"the embedding of '0(03|17)' is damaged: delete the folder"):
            index.search(torch.ones(1, 16), 1)
        with pytest.raises(InputError, match=f"{tmp_path}: .* damaged"):
            list(index.fetch(embeddings=True))
        index.upsert([photo(name, size=1) for name in NAMES[:20]], directions(1)[:20])
        assert assert_whole(index) == 1


def test_other_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(words: str, about: dict[str, int] | None = None) -> None:
        with pytest.raises(InputError, match=words) as error:
            EmbeddedIndex(tmp_path, about)
        assert "\n" not in str(error.value)

    refused("no index of images in .*: index a folder of images first")
    (tmp_path / "about.json").write_text("[]")
    refused("expected an object")
    (tmp_path / "about.json").write_text("{")
    refused("not valid JSON")
    (tmp_path / "about.json").write_text("{}")
    refused("holds no index of images, or a part of one")
    (tmp_path / DATABASE).write_bytes(b"no database at all" * 1000)
    refused("file is not a database")
    (tmp_path / DATABASE).unlink()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        other.execute("CREATE TABLE photos (row)")
    refused(f"{DATABASE}: is no index of images: choose another folder", {})
    (tmp_path / DATABASE).unlink()
    database.Database.make(tmp_path / DATABASE)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        other.execute("PRAGMA user_version = 9")
    refused("an index of format 9, expected 1: index the images to a new folder")


def test_an_index_whose_making_was_interrupted_is_made(tmp_path: Path) -> None:
    database.Database.make(tmp_path / DATABASE)  # about.json comes last
    with closing(EmbeddedIndex(tmp_path, {"a": 1})) as index:
        fill(index, {"a": [1, 0]})
        assert index.count() == 1 and json.loads((tmp_path / "about.json").read_text()) == {"a": 1}


def test_a_score_depends_neither_on_the_place_nor_on_other_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix products round otherwise at borders of blocks and for other numbers of queries."""
    monkeypatch.setattr(rows, "BLOCK", 7 * 2 * 50)
    monkeypatch.setattr(rows, "BLOCKS", 3)
    monkeypatch.setattr(rows, "QUERIES", 4)
    generator = torch.Generator().manual_seed(0)
    kinds, queries = torch.randn(30, 50, generator=generator), torch.randn(9, 50, generator=generator)
    order = torch.randperm(300, generator=generator)
    names = [f"{place:03}" for place in torch.randperm(300, generator=generator).tolist()]
    kind_of = {name: place % 30 for name, place in zip(names, order.tolist(), strict=True)}
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        for begin in range(0, 300, 64):
            part = names[begin : begin + 64]
            index.upsert([photo(name) for name in part], kinds[[kind_of[name] for name in part]])
        together = index.search(queries, 25)
        assert together == [index.search(query[None], 25)[0] for query in queries]
        unit = torch.nn.functional.normalize(kinds, dim=1).half().double()
        for query, hits in zip(torch.nn.functional.normalize(queries, dim=1).double(), together, strict=True):
            scores = (unit @ query).tolist()
            assert paths(hits) == sorted(names, key=lambda name: (-scores[kind_of[name]], name))[:25]
            assert [hit.score for hit in hits] == pytest.approx([scores[kind_of[p]] for p in paths(hits)], abs=1e-7)


def test_all_images_may_have_the_same_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 512)
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        index.upsert([photo(f"{number:04}") for number in reversed(range(1200))], torch.ones(1200, 4))
        (found,) = index.search(torch.ones(1, 4), 3, without=["0001"])
        assert paths(found) == ["0000", "0002", "0003"] and {hit.score for hit in found} == {1.0}


@pytest.mark.parametrize("kept", [0.01, 0.03, 0.3, 0.97])
def test_conditions_leave_out_rows_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float) -> None:
    monkeypatch.setattr(rows, "BLOCK", 2 * 8 * 64)
    monkeypatch.setattr(rows, "BLOCKS", 2)
    generator = torch.Generator().manual_seed(1)
    vectors, chosen = torch.randn(700, 8, generator=generator), torch.rand(700, generator=generator) < kept
    photos = [photo(f"{row:03}", kind="PNG" if good else "JPEG") for row, good in enumerate(chosen.tolist())]
    with closing(EmbeddedIndex(tmp_path, {})) as index:
        index.upsert(photos, vectors)
        (found,) = index.search(torch.ones(1, 8), 20, Where(formats=("PNG",)))
        scores = torch.nn.functional.normalize(vectors, dim=1).half().double().sum(1).tolist()
        good = [row for row in range(700) if chosen[row]]
        assert paths(found) == [f"{row:03}" for row in sorted(good, key=lambda row: -scores[row])[:20]]
        assert index.count(Where(formats=("PNG",))) == len(good)
