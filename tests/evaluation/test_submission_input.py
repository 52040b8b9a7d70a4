"""Annotations are found from the root, from their own folder or from around it; files of any kind get a verdict."""

import io
import json
import os
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from contextcir.errors import LONGEST
from experiments.submission import main
from tests.helpers.make_data import make_circo, make_cirr

MAKERS = {"cirr": (make_cirr, "captions"), "circo": (make_circo, "annotations")}


def run(*args: object) -> tuple[int, str, str]:
    """The exit status of a command, and what it printed."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main([str(argument) for argument in args])
        except SystemExit as ended:
            return ended.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


@pytest.fixture(params=MAKERS)
def benchmark(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """A benchmark's name, the folder of its annotations, and a file that is no valid submission."""
    make, folder = MAKERS[request.param]
    (tmp_path / "bad.json").write_text("{}")
    root = make(tmp_path / "sets" / "mine")
    found = next(path for path in (root / folder, *root.rglob(folder)) if any(path.glob("*val.json")))
    return request.param, found, tmp_path / "bad.json"


def test_any_folder_around_the_annotations_is_understood(benchmark):
    name, holder, file = benchmark
    told = {
        run("validate", name, file, "--annotations", folder, "--split", "val")
        for folder in (holder, holder.parent, holder.parent.parent, f"{holder}/", holder.parent / "x" / "..")
        if "x" not in str(folder) or (holder.parent / "x").mkdir() is None
    }
    ((status, out, err),) = told
    assert status == 1 and err == "" and "INVALID" in out and "is missing (and" in out


def test_a_relative_folder_is_understood(benchmark, monkeypatch):
    name, holder, file = benchmark
    for folder in (holder, holder.parent):
        monkeypatch.chdir(folder)
        assert "INVALID" in run("validate", name, file, "--annotations", ".", "--split", "val")[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no folder"),
        (Path.touch, "not a folder"),
        (os.mkfifo, "not a folder"),
        (lambda path: path.symlink_to(path), "(?i)not a folder|symbolic"),
        (Path.mkdir, "no file"),
    ],
)
@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_without_annotations_is_one_line(name, make, words, tmp_path):
    make(tmp_path / "there")
    (tmp_path / "bad.json").write_text("{}")
    status, _, err = run("validate", name, tmp_path / "bad.json", "--annotations", tmp_path / "there", "--split", "val")
    (line,) = err.splitlines()
    assert status == 1 and line.startswith("error: ") and len(line) <= LONGEST and line.isprintable()
    assert re.search(words, line) and "--annotations" in line


def text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file"),
    "a pipe": (os.mkfifo, "found a named pipe"),
    "a folder": (Path.mkdir, "found a folder"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "found a device"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "empty": (text(""), "not valid JSON"),
    "binary": (text(b"\xff\xfe\x00"), "not valid JSON"),
    "half": (text('{"1": ["a"'), "not valid JSON"),
    "a list": (text("[1, 2]"), "must be a JSON object"),
    "a text": (
        text('"a\\nb\\u001b[1m"'),
        r'must be a JSON object .* got "a\nb\u001b[1m"'.replace("\\", "\\\\").replace("[", r"\["),
    ),
    "null": (text("null"), "must be a JSON object"),
    "nested lists": (text("[" * 100_000), "nested too deeply"),
    "nested objects": (text('{"1":' * 100_000), "nested too deeply"),
    "a number of 400 digits": (text('{"version": ' + "9" * 400 + "}"), "is missing"),
    "a number of 5,000 digits": (text('{"version": ' + "9" * 5000 + "}"), "not valid JSON"),
    "NaN": (text('{"version": NaN, "1000": [NaN]}'), "is missing"),
    "a key twice": (text('{"5": [], "5": []}'), 'key "5" more than once'),
    "wrong keys": (text('{"\\u001b[2J\\n": 1}'), "u001b"),
    "half a pair": (text('{"\\ud800": ["\\ud800"]}'), "ud800"),
    "long names": (text(json.dumps({"x" * 5000: "y" * 5000})), "xxx"),
    "other kinds": (text('{"1000": {"a": 1}, "1001": [[], {}, null, true, 1.5]}'), "is missing"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_of_any_kind_gets_a_verdict_in_short_lines(name, tmp_path):
    root = MAKERS[name][0](tmp_path / "set")
    for kind, (make, words) in FILES.items():
        file = tmp_path / f"{kind}.json"
        make(file)
        status, out, err = run("validate", name, file, "--annotations", root, "--split", "val")
        lines = out.splitlines()
        assert (status, err) == (1, "") and lines[0] == f"INVALID {file}" and len(lines) > 1, kind
        assert re.search(words, out), (kind, out)
        assert all(line.isprintable() and len(line) <= LONGEST + 4 for line in lines), kind
        status, out, err = run("score", name, file, "--annotations", root, "--split", "val")
        (line,) = err.splitlines()
        assert (status, out) == (1, "") and line.startswith("error: ") and line.isprintable(), kind


def test_a_name_with_control_characters_is_escaped(tmp_path):
    root = make_cirr(tmp_path / "set")
    file = tmp_path / "a\nb\x1b[1m.json"
    file.write_text("{}")
    _, out, _ = run("validate", "cirr", file, "--annotations", root, "--split", "val")
    assert r"a\nb\x1b[1m.json" in out.splitlines()[0]
