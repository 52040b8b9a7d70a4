"""Bare names on a command line and in YAML files: of public classes, and of the project's own configs.

jsonargparse finds a class by its bare name only once its module is imported. Importing all modules takes many seconds,
so a table of the public classes is read from the source text, and only the modules of named classes are imported.
"""

import difflib
import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from contextcir.errors import InputError
from experiments.command import packaged

PACKAGES = ("contextcir", "data_modules", "callbacks", "experiments")
CONFIG_FLAGS = ("-c", "--config")
_CLASS = re.compile(r"^class ([A-Z]\w*)(?:\[[^\]]*\])?(?:\(([^)]*)\))?:", re.MULTILINE)


class PublicClass(NamedTuple):
    """A class at the top level of a module; ``bases`` are bare names."""

    name: str
    module: str
    bases: tuple[str, ...]


@functools.cache
def public_classes() -> dict[str, tuple[PublicClass, ...]]:
    """Return the public classes of the project by name; usually one each, several where parts share a name."""
    table: dict[str, tuple[PublicClass, ...]] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(spec.submodule_search_locations[0])
        for file in sorted(root.rglob("*.py")):
            parts = [package, *file.relative_to(root).with_suffix("").parts]
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            for name, bases in _CLASS.findall(file.read_text(encoding="utf-8")):
                bare = tuple(re.findall(r"(\w+)(?=\s*(?:\[|,|$))", re.sub(r"\w+=.*", "", bases)))
                table[name] = (*table.get(name, ()), PublicClass(name, module, bare))
    return table


def subclasses(base: str) -> list[str]:
    """Return the bare names of the project's classes below a class, whether imported or not."""
    below = {base}
    classes = [entry for entries in public_classes().values() for entry in entries]
    while more := {entry.name for entry in classes if not below.isdisjoint(entry.bases)} - below:
        below |= more
    return sorted(below - {base})


def close(name: str, names: Iterable[str], cutoff: float = 0.55) -> list[str]:
    """Return up to three names that are close to one, upper and lower case being alike."""
    lower = {known.lower(): known for known in names}
    return [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=cutoff)]


def resolve(args: Sequence[str] | None = None) -> list[str]:
    """Return a command line whose bare names can be used: configs become paths, modules of named classes are imported.

    Args:
        args: arguments; None for those of this process.

    Raises:
        InputError: if there is no such config, it is not valid YAML, or a named class needs a package that is missing.
    """
    resolved = with_paths(sys.argv[1:] if args is None else args)
    given = [*map(_value, resolved), *map(_content, config_files(resolved))]
    for name in {name for value in given for name in _strings(value)}:
        for entry in public_classes().get(name, ()):
            try:
                importlib.import_module(entry.module)
            except ModuleNotFoundError as error:
                raise InputError(f"{name} needs the package {error.name}, which is not installed") from None
    return resolved


def with_paths(args: Sequence[str]) -> list[str]:
    """Return a command line whose configs are given by their paths; raises InputError where there is none."""
    paths = []
    for before, argument in zip(["", *args], args, strict=False):
        if before in CONFIG_FLAGS:
            argument = _path(argument)
        elif (value := _config_of(argument)) is not None:
            argument = f"{argument.partition('=')[0]}={_path(value)}"
        paths.append(argument)
    return paths


def import_all(packages: Sequence[str]) -> None:
    """Import every module with a public class, so that help texts can list all classes."""
    for module in {entry.module for entries in public_classes().values() for entry in entries}:
        if module.startswith(tuple(f"{package}." for package in packages)):
            importlib.import_module(module)


def config_files(args: Sequence[str]) -> list[Path]:
    """Return the config files of a command line that was resolved, in their order."""
    pairs = zip(["", *args], args, strict=False)
    given = [now if before in CONFIG_FLAGS else _config_of(now) for before, now in pairs]
    return [Path(text) for text in given if text is not None and Path(text).is_file()]


def _config_of(argument: str) -> str | None:
    flag, equals, value = argument.partition("=")
    return value if equals and flag in CONFIG_FLAGS else None


def _path(text: str) -> str:
    inline = "\n" in text or ":" in text  # settings instead of a file
    return text if inline else str(packaged("configs", text, "config"))


def _value(argument: str) -> Any:
    """Return the value that an argument gives, of a flag also by a YAML file."""
    is_flag = argument.startswith("-")
    text = argument.partition("=")[2] if is_flag else argument
    if is_flag and text.endswith((".yaml", ".yml")) and Path(text).is_file():
        return _content(Path(text))
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _content(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"this is not valid YAML: {' '.join(str(error).split())}", file=file) from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
