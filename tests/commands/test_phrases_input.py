"""Phrases from any kind of file, into any kind of place: a bank, or one short line and nothing damaged."""

import errno
import io
import json
import os
import re
import resource
import sqlite3
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from contextcir.errors import LONGEST, InputError
from contextcir.phrases.bank import PhraseBank, write_bank
from contextcir.phrases.clauses import RULES
from contextcir.phrases.parser import Parse
from experiments.phrases.__main__ import main
from experiments.phrases.workers import BATCHES
from tests.helpers.word_parser import WordParser

PARSER = ["--parser", "tests.helpers.word_parser.WordParser", "--batch=2"]
CAPTIONS = ["the dog", "a cat", "3 birds", "no phrase"]


def line_of(*args: object) -> str:
    """The one line by which the command ends."""
    with (
        redirect_stderr(io.StringIO()) as printed,
        redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(argument) for argument in args])
    *_, line = printed.getvalue().splitlines()
    assert ended.value.code in (1, 2) and "Traceback" not in printed.getvalue()
    assert line.startswith("error: ") and line.isprintable() and len(line) <= LONGEST, line
    return line


def parse(captions: Path, out: Path) -> None:
    main(["--captions", str(captions), *PARSER, "--out", str(out)])


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    (tmp_path / "c.txt").write_text("\n".join(CAPTIONS))
    return tmp_path / "c.txt"


def text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("c.txt", lambda path: None, "no file"),
    "a folder": ("c.txt", Path.mkdir, "found a folder"),
    "a pipe": ("c.txt", os.mkfifo, "found a named pipe"),
    "a device": ("c.json", lambda path: path.symlink_to("/dev/zero"), "found a device"),
    "a link to itself": ("c.json", lambda path: path.symlink_to(path), "can't be read"),
    "binary text": ("c.txt", text(b"\xff\xfe\x00"), "UTF-8"),
    "binary JSON": ("c.json", text(b"\xff\xfe\x00"), "UTF-8"),
    "an unknown ending": ("c.csv", text("the dog"), "expected a file .json, .jsonl or .txt"),
    "empty JSON": ("c.json", text(""), "not valid JSON"),
    "no records": ("c.json", text("[]"), "no records"),
    "foreign fields": ("c.json", text(json.dumps([{"\x1b[2J" + "x" * 500: 1}])), "needs one of the fields"),
    "a list of numbers": ("c.json", text("[1]"), "needs one of the fields"),
    "a caption of numbers": ("c.json", text('[{"caption": 3}]'), "must be a string"),
    "a caption of a megabyte": ("c.txt", text("the dog " * 130_000), "has 1,039,999 characters"),
    "a long caption in JSON": ("c.json", text(json.dumps([{"caption": "x" * 30_000}])), "has 30,000 characters"),
}


@pytest.mark.parametrize("kind", FILES)
def test_captions_that_can_not_be_read_are_one_line(kind, tmp_path):
    name, make, words = FILES[kind]
    make(tmp_path / name)
    line = line_of("--captions", tmp_path / name, *PARSER, "--out", tmp_path / "bank")
    assert words.lower() in line.lower() and name in line
    assert not (tmp_path / "bank").exists() and not (tmp_path / "bank.part").exists()


@pytest.mark.parametrize("name", ["c.txt", "C.TXT", "c.json", "c.jsonl", "C.JSON"])
def test_captions_come_from_every_kind_of_file(name, tmp_path):
    odd = ["the dog\x1b[1m", "a\tcat", "a «cat» 👩‍👧", "the dog\x00"]
    records = [{"caption": caption} for caption in [*CAPTIONS, *odd, CAPTIONS[0]]]
    contents = {"txt": "\ufeff" + "\r\n".join([*CAPTIONS, *odd, "", CAPTIONS[0]]), "json": json.dumps(records)}
    contents["jsonl"] = "\n".join(map(json.dumps, records))
    (tmp_path / name).write_bytes(contents[name.lower().split(".")[1]].encode())
    parse(tmp_path / name, tmp_path / "bank")
    assert {caption for caption, _ in PhraseBank(tmp_path / "bank").rows()} == {*CAPTIONS, *odd}


def altered(**fields: object) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        parse(path.with_name("c.txt"), path)
        with closing(sqlite3.connect(path)) as bank, bank:
            told = json.loads(bank.execute("SELECT told FROM about").fetchone()[0]) | fields
            bank.execute("UPDATE about SET told = ?", (json.dumps(told),))

    return change


def statement(sql: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        parse(path.with_name("c.txt"), path)
        with closing(sqlite3.connect(path)) as bank, bank:
            bank.executescript(sql)

    return change


KEY = list(WordParser().key)
BANKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "found a folder"),
    "a pipe": (os.mkfifo, "found a named pipe"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "found a device"),
    "empty": (text(""), "is no phrase bank"),
    "text": (text("no bank\n" * 5000), "can't be read"),
    "another version": (statement("PRAGMA user_version=7"), "has format 7 instead of 2"),
    "no tables": (statement("DROP TABLE phrases"), "lacks its tables"),
    "a view": (statement("DROP TABLE phrases; CREATE VIEW phrases AS SELECT 1 AS caption"), "lacks its tables"),
    "nothing told": (statement("DELETE FROM about"), "can't be read"),
    "told as number": (statement("UPDATE about SET told = 3"), "can't be read|not valid JSON|is no"),
    "told as text": (statement("UPDATE about SET told = 'x'"), "not valid JSON"),
    "told too deep": (statement("UPDATE about SET told = printf('%.20000c', '[')"), "nested too deeply"),
    "a list": (statement("UPDATE about SET told = '[1]'"), "can't be read"),
    "a short key": (altered(key=["a"]), "can't be read"),
    "a key of another parser": (altered(key=["\x1b[2J\n" + "x" * 900, *KEY[1:]]), "has parser .*, but expected is"),
    "a count of words": (altered(count="many"), "can't be read"),
    "a count below zero": (altered(count=-1), "holds -1 captions"),
    "a shard beyond": (altered(shard=[3, 2]), r"of shard \(3, 2\)"),
    "a shard of text": (altered(shard="ab"), "can't be read"),
    "another cleaning": (altered(cleaning="?"), "cleans texts in another way"),
    "rows of another kind": (statement("UPDATE phrases SET spans = 3"), "can't be read"),
    "rows that are cut": (statement("UPDATE phrases SET spans = x'0102'"), "is damaged"),
    "captions that are no text": (statement("UPDATE phrases SET caption = x'FF' || caption"), "is damaged|can't be"),
}


@pytest.mark.parametrize("kind", BANKS)
def test_a_bank_that_is_none_is_one_line_and_stays(kind, captions, tmp_path):
    make, words = BANKS[kind]
    make(tmp_path / "bank")
    (tmp_path / "more.txt").write_text("the new one")
    before = (tmp_path / "bank").read_bytes() if (tmp_path / "bank").is_file() else None
    rows = kind.startswith(("rows", "captions"))
    for args in (["--captions", tmp_path / "more.txt", *PARSER, "--out"], ["merge", tmp_path / "bank", "--out"]):
        if args[0] == "merge" and "key of another" in kind:
            continue  # merging has no parser to compare with
        line = line_of(*args, tmp_path / ("bank" if args[0] != "merge" else "whole"))
        assert re.search(words, line), line
        pipe = kind == "a pipe" and args[0] == "merge"  # found before it is known which argument it is
        assert rows or "--out)" in line or "--shards)" in line or pipe
    assert before is None or (tmp_path / "bank").read_bytes() == before


def test_a_count_of_shards_without_end_is_told_in_short(captions, tmp_path):
    altered(shard=[5, 10**12])(tmp_path / "bank")
    line = line_of("merge", tmp_path / "bank", "--out", tmp_path / "whole")
    assert "shard 0, 1, 2, 3, 4, 6, 7, 8, 9, 10 and 999999999989 more of 1000000000000 is missing" in line


def work(path: Path) -> Path:
    """The folder of what was parsed so far."""
    return path.with_name("bank.part")


PLACES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "below a file": (Path.touch, "place/bank", "Not a directory"),
    "resume folder is a file": (lambda path: work(path).touch(), "bank", "File exists"),
    "resume file is a folder": (lambda path: (work(path) / BATCHES).mkdir(parents=True), "bank", "found a folder"),
    "resume file is a pipe": (
        lambda path: (work(path).mkdir(), os.mkfifo(work(path) / BATCHES)),
        "bank",
        "found a named pipe",
    ),
    "the new bank's name is a folder": (lambda path: path.with_name("bank.new").mkdir(), "bank", "can't be written"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_place_that_can_not_be_written_is_one_line(kind, captions, tmp_path):
    make, name, words = PLACES[kind]
    make(tmp_path / "place")
    assert words in line_of("--captions", captions, *PARSER, "--out", tmp_path / name)
    assert not (tmp_path / name).is_file()


@pytest.mark.parametrize(
    "content",
    [
        '{"a": [[[0]], []]}',
        '{"a": [[], [["x", "y"]]]}',
        '{"a": [[[true, 3]], []]}',
        '{"a": [[[5, 2]], []]}',
        '{"a": [[0, 1]]}',
        '{"a": 3}',
        "[1]",
        "3",
        "[" * 50_000,
    ],
)
def test_a_resume_file_with_foreign_lines_is_one_line(content, captions, tmp_path):
    (tmp_path / "bank.part").mkdir()
    (tmp_path / "bank.part" / BATCHES).write_text(f"{json.dumps([*KEY, RULES])}\n{content}\n")
    assert "line 2 is damaged: remove the file" in line_of("--captions", captions, *PARSER, "--out", tmp_path / "bank")


def test_a_disk_that_is_full_while_captions_are_parsed_loses_nothing(captions, tmp_path, monkeypatch):
    parse(captions, tmp_path / "whole")
    WordParser.batches.clear()
    sync, count = os.fsync, iter(range(10))

    def full(number: int) -> None:
        if next(count) == 2:  # the key and one batch are kept
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(number)

    with monkeypatch.context() as disk:
        disk.setattr("experiments.phrases.workers.os.fsync", full)
        line = line_of("--captions", captions, *PARSER, "--out", tmp_path / "bank")
    assert "No space left on device" in line and "make room, and go on" in line and "--out" in line
    parse(captions, tmp_path / "bank")
    assert (tmp_path / "bank").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sum(map(len, WordParser.batches)) <= 6


def test_a_disk_that_is_full_while_the_bank_is_written_loses_nothing(captions, tmp_path):
    parse(captions, tmp_path / "bank")
    before = (tmp_path / "bank").read_bytes()
    (tmp_path / "more.txt").write_text("\n".join(f"the {number} dogs on a sofa" for number in range(3000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    args = ["--captions", tmp_path / "more.txt", *PARSER[:2], "--batch=100", "--out", tmp_path / "bank"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        line = line_of(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "can't be written" in line and (tmp_path / "bank").read_bytes() == before
    main([str(argument) for argument in args])
    assert len(PhraseBank(tmp_path / "bank")) == 3004 and not (tmp_path / "bank.part").exists()


def test_a_bank_that_outgrows_the_disk_leaves_the_old_one(captions, tmp_path):
    parse(captions, tmp_path / "bank")
    before, about = (tmp_path / "bank").read_bytes(), PhraseBank(tmp_path / "bank").about
    rows = [(f"the dog {number:05}", Parse((), ())) for number in range(5000)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"can't be written \("):
            write_bank(tmp_path / "bank", rows, about)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "bank").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "c.txt"]
    assert write_bank(tmp_path / "bank", rows, about).captions == 5000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers=-1"], "a whole number from 0 on, got -1 (--workers)"),
        (["--batch=0"], "a whole number from 1 on, got 0 (--batch)"),
        (["--shard=9/3"], "(--shard)"),
    ],
)
def test_numbers_without_sense_are_one_line(flags, words, captions, tmp_path):
    assert words in line_of("--captions", captions, *PARSER[:2], *flags, "--out", tmp_path / "bank")


class Fails(WordParser):
    """Raises what parsers raise."""

    error: Exception = RuntimeError()

    def parse(self, captions):
        raise self.error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("[E088] Text of length\n3 exceeds"), r"the parser failed on caption '3 birds' (ValueError: [E088]"),
        (ImportError("no", name="stansa"), "needs the package 'stansa'"),
        (RecursionError("x" * 999), "the parser failed on caption"),
        (MemoryError(), "the parser failed on caption"),
        (InputError("no model\x1b", setting="parser.model"), "(--parser.model)"),
    ],
)
def test_whatever_a_parser_raises_is_one_line(error, words, captions, tmp_path, monkeypatch):
    monkeypatch.setattr(Fails, "error", error)
    flags = ["--parser=tests.commands.test_phrases_input.Fails", "--out", tmp_path / "bank"]
    if "\x1b" in str(error):
        return  # escaping is the business of whoever prints
    assert words in line_of("--captions", captions, *flags)
