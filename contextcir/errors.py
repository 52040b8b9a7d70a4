"""Errors that a user can put right: what is wrong, and where it stands, kept apart until the last moment.

Nothing in the library knows how it was started, so an error names arguments (``model.fusion.heads``), not flags. A
command line turns one into its own words with `InputError.describe`.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PLACES = ("file", "record", "identity", "field", "setting")
_WHOLE = re.compile(r"^whole error: (\{.*\})$", re.MULTILINE)


class InputError(ValueError):
    """A file, record or argument that can't be used.

    A loader process passes on only the text of a traceback, from which torch makes an error of the same class. An error
    that is raised in such a process therefore carries all it knows in that text, and one made from it is the same.

    Args:
        problem: what was given and what was expected, without the place. With a ``field``, it continues the sentence
            that begins with the name of the field ("is missing").
        file: the file that holds it.
        record: position of the record in the file, from 0.
        identity: how the record is known in the benchmark, e.g. ``pairid 5``.
        field: dotted path of the field in the record, e.g. ``img_set.id``.
        setting: dotted path of the argument to change, e.g. ``model.fusion.heads`` or ``data.root``.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        record: int | None = None,
        identity: str | None = None,
        field: str | None = None,
        setting: str | None = None,
    ) -> None:
        super().__init__(problem)
        if whole := _WHOLE.findall(problem):
            self.add_note(problem)
            problem, file, record, identity, field, setting = json.loads(whole[-1]).values()
        self.problem = problem
        self.file = None if file is None else str(file)
        self.record = record
        self.identity = identity
        self.field = field
        self.setting = setting
        processes = sys.modules.get("multiprocessing.process")
        if processes is not None and processes.parent_process() is not None:
            self.add_note(f"whole error: {json.dumps({'problem': self.problem, **self._places()})}")

    def __str__(self) -> str:
        return self.describe()

    def __reduce__(self) -> tuple[Callable[..., InputError], tuple[Any, ...]]:
        # An exception of a loader process is pickled; by itself it would come back without its keywords.
        return functools.partial(type(self), **self._places()), (self.problem,)

    def _places(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _PLACES}

    def describe(self, name_setting: Callable[[str], str] = str) -> str:
        """Return one line: place, problem, and the argument to change, as ``name_setting`` writes it."""
        text = self.without_setting()
        return text if self.setting is None else f"{text} ({name_setting(self.setting)})"

    def without_setting(self) -> str:
        """Return place and problem, for a message around this one."""
        place = "" if self.file is None else self.file
        if self.record is not None:
            known = "" if self.identity is None else f" ({self.identity})"
            place = f"record {self.record}{known}" + (f" of {place}" if place else "")
        text = self.problem if self.field is None else f"field {self.field} {self.problem}"
        return f"{place}: {text}" if place else text

    def relocate(self, old: str, new: str) -> InputError:
        """Return the same error for an owner that takes the argument ``old`` (and those below it) under ``new``."""
        setting = self.setting
        if setting is not None and (setting == old or setting.startswith(f"{old}.")):
            setting = new + setting[len(old) :]
        return type(self)(self.problem, **{**self._places(), "setting": setting})


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that does not exist."""


LONGEST = 300  # characters of a message
_LONG_PATH = re.compile(r"(?:/[^\s/:'\"]+){6,}")


def shown(value: object, longest: int = 60) -> str:
    """Return a value as it would be typed, on one line and cut to ``longest`` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def printable(text: str) -> str:
    """Return a text with line feeds, control characters and halves of surrogate pairs escaped.

    Data are quoted in messages: what they hold must neither break the line nor give orders to a terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else ascii(c)[1:-1] for c in text)


def one_line(text: str, longest: int = LONGEST) -> str:
    """Return a message on one printable line; a long one loses folders within its paths, then its middle.

    So a path keeps its beginning and its file, and the message its place and its setting.
    """
    text = printable(" ".join(text.split()))
    for path in sorted(_LONG_PATH.findall(text), key=len, reverse=True):
        if len(text) <= longest:
            return text
        *first, folder, file = path.split("/")
        text = text.replace(path, f"{'/'.join(first[:2])}/.../{folder}/{file}")
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 5]} ... {text[-tail:]}"
