"""Configs that name the configs below them: ``base: NAME`` in a file stands for ``--config NAME`` before it.

A base is a name or a path, as for ``--config``; a path begins at the folder of the file that names it. A list names
several. Bases may have bases. Each of them is applied once, after those that it is built on and otherwise before all
files that are given; one that is given as well keeps the place that it is given at.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, MissingFileError, shown
from experiments.flags import packaged
from experiments.yaml_files import read_yaml

BASE = "base"


def bases_of(configs: Sequence[Path | dict[str, Any]]) -> list[tuple[int, Path]]:
    """Return the files that configs are built on, without these themselves, in the order in which they apply.

    Each comes with the number of the config that it follows: the last one that it is built on itself, else -1.

    Args:
        configs: files, or the content of a config that is no file.

    Raises:
        MissingFileError: if there is no file of a name.
        InputError: if bases go round in a circle, or are no names.
    """
    given = {os.path.realpath(config): place for place, config in enumerate(configs) if isinstance(config, Path)}
    search = _Search(given)
    for config in configs:
        if isinstance(config, Path):
            search.places(config, [])
        else:
            for base in _named(config, None):
                search.places(base, [])
    return sorted(search.found.values(), key=lambda pair: pair[0])  # equal ones stay in order


class _Search:
    """Follows bases. ``given``: places of the files that are given, by their real paths."""

    def __init__(self, given: Mapping[str, int]) -> None:
        self.given = given
        self.found: dict[str, tuple[int, Path]] = {}

    def places(self, file: Path, above: list[Path]) -> int:
        """Find the bases of a file and note it after them; ``above`` are the files that led to it."""
        if any(os.path.samefile(file, other) for other in above):
            circle = " -> ".join(path.name for path in (*above, file))
            raise InputError(f"the files of {BASE!r} go round in a circle: {circle}", file=above[-1])
        real = os.path.realpath(file)
        if real in self.found:
            return self.found[real][0]
        bases = [self.places(base, [*above, file]) for base in _named(read_yaml(file, "config"), file)]
        place = self.given.get(real)
        if place is not None:
            return place
        after = max(bases, default=-1)
        self.found[real] = (after, file)
        return after


def _named(content: Any, file: Path | None) -> list[Path]:
    """Return the bases that a config names itself."""
    given = content.get(BASE, []) if isinstance(content, dict) else []
    names = given if isinstance(given, list) else [given]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{BASE!r} must name a config, got {shown(name)}", file=file)
    try:
        return [packaged("configs", name, beside=file and file.parent) for name in names]
    except InputError as error:
        kind = MissingFileError if isinstance(error, MissingFileError) else InputError
        raise kind(f"{BASE!r}: {error.without_setting()}", file=file) from None
