"""The settings of a class, as the parser of `experiments.run` takes them: type, default and meaning in plain words."""

import collections.abc
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from experiments.help import told
from experiments.names import public_classes, subclasses
from experiments.reference.texts import PACKAGES, ROOT

EXPORTS = (
    "contextcir.encoders",
    "contextcir.fusion",
    "contextcir.losses",
    "contextcir.training",
    "data_modules",
    "callbacks",
)
PLAIN = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Path: "path",
    Any: "anything",
}
LISTS = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable)
MAPPINGS = (dict, collections.abc.Mapping)


class Setting(NamedTuple):
    """A setting of a class: its name, and in words its type, default and meaning; ``default`` is None if it has none.

    ``classes``: those that it takes, by a name and settings of their own.
    """

    name: str
    kind: str
    default: str | None
    meaning: str
    classes: tuple[type, ...] = ()


@functools.cache
def settings_of(kind: type, given: int = 0) -> tuple[Setting, ...]:
    """Return the settings of a class, those of classes that it hands the rest on to included.

    Args:
        kind: the class.
        given: how many of its first parameters are not set, but given by the program.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, fail_untyped=False)
    left_out = list(inspect.signature(kind).parameters)[:given]
    found = []
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is None or action.dest.endswith(".help") or action.dest in left_out:
            continue
        needed = action.default is None and type(None) not in typing.get_args(hint)
        default = None if needed else _written(action.default)
        meaning = sentence(action.help or "")
        found.append(Setting(action.dest, words(hint), default, meaning, tuple(_own(hint))))
    return tuple(found)


@functools.cache
def choices(base: type) -> tuple[type, ...]:
    """Return the classes that a setting takes: the base if it can be built, and the public ones below it, by name.

    Which they are is read from the source, so that neither imports nor classes of other programs have a part in it.
    Public are those that a package exports or a config names; where none is exported, all of them.
    """
    below = [
        kind
        for name in subclasses(base.__name__)
        for entry in public_classes()[name]
        if issubclass(kind := getattr(importlib.import_module(entry.module), name), base)
    ]
    if any(kind.__name__ in exported() for kind in below):
        below = [kind for kind in below if kind.__name__ in exported() | configured()]
    usable = [kind for kind in (base, *below) if not (is_part(kind) or "deprecated" in summary(kind))]
    return tuple(sorted(set(usable), key=lambda kind: (kind is not base, kind.__name__)))


@functools.cache
def exported() -> frozenset[str]:
    """Return the names that packages export."""
    return frozenset(name for package in EXPORTS for name in importlib.import_module(package).__all__)


@functools.cache
def configured() -> frozenset[str]:
    """Return the names of the classes that configs name."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "experiments" / "configs").rglob("*.yaml")]
    return frozenset(name for text in texts for name in re.findall(r"class_path: (?:[\w.]+\.)?(\w+)", text))


def is_part(kind: type) -> bool:
    """Tell whether a class leaves a method to those below it."""
    own = [value for value in vars(kind).values() if inspect.isfunction(value)]
    return inspect.isabstract(kind) or any("NotImplementedError" in method.__code__.co_names for method in own)


def summary(kind: type) -> str:
    """Return the first sentence of a class's own description."""
    return sentence(inspect.cleandoc(kind.__doc__ or ""))


def sentence(text: str) -> str:
    """Return the first sentence of a description, in Markdown, with a capital letter and a full stop."""
    text = " ".join(text.partition("\n\n")[0].split()).replace("``", "`")
    text = re.split(r"(?<=[^.][.!?])\s(?=[A-Z`(])", text)[0]
    text = re.sub(r"(?<![`\w])None(?![`\w])", "null", text).rstrip(".:")
    if re.match(r"(?!null|true|false)(?:a|[a-z]{2,})[ ,]", text):  # a word, and no name of a variable or benchmark
        text = text[0].upper() + text[1:]
    return text if text.endswith(("?", "!")) or not text else f"{text}."


def words(hint: Any) -> str:
    """Return a type in words, such as "whole number or null"."""
    if hint in PLAIN:
        return PLAIN[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [part for part in inner if part is not str or Path not in inner]  # a path is typed as a text
        return " or ".join(dict.fromkeys(words(part) for part in sorted(parts, key=lambda part: part is type(None))))
    if origin is typing.Literal:
        return " or ".join(f"`{told(value)}`" for value in inner)
    if origin in LISTS or hint in LISTS:
        return f"list of {_many(words(inner[0]))}" if inner else "list"
    if origin in MAPPINGS or hint in MAPPINGS:
        return "mapping"
    if origin is collections.abc.Callable:
        own = list(_own(hint))
        return words(own[0]) if own else "function"
    return f"`{hint.__name__}`" if isinstance(hint, type) else "anything"


def _many(kind: str) -> str:
    known = {"text": "texts", "number": "numbers", "whole number": "whole numbers", "path": "paths"}
    return known.get(kind, kind)


def _own(hint: Any) -> Iterator[type]:
    """Yield the classes of this project in a type; of a callable, those that it returns."""
    inner: Iterable[Any] = typing.get_args(hint)
    if typing.get_origin(hint) is collections.abc.Callable:
        inner = list(inner)[-1:]
    if isinstance(hint, type) and hint.__module__.split(".")[0] in PACKAGES:
        yield hint
    for part in inner:
        yield from _own(part)


def _written(value: Any) -> str:
    """Return a default as it is typed."""
    if isinstance(value, dict) and "class_path" in value:
        value = Namespace(value)
    if isinstance(value, tuple | set | frozenset):
        value = list(value)
    return told(value)
