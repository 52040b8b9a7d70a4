"""YAML that users write: each kind of fault is one line with the file and the line, at once."""

import os
import time
from pathlib import Path

import pytest

from contextcir.errors import InputError
from experiments.yaml_files import parse_yaml, read_mapping, read_yaml

LAUGHS = "b: &b [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"b{n}: &b{n} [{','.join(['*b' + (str(n - 1) if n else '')] * 9)}]\n" for n in range(12)
)
FAULTS = {
    "twice": ("a: 1\nb: 2\na: 3", "'a' stands twice in one mapping, again in line 3"),
    "twice, deep": ("x:\n  - {y: 1, 'y': 2}", "'y' stands twice in one mapping, again in line 2"),
    "twice, flow": ("{a: 1, a: 1}", "stands twice"),
    "laughs": (LAUGHS, "more than 100,000 values in line"),
    "merged laughs": ("a: &a {x: 1}\nb: [" + "*a, " * 60_000 + "]", "more than 100,000 values"),
    "alias of itself": ("a: &a\n  - *a", "*a stands within its own anchor in line 2"),
    "no anchor": ("a: *b", "no anchor for the alias *b in line 1"),
    "lists": ("[" * 100_000, "nested more than 100 deep in line 1"),
    "mappings": ("{a: " * 10_000, "nested more than 100 deep"),
    "dashes": ("- " * 10_000, "nested more than 100 deep"),
    "object": (
        "a: 1\nx: !!python/object/apply:os.system [ls]",
        "!!python/object/apply:os.system is not known in line 2",
    ),
    "own tag": ("x: !mine 3", "!mine is not known"),
    "binary tag": ("x: !!binary YQ==", "!!binary is not known"),
    "digits": ("x: 1\ny: " + "9" * 400, "a number of 400 characters in line 2"),
    "digits of a float": ("x: 0." + "1" * 400, "a number of 402 characters"),
    "half a pair": ('x: "\\ud800"', "in line 1"),
    "control": ("x: 1\ny: \x07", "0x07 is not allowed in line 2"),
    "tab": ("x:\n\ty: 1", "a tab where YAML wants spaces in line 2"),
    "sign": ("x: @a", "can't begin with '@': put it in quotes in line 1"),
    "unclosed": ("x: [1", "line"),
    "quote": ("x: 'a", "line"),
    "indent": ("a: 1\n b: 2", "in line 2"),
    "documents": ("a: 1\n---\nb: 2", "a second document begins in line 2"),
    "list as a key": ("? [1]\n: 2", "line"),
    "no number": ("x: !!int abc", "abc"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_one_line_with_file_and_line(kind: str, tmp_path: Path) -> None:
    text, words = FAULTS[kind]
    file = tmp_path / "own.yaml"
    file.write_text(text)
    start = time.process_time()
    with pytest.raises(InputError) as raised:
        read_yaml(file, "config")
    told = str(raised.value)
    assert time.process_time() - start < 2
    assert told.startswith(f"{file}: not valid YAML: ") and words in told
    assert told.isprintable() and len(told) - len(str(file)) < 250


def test_what_is_no_file_or_no_text_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\0")
    for name, words in {"folder": "a folder", "pipe": "a named pipe", "binary": "UTF-8", "none": "no file"}.items():
        with pytest.raises(InputError, match=words):
            read_yaml(tmp_path / f"{name}.yaml", "config")
    with pytest.raises(InputError, match="a device"):
        read_yaml("/dev/zero")


@pytest.mark.parametrize("text", ["", "# nothing", "- 1", "word", "3", "true", "null"])
def test_settings_are_a_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match="expected a mapping of settings, found"):
        read_mapping(tmp_path / "a.yaml", "settings")


def test_ordinary_yaml_is_read_as_it_is() -> None:
    text = "a: &x {b: [1, 2.5, null, true, 'é\\n']}\nc: {<<: *x, d: *x}\ne: {1: x, '1': y}\nf: !!str 3\ng: |\n  [ {\n"
    inner = {"b": [1, 2.5, None, True, "é\\n"]}
    expected = {"a": inner, "c": {**inner, "d": inner}, "e": {1: "x", "1": "y"}, "f": "3", "g": "[ {\n"}
    assert parse_yaml(text) == expected
