"""Bare names on a command line and in YAML files: of public classes, and of the project's own configs.

jsonargparse finds a class by its bare name only once its module is imported. Importing all modules takes many seconds,
so a table of the public classes is read from the source text, and only the modules of named classes are imported.
"""

import functools
import importlib
import importlib.util
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from contextcir import renamed
from contextcir.errors import InputError, shown
from experiments.bases import bases_of
from experiments.flags import packaged
from experiments.yaml_files import NotStrict, check, parse_yaml, read_mapping, read_yaml

PACKAGES = ("contextcir", "data_modules", "callbacks", "experiments")
CONFIG_FLAGS = ("-c", "--config")
ENDINGS = (".yaml", ".yml")
SUBCOMMANDS = ("fit", "validate", "test", "predict")  # of experiments.run
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


def resolve(args: Sequence[str] | None = None) -> list[str]:
    """Return a command line whose bare names can be used: configs become paths, modules of named classes are imported.

    Args:
        args: arguments; None for those of this process.

    Raises:
        InputError: if there is no such config, it is not valid YAML, names a class by the path of an earlier version,
            or a named class needs a package that is missing.
    """
    resolved = with_paths(sys.argv[1:] if args is None else args)
    names = set()
    for file in config_files(resolved):  # first, so that what stands in a file is told with the file
        for key, name in _strings(read_mapping(file, "settings", "config")):
            _refuse_renamed(name, key, file)
            names.add(name)
            _no_pipe(file.parent / name, None)
    for before, now in zip(["", *resolved], resolved, strict=False):
        flagged = before if before.startswith("--") and not now.startswith("-") else now
        for key, name in _strings(_value(now, before), flagged.lstrip("-").partition("=")[0].removesuffix("+")):
            _refuse_renamed(name, key)
            names.add(name)
    for name in names:
        for entry in public_classes().get(name, ()):
            try:
                importlib.import_module(entry.module)
            except ModuleNotFoundError as error:
                raise InputError(f"{name} needs the package {error.name}, which is not installed") from None
    return resolved


def _refuse_renamed(name: str, key: str, file: Path | None = None) -> None:
    """Raise InputError with the new path for a class path of an earlier version."""
    problem = renamed.told(name)
    if problem and file and name in renamed.moved():
        problem += "; `python -m experiments.migrate FILE` writes all new paths"
    if problem:
        raise InputError(problem, file=file, setting=key)


def with_paths(args: Sequence[str]) -> list[str]:
    """Return a command line whose configs are given by their paths, those that they are built on before them.

    Raises:
        InputError: if there is no config of a name, or its bases can't be found.
    """
    parts: list[list[str]] = [[]]  # of the command line: each ends with the value of a config, the last one does not
    configs: list[Path | dict[str, Any]] = []
    done: list[str] = []
    for before, argument in zip(["", *args], args, strict=False):
        value = argument if before in CONFIG_FLAGS else _config_of(argument)
        if value is None:
            if not argument.startswith("-") and ("=" in before or not before.startswith("-")):  # a subcommand
                done += _joined(parts, configs)
                parts, configs = [[]], []
            parts[-1].append(argument)
            continue
        path = _path(value)
        configs.append(_inline(value) if path is None else path)
        flag = "" if before in CONFIG_FLAGS else f"{argument.partition('=')[0]}="
        parts[-1].append(f"{flag}{value if path is None else path}")
        parts.append([])
    return [*done, *_joined(parts, configs)]


def _joined(parts: Sequence[list[str]], configs: Sequence[Path | dict[str, Any]]) -> list[str]:
    """Return the parts of a command line with the bases of its configs between them."""
    bases: dict[int, list[str]] = {}
    for after, base in bases_of(configs):
        bases.setdefault(after, []).append(f"{CONFIG_FLAGS[-1]}={base}")
    first = len(parts[0]) - (2 if parts[0][-2:-1] and parts[0][-2] in CONFIG_FLAGS else 1)
    joined = [*parts[0][:first], *bases.get(-1, []), *parts[0][first:]] if configs else list(parts[0])
    for place, part in enumerate(parts[1:]):
        joined += [*bases.get(place, []), *part]
    return joined


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


def _path(text: str) -> Path | None:
    """Return the file of a config; None for settings in its place."""
    inline = ("\n" in text or ":" in text) and not os.path.exists(text)
    return None if inline else packaged("configs", text, "config")


def _inline(text: str) -> dict[str, Any]:
    value = parse_yaml(text, setting="config")
    if not isinstance(value, dict):
        raise InputError(f"expected a file or a mapping of settings, got {shown(text)}", setting="config")
    return value


def _value(argument: str, before: str = "") -> Any:
    """Return the value that an argument gives, of a flag also by a YAML file; ``before``: the one before it.

    Raises:
        InputError: if it is a list or mapping, or names a file, and this is not strict YAML.
    """
    is_flag = argument.startswith("-")
    name, _, text = argument.partition("=") if is_flag else ("", "", argument)
    if not is_flag and before.startswith("--") and "=" not in before:
        name = before
    setting = name.lstrip("-").removesuffix("+") or None
    if not text.strip() and (not is_flag or "=" in argument):
        raise InputError(
            "a value is missing; null stands for none" if is_flag else "an argument is empty", setting=setting
        )
    if text.endswith(ENDINGS) and os.path.isfile(text):
        return read_yaml(text, setting)
    _no_pipe(text, setting)
    try:
        check(text)
        return parse_yaml(text)
    except NotStrict as error:
        if not error.syntax and text.lstrip().startswith(("{", "[")):
            raise InputError(f"not valid YAML: {error}", setting=setting) from None
    except InputError:
        pass
    return text


def _no_pipe(path: str | Path, setting: str | None) -> None:
    """Refuse a named pipe, which jsonargparse would wait for; those that a shell makes end."""
    try:
        pipe = stat.S_ISFIFO(os.stat(path).st_mode) and not str(path).startswith(("/dev/", "/proc/"))
    except (OSError, ValueError):  # no path at all, mostly
        return
    if pipe:
        raise InputError("expected a file, found a named pipe", file=path, setting=setting)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts in a value, each after its key as a user types it."""
    if isinstance(value, str):
        yield key, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from _strings(inner, key if name in ("class_path", "init_args") else f"{key}.{name}".strip("."))
