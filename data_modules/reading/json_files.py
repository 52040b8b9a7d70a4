"""Files in JSON: one value, or a value a line, whatever their names say."""

from pathlib import Path
from typing import Any

from contextcir.errors import InputError, shown
from contextcir.files import parse_json, read_text

JSON_KINDS = {list: "a list", dict: "an object"}


def read_records(path: Path, setting: str = "data.root") -> list[Any]:
    """Return the records of a JSON list, or those of JSON lines, where blank lines do not count.

    The name should say which of the two a file is (``.jsonl``), but the content decides.

    Args:
        path: of the file.
        setting: the argument by which it was found.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it can't be read, or holds no records.
    """
    text = read_text(path, setting)
    one_value = text.lstrip()[:1] == "[" if path.suffix == ".jsonl" else not _is_lines(text)
    records = _of_kind(parse_json(text, path), list, path) if one_value else _parse_lines(text, path)
    if not records:
        raise InputError("holds no records", file=path)
    return records


def _is_lines(text: str) -> bool:
    """Tell whether a text begins like JSON lines: two objects, each on a line of its own."""
    if text.lstrip()[:1] != "{":
        return False
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return len(lines) > 1 and all(line[0] == "{" and line[-1] == "}" for line in lines[:2])


def _parse_lines(text: str, path: Path) -> list[Any]:
    records, broken = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(parse_json(line))
            except InputError as error:
                if not error.problem.startswith("not valid JSON"):
                    raise InputError(f"{error.problem} in line {number}", file=path) from None
                broken.append(number)
    if broken:
        more = f" and {len(broken) - 3:,} more" if broken[3:] else ""
        raise InputError(f"not valid JSON in line {', '.join(map(str, broken[:3]))}{more}", file=path)
    return records


def read_json(path: Path, kind: type, setting: str = "data.root") -> Any:
    """Return the content of a JSON file whose outermost value is of ``kind`` (list or dict).

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it can't be read, is not JSON, or holds something else.
    """
    return _of_kind(parse_json(read_text(path, setting), path), kind, path)


def _of_kind(content: Any, kind: type, path: Path) -> Any:
    if not isinstance(content, kind):
        raise InputError(f"expected {JSON_KINDS[kind]}, got {shown(content)}", file=path)
    return content
