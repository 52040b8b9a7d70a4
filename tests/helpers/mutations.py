"""Good inputs of commands, made worse: other bytes, other values, other kinds of files, other flags."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

TEXTS = (
    "", " ", "0", "-1", "nan", "inf", "1e400", "1.5", "null", "true", "[]", "{}", "[1", "a: b: c", "a\nb", "\x1b[31m",
    "ü\udcff", "${oc.env:NOT_THERE}", "${x}", "${oc.decode:[}", "../../x", "/dev/null", "/dev/zero", "/",
    "nothing/there", "x" * 5000, "9" * 400, "0x", "I/N", "1/0", "%s", "--", "torch.nn.Linear", "None",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", " ", "x" * 5000, "../../x", "/dev/zero", "a\nb",
    "\x00", [], {}, [[]], [None], {"a": 1}, {"": {}}, ["a", 1],
)  # fmt: skip
PIECES = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n",
    b"{",
    b"}",
    b"[",
    b'"',
    b"\\ud800",
    b"NaN",
    b"9" * 400,
    b"[" * 5000,
)
KINDS = ("nothing", "folder", "pipe", "loop", "zero", "empty", "twice")


def bytes_changed(chance: Random, content: bytes) -> bytes:
    """Return a content with a part of it cut, doubled or replaced."""
    start = chance.randint(0, len(content))
    end = chance.randint(start, min(len(content), start + 40))
    return content[:start] + chance.choice([*PIECES, content[start:end] * 2]) + content[end:]


def value_changed(chance: Random, value: Any) -> Any:
    """Return a value of JSON or YAML in which one value within it, a key, or the number of entries is another."""
    if isinstance(value, (dict, list)) and value and chance.randint(0, 5):
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        what = chance.choice(("inside", "inside", "inside", "remove", "name"))
        if what == "inside":
            copy[key] = value_changed(chance, value[key])
        elif isinstance(copy, dict) and what == "name":
            copy[chance.choice((f"{key}x", "", 1, "../x"))] = copy.pop(key)
        else:
            del copy[key]
        return copy
    return chance.choice(VALUES)


def content_changed(chance: Random, file: Path) -> None:
    """Change a file of JSON, JSON lines or YAML by one of its values, any file by its bytes."""
    content = file.read_bytes()
    if chance.randint(0, 1):
        with contextlib.suppress(ValueError, RecursionError, yaml.YAMLError):  # changed before, and unreadable now
            file.write_text(_value_of_file_changed(chance, file), errors="surrogatepass")
            return
    file.write_bytes(bytes_changed(chance, content))


def _value_of_file_changed(chance: Random, file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        return yaml.safe_dump(value_changed(chance, yaml.safe_load(text)), sort_keys=False)
    if file.suffix == ".json":
        return json.dumps(value_changed(chance, json.loads(text)))
    if file.suffix != ".jsonl":
        raise ValueError("no values in this file")
    lines = text.splitlines()
    place = chance.randrange(len(lines))
    lines[place] = json.dumps(value_changed(chance, json.loads(lines[place])))
    return "\n".join(lines)


def kind_changed(chance: Random, file: Path) -> None:
    """Put something else in the place of a file."""
    kind, content = chance.choice(KINDS), file.read_bytes()
    file.unlink()
    actions: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
        "loop": lambda: file.symlink_to(file.name),
        "zero": lambda: file.symlink_to("/dev/zero"),
        "empty": file.touch,
        "twice": lambda: file.write_bytes(content * 2),
    }
    actions[kind]()


def flag_changed(chance: Random, flags: list[str], fixed: tuple[str, ...]) -> list[str]:
    """Return flags, one of which has another value, another name, stands twice or is missing; ``fixed`` ones stay."""
    places = [number for number, flag in enumerate(flags) if flag.partition("=")[0] not in fixed]
    place = chance.choice(places)
    name, equals, value = flags[place].partition("=")
    text = chance.choice(TEXTS)
    changed = {
        "value": [f"{name}={text}" if equals else text],
        "letter": [f"{name}x{equals}{value}"],
        "away": [],
        "twice": [flags[place]] * 2,
        "bare": [name],
        "more": [flags[place], text],
    }
    what = chance.choice(("value", "value", "value", *changed))
    return [*flags[:place], *changed[what], *flags[place + 1 :]]


def worsened(
    chance: Random, good: Path, work: Path, files: tuple[str, ...], flags: list[str], fixed: tuple[str, ...]
) -> list[str]:
    """Copy good inputs to a new folder, make one or two mistakes in files or flags, and return the flags."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(good, work, symlinks=True)
    for _ in range(chance.randint(1, 2)):
        file = work / chance.choice(files) if files else None
        what = chance.choice(("flag", "content", "content", "kind") if file else ("flag",))
        if what == "flag":
            flags = flag_changed(chance, flags, fixed)
        elif file.is_file() and not file.is_symlink():
            (content_changed if what == "content" else kind_changed)(chance, file)
    return flags
