"""Sorted rows and tables of keys against dicts and sorted lists, in memory and on the disk."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.errors import InputError
from contextcir.shards.keys import KeySorter, KeyTable, Place, SeenKeys, places_of
from contextcir.shards.rows import RowSorter

ROWS = st.lists(st.binary(min_size=3, max_size=3), max_size=200)
KEYS = st.lists(st.text(max_size=2), max_size=120)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, most=st.integers(5, 300), wanted=st.binary(min_size=3, max_size=3))
def test_rows_come_in_the_order_of_their_bytes(rows: list[bytes], most: int, wanted: bytes) -> None:
    sorter = RowSorter(3, most=most)
    for row in rows:
        sorter.add(row)
    found = sorter.sorted()
    assert b"".join(block.tobytes() for _, block in found.blocks(7)) == b"".join(sorted(rows))
    assert found.first(wanted) == sum(row < wanted for row in rows)


def table(keys: list[str], most: int, file: int = 0) -> KeyTable:
    sorter = KeySorter(most=most)
    for number, key in enumerate(keys):
        sorter.add(key, file, number, 7)
    return sorter.table()


@settings(max_examples=60, deadline=None)
@given(keys=KEYS, one=KEYS, other=KEYS, most=st.integers(5, 200))
def test_a_table_finds_and_subtracts_as_sets_do(keys: list[str], one: list[str], other: list[str], most: int) -> None:
    made = table(keys, most)
    for key in {*keys, *one}:
        assert made.places(key) == [Place(0, number, 7) for number, each in enumerate(keys) if each == key]
        assert (key in made) == (key in keys)
    total, before, left = made.distinct(table(one, most), table(other, 1000))
    firsts = {key: number for number, key in reversed(list(enumerate(keys)))}
    known = {*one, *other}
    assert (total, before) == (len(firsts), len(firsts.keys() & known))
    assert [place.start for place in places_of(left)] == sorted(firsts[key] for key in firsts.keys() - known)
    twice = [(later, first) for first, later in made.repeated()]
    assert len(twice) == len(keys) - len(set(keys))
    assert all(keys[later.start] == keys[first.start] for later, first in twice)


def test_a_table_of_a_file_finds_the_same(tmp_path: Path) -> None:
    keys = [f"key {number}" for number in random.Random(0).sample(range(10_000), 3_000)]
    table(keys, 500).write(tmp_path / "t")
    again = KeyTable.read(tmp_path / "t")
    assert len(again) == len(keys) and "key" not in again
    assert all(again.places(key) == [Place(0, number, 7)] for number, key in enumerate(keys))


def test_sorting_leaves_no_file_and_names_the_folder_that_takes_none(tmp_path: Path) -> None:
    sorter = KeySorter(tmp_path / "scratch", most=10)
    for number in range(100):
        sorter.add(str(number), 0, number, 0)
    assert len(sorter.table()) == 100 and not list((tmp_path / "scratch").iterdir())
    (tmp_path / "file").write_text("")
    sorter = KeySorter(tmp_path / "file" / "below", most=1)
    with pytest.raises(InputError, match="can't be written"):
        sorter.add("a", 0, 0, 0)


def test_memory_does_not_grow_with_the_keys(tmp_path: Path) -> None:
    import tracemalloc

    sorter = KeySorter(tmp_path, most=2_000)
    tracemalloc.start()
    for number in range(20_000):
        sorter.add(os.urandom(4).hex(), 0, number, 0)
    made = sorter.table()
    made.distinct(made)
    _, peak = tracemalloc.get_traced_memory()
    del made
    sorter = KeySorter(tmp_path, most=2_000)
    for number in range(20_000):
        sorter.add(str(number), 0, number, 0)
    before, _ = tracemalloc.get_traced_memory()
    made = sorter.table()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made) == 20_000 and after - before < 100_000  # the rows are 640,000 bytes
    assert peak < 2_500_000  # 20,000 keys with their places in a dict take 4 MB or more


@settings(max_examples=40, deadline=None)
@given(keys=st.lists(st.text(max_size=2), max_size=300), most=st.integers(1, 50))
def test_a_growing_set_knows_what_came_before(keys: list[str], most: int) -> None:
    seen, known = SeenKeys(most), set[str]()
    for key in keys:
        assert seen.add(key) == (key not in known)
        known.add(key)
