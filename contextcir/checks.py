"""The rules for settings: each check returns the value, or raises an `InputError` that names the setting.

Settings are checked where an object is built, before any work begins. NaN passes every comparison with `<` unnoticed,
and true counts as 1 for Python; neither passes here.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from contextcir.errors import InputError, shown

Number = TypeVar("Number", int, float)
Text = TypeVar("Text", bound=str)


def finite(value: Number, setting: str) -> Number:
    """Return a number that is neither NaN nor infinite."""
    return _checked(value, True, "a finite number", setting)


def positive(value: Number, setting: str) -> Number:
    """Return a finite number above 0."""
    return _checked(value, _is_number(value) and value > 0, "a finite number above 0", setting)


def not_negative(value: Number, setting: str) -> Number:
    """Return a finite number from 0 on."""
    return _checked(value, _is_number(value) and value >= 0, "a finite number from 0 on", setting)


def between(value: Number, low: float, high: float, setting: str) -> Number:
    """Return a number from ``low`` to ``high``, both included."""
    return _checked(value, _is_number(value) and low <= value <= high, f"a number from {low} to {high}", setting)


def fraction(value: Number, setting: str) -> Number:
    """Return a number from 0 up to, but not including, 1."""
    return _checked(value, _is_number(value) and 0 <= value < 1, "a number from 0 up to below 1", setting)


def whole(value: int, least: int, setting: str, most: int | None = None) -> int:
    """Return a whole number from ``least`` on, up to ``most`` if there is such a limit."""
    good = type(value) is int and value >= least and (most is None or value <= most)
    return _checked(value, good, f"a whole number from {least} {'on' if most is None else f'to {most}'}", setting)


def one_of(value: Text, names: Sequence[str], setting: str) -> Text:
    """Return a text that is one of ``names``."""
    if value not in names:
        raise InputError(f"expected one of {', '.join(names)}, got {shown(value)}", setting=setting)
    return value


def folder_name(value: Text, setting: str, parts: bool = False) -> Text:
    """Return a text that can name a folder below another one, and nothing outside of it.

    ``parts``: it may be several names, one folder within the other, as ``a/b``.
    """
    names = value.split("/") if isinstance(value, str) and parts else [value]
    if not all(isinstance(name, str) and _names_a_folder(name) for name in names):
        rule = "a name of at most 128 printable characters, none of them a slash, and not '.' or '..'"
        raise InputError(f"expected {'one or more of ' if parts else ''}{rule}; got {shown(value)}", setting=setting)
    return value


def _names_a_folder(name: str) -> bool:
    odd = not name.strip(". ") or "/" in name or "\\" in name or not name.isprintable()
    return not odd and len(name) <= 128 and len(name.encode()) <= 240  # a file system has 255 bytes a name


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def _checked(value: Number, good: bool, rule: str, setting: str) -> Number:
    if not (_is_number(value) and good and _is_finite(value)):
        raise InputError(f"expected {rule}, got {shown(value)}", setting=setting)
    return value
