"""Configs that name the configs below them: ``base: NAME`` in a file stands for ``--config NAME`` before it.

A base is a name or a path, as for ``--config``; a path begins at the folder of the file that names it. A list names
several. Bases may have bases. Each of them is applied once, before all files that are given, and one that is given as
well keeps the place that it is given at.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, MissingFileError, shown
from experiments.flags import packaged
from experiments.yaml_files import read_yaml

BASE = "base"


def bases_of(configs: Sequence[Path | dict[str, Any]]) -> list[Path]:
    """Return the files that configs are built on, in the order in which they apply, without these themselves.

    Args:
        configs: files, or the content of a config that is no file.

    Raises:
        MissingFileError: if there is no file of a name.
        InputError: if bases go round in a circle, or are no names.
    """
    given = {os.path.realpath(config) for config in configs if isinstance(config, Path)}
    found: dict[str, Path] = {}
    for config in configs:
        if isinstance(config, Path):
            _collect(config, [], given, found)
        else:
            for base in _named(config, None):
                _collect(base, [], given, found)
                if (real := os.path.realpath(base)) not in given:
                    found.setdefault(real, base)
    return list(found.values())


def _collect(file: Path, above: list[Path], given: set[str], found: dict[str, Path]) -> None:
    """Add the bases of a file to ``found``; ``above`` are the files that led to it."""
    if any(os.path.samefile(file, other) for other in above):
        circle = " -> ".join(path.name for path in (*above, file))
        raise InputError(f"the files of {BASE!r} go round in a circle: {circle}", file=above[-1])
    for base in _named(read_yaml(file, "config"), file):
        _collect(base, [*above, file], given, found)
        real = os.path.realpath(base)
        if real not in given:
            found.setdefault(real, base)


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
