"""The splits that a data module is given: checked, and named by their argument in errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from contextcir.errors import InputError, shown
from data_modules.reading.reader import check_split


@contextmanager
def split_chosen_by(argument: str) -> Iterator[None]:
    """Let errors of a reader about its split name the argument of the data module that chose the split."""
    try:
        yield
    except InputError as error:
        raise error.relocate("data.split", f"data.{argument}") from None


def checked_splits(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of splits, each given once."""
    setting = f"data.{argument}"
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"expected a list of the names of splits, got {shown(names)}", setting=setting)
    with split_chosen_by(argument):
        for name in names:
            check_split(name)
    if len(set(names)) < len(names):
        raise InputError(f"expected every split once, got {shown(list(names))}", setting=setting)
    return tuple(names)
