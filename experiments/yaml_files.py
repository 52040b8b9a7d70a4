"""YAML that users write, read strictly: what is wrong is one line with the file and the line.

PyYAML keeps the last of two equal keys, expands aliases without a limit, and ends deep nesting by a RecursionError.
Here a text is first followed event by event, which takes no memory and stops at the first fault; then PyYAML builds its
value.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from contextcir.errors import InputError, one_line, printable, shown
from contextcir.files import MOST_DIGITS, read_text

MOST_BYTES = 4_000_000  # of a file of settings
MOST_DEPTH = 100  # lists and mappings within each other
MOST_VALUES = 100_000  # that aliases may add to what is written

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_TAGS = {f"{_CORE}{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_NUMBERS = {f"{_CORE}int", f"{_CORE}float"}


class NotStrict(yaml.YAMLError):
    """What is wrong with a YAML text, on one line.

    Args:
        problem: the fault.
        line: from 1 on; None if it is not known.
        syntax: the text is no YAML at all; a text that is a value of its own may well be none.
    """

    def __init__(self, problem: str, line: int | None, syntax: bool = False) -> None:
        place = "" if line is None else f" in line {line}"
        self.syntax = syntax
        super().__init__(one_line(f"{problem}{place}", 200))


def read_yaml(file: str | Path, setting: str | None = None) -> Any:
    """Return the value of a YAML file.

    Raises:
        MissingFileError: if there is none.
        InputError: if it is no ordinary file, too large, no text in UTF-8, or no strict YAML (see `check`).
    """
    return parse_yaml(read_text(file, setting, MOST_BYTES), file, setting)


def read_mapping(file: str | Path, what: str, setting: str | None = None) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; ``what`` says of what, for the message.

    Raises:
        MissingFileError: if there is none.
        InputError: if it is no ordinary file, no strict YAML, or holds something else.
    """
    value = read_yaml(file, setting)
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"{_KINDS.get(type(value), 'a value')} ({shown(value, 40)})"
        raise InputError(f"expected a mapping of {what}, found {found}", file=file, setting=setting)
    return value


_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}


def parse_yaml(text: str, file: str | Path | None = None, setting: str | None = None) -> Any:
    """Return the value of a YAML text, as `yaml.safe_load` does.

    Raises:
        InputError: if it is no strict YAML (see `check`).
    """
    try:
        check(text)
        return built(lambda: yaml.load(text, Loader=_Loader))  # noqa: S506  (PyYAML's safe loader)
    except NotStrict as error:
        raise InputError(f"not valid YAML: {error}", file=file, setting=setting) from None


def check(text: str) -> None:
    """Make sure that a text is YAML of lists, mappings, texts, numbers, truth values and nulls, each of them once.

    Raises:
        NotStrict: for errors of syntax, a key that stands twice in a mapping, other tags, numbers of more than
            `MOST_DIGITS` digits, halves of surrogate pairs, aliases that contain themselves or add more than
            `MOST_VALUES` values, and nesting deeper than `MOST_DEPTH`.
    """
    try:
        _Follow().document(text)
    except NotStrict:
        raise
    except yaml.YAMLError as error:
        raise _told(error, text) from None
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise NotStrict(f"half a surrogate pair, {shown(error.object[error.start])},", line) from None


class _Open:
    """A list or mapping that has begun. ``size`` counts its values, those of aliases included."""

    def __init__(self, event: Any) -> None:
        self.anchor = event.anchor
        self.keys: set[Any] | None = set() if isinstance(event, yaml.MappingStartEvent) else None
        self.key_next = self.keys is not None
        self.size = 1


class _Follow:
    """Follows the events of one document."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.sizes: dict[str, int] = {}  # of what has an anchor
        self.added = 0  # values by aliases
        self.tags = yaml.SafeLoader("")  # of plain words

    def document(self, text: str) -> None:
        documents = 0
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise NotStrict("a second document begins", line)
            elif isinstance(event, yaml.CollectionStartEvent):
                self.tag(event, line)
                self.key(None, line)
                self.open.append(_Open(event))
                if len(self.open) > MOST_DEPTH:
                    raise NotStrict(f"nested more than {MOST_DEPTH} deep", line)
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self.open.pop()
                self.value(done.anchor, done.size)
            elif isinstance(event, yaml.ScalarEvent):
                self.scalar(event, line)
            elif isinstance(event, yaml.AliasEvent):
                self.alias(event, line)

    def scalar(self, event: Any, line: int) -> None:
        event.value.encode()  # half a surrogate pair can't be
        tag = self.tag(event, line) or self.tags.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag in _NUMBERS and sum(character.isalnum() for character in event.value) > MOST_DIGITS:
            raise NotStrict(f"a number of {len(event.value)} characters", line)
        self.key((tag, event.value), line)
        self.value(event.anchor, 1 + len(event.value) // 100)

    def alias(self, event: Any, line: int) -> None:
        if any(outer.anchor == event.anchor for outer in self.open):
            raise NotStrict(f"the alias *{event.anchor} stands within its own anchor", line)
        size = self.sizes.get(event.anchor)
        if size is None:
            raise NotStrict(f"no anchor for the alias *{event.anchor}", line)
        self.added += size
        if self.added > MOST_VALUES:
            raise NotStrict(f"aliases stand for more than {MOST_VALUES:,} values", line)
        self.key(None, line)
        self.value(None, size)

    def tag(self, event: Any, line: int) -> str | None:
        """Return a tag that is written; raise for one that is not known."""
        if event.tag in (None, "!"):
            return f"{_CORE}str" if event.tag and isinstance(event, yaml.ScalarEvent) else None
        if event.tag not in _TAGS:
            name = event.tag.replace(_CORE, "!!")
            raise NotStrict(f"the tag {shown(name)[1:-1]} is not known", line)
        return event.tag

    def key(self, key: Any, line: int) -> None:
        """Note what begins, if a mapping expects a key; None for keys that are no scalars, which PyYAML refuses."""
        holder = self.open[-1] if self.open else None
        if holder is None or holder.keys is None:
            return
        if holder.key_next and key is not None:
            if key in holder.keys:
                raise NotStrict(f"the key {shown(key[1])} stands twice in one mapping, again", line)
            holder.keys.add(key)

    def value(self, anchor: str | None, size: int) -> None:
        """Count what has ended."""
        if anchor is not None:
            self.sizes[anchor] = size
        if self.open:
            holder = self.open[-1]
            holder.size += size
            holder.key_next = holder.keys is not None and not holder.key_next


def built(build: Callable[[], Any]) -> Any:
    """Return what a function builds from a checked text; raises NotStrict for values that can't be built."""
    try:
        return build()
    except yaml.YAMLError as error:
        raise _told(error, "") from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:  # `!!int abc`
        raise NotStrict(one_line(str(error), 100), None) from None


def _told(error: yaml.YAMLError, text: str) -> NotStrict:
    """Return an error of PyYAML on one line."""
    if isinstance(error, yaml.reader.ReaderError):
        problem = f"the character {_code(error.character)} is not allowed"
        return NotStrict(problem, text.count("\n", 0, error.position) + 1, True)
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
    line = None if mark is None else mark.line + 1
    if line is not None and "cannot start any token" in problem:
        rest = (text.splitlines() or [""])[min(line, len(text.splitlines()) or 1) - 1][mark.column :]
        if rest.startswith("\t"):
            return NotStrict("a tab where YAML wants spaces", line, True)
        problem = f"a value can't begin with {shown(rest[:1])}: put it in quotes"
    return NotStrict(printable(problem), line, True)


def _code(character: Any) -> str:
    code = character if isinstance(character, int) else ord(character)
    return f"0x{code:02x}"
