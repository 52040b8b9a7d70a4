"""Good inputs of commands, made worse: other bytes, other values, other kinds of files, other flags."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

TEXTS = (
    "", " ", "0", "-1", "nan", "inf", "1e400", "1.5", "null", "true", "[]", "{}", "[1", "a: b: c", "a\nb", "\x1b[31m",
    "ü\udcff", "${oc.env:NOT_THERE}", "${x}", "${oc.decode:[}", "../../x", "/dev/null", "/dev/zero", "/", "nothing/there",
    "x" * 5000, "9" * 400, "0x", "I/N", "1/0", "%s", "--", "torch.nn.Linear", "None",
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


def bytes_changed(data: st.DataObject, content: bytes) -> bytes:
    """Return a content with a part of it cut, doubled or replaced."""
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    return content[:start] + data.draw(st.sampled_from([*PIECES, content[start:end] * 2])) + content[end:]


def value_changed(data: st.DataObject, value: Any) -> Any:
    """Return a value of JSON or YAML in which one value within it, a key, or the number of entries is another."""
    if isinstance(value, (dict, list)) and value and data.draw(st.integers(0, 5)):
        key = data.draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        copy = value.copy()
        what = data.draw(st.sampled_from(("inside", "inside", "inside", "remove", "name")))
        if what == "inside":
            copy[key] = value_changed(data, value[key])
        elif isinstance(copy, dict) and what == "name":
            copy[data.draw(st.sampled_from((f"{key}x", "", 1, "../x")))] = copy.pop(key)
        else:
            del copy[key]
        return copy
    return data.draw(st.sampled_from(VALUES))


def content_changed(data: st.DataObject, file: Path) -> None:
    """Change a file of JSON, JSON lines or YAML by one of its values, any file by its bytes."""
    content = file.read_bytes()
    if file.suffix in (".json", ".jsonl", ".yaml") and data.draw(st.booleans()):
        if file.suffix == ".yaml":
            text = yaml.safe_dump(value_changed(data, yaml.safe_load(content)), sort_keys=False)
        elif file.suffix == ".json":
            text = json.dumps(value_changed(data, json.loads(content)))
        else:
            lines = content.decode().splitlines()
            place = data.draw(st.integers(0, len(lines) - 1))
            lines[place] = json.dumps(value_changed(data, json.loads(lines[place])))
            text = "\n".join(lines)
        file.write_text(text, errors="surrogatepass")
    else:
        file.write_bytes(bytes_changed(data, content))


def kind_changed(data: st.DataObject, file: Path) -> None:
    """Put something else in the place of a file."""
    kind, content = data.draw(st.sampled_from(KINDS)), file.read_bytes()
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


def flag_changed(data: st.DataObject, flags: list[str], fixed: tuple[str, ...]) -> list[str]:
    """Return flags, one of which has another value, another name, stands twice or is missing; ``fixed`` ones stay."""
    places = [number for number, flag in enumerate(flags) if flag.partition("=")[0] not in fixed]
    place = data.draw(st.sampled_from(places))
    name, equals, value = flags[place].partition("=")
    text = data.draw(st.sampled_from(TEXTS))
    changed = {
        "value": [f"{name}={text}" if equals else text],
        "letter": [f"{name}x{equals}{value}"],
        "away": [],
        "twice": [flags[place]] * 2,
        "bare": [name],
        "more": [flags[place], text],
    }
    what = data.draw(st.sampled_from(("value", "value", "value", *changed)))
    return [*flags[:place], *changed[what], *flags[place + 1 :]]


def worsened(
    data: st.DataObject, good: Path, work: Path, files: tuple[str, ...], flags: list[str], fixed: tuple[str, ...]
) -> list[str]:
    """Copy good inputs to a new folder, make one or two mistakes in files or flags, and return the flags."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(good, work, symlinks=True)
    for _ in range(data.draw(st.integers(1, 2))):
        file = work / data.draw(st.sampled_from(files)) if files else None
        what = data.draw(st.sampled_from(("flag", "content", "content", "kind") if file else ("flag",)))
        if what == "flag":
            flags = flag_changed(data, flags, fixed)
        elif file.is_file() and not file.is_symlink():
            (content_changed if what == "content" else kind_changed)(data, file)
    return flags
