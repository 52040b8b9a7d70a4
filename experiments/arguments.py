"""Parsers that report a mistake in one line: what was given, what was expected, and the closest names.

jsonargparse reports a mistake by its usage, of dozens of lines, and by the errors of every type that a value might have
had. `explain` finds in these what a user can act on.
"""

import collections.abc
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from contextcir.errors import InputError, shown
from experiments.flags import flag, packaged
from experiments.interpolations import MARK, dotted, interpolation, plain_key
from experiments.mistakes import close, from_argparse, hint, refuse
from experiments.names import SUBCOMMANDS, config_files, public_classes, resolve, subclasses
from experiments.parsing import as_config, prepare
from experiments.yaml_files import parse_yaml, read_yaml

# What a key can be close to where no config is given.
DEFAULT_CONFIGS = ("base", "scenes")
# Lines of jsonargparse that describe its own work.
_JARGON = re.compile(
    r"^(Does not validate|Subtypes:|Errors:|Given value|- Expected a path|- Expected a <class 'NoneType'>|Parser key)"
)


class _Stopped(SystemExit):
    """On its way from the parser that found a mistake to the outermost one, which knows the whole command line."""

    def __init__(self, message: str) -> None:
        super().__init__(2)
        self.message = message


class OneLineErrors:
    """Mixed into a parser of jsonargparse: bare names work, and a mistake is one line on standard error."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Namespace:
        """Parse; raises ArgumentMistake (a SystemExit with status 2) for what a user did wrong."""
        parse = super().parse_args  # type: ignore[misc]
        if not self.exit_on_error:  # type: ignore[attr-defined]
            return parse(args, *rest, **options)  # of a class within another parser
        typed = list(sys.argv[1:] if args is None else args)
        try:
            typed = resolve(typed)
            settings = parse(typed, *rest, **options)
            refuse_long_numbers(settings)
            return settings
        except _Stopped as stopped:
            mistake = explain(stopped.message, self, typed)  # type: ignore[arg-type]
        except InputError as error:
            mistake = error
        except Exception as error:
            if not type(error).__module__.startswith("omegaconf."):  # importing it takes long
                raise
            mistake = explain(str(error), self, typed)  # type: ignore[arg-type]
        raise refuse(mistake)

    def parse_path(self, path: Any, *rest: Any, **options: Any) -> Namespace:
        """Parse a config; an error in it names the file."""
        try:
            return super().parse_path(path, *rest, **options)  # type: ignore[misc]
        except InputError as error:
            error.file = error.file or str(path)
            raise

    def parse_string(self, content: str, *rest: Any, **options: Any) -> Namespace:
        """Parse a config, without the key that names its base."""
        self._refuse_values_of_groups(content)
        with as_config(content):
            return super().parse_string(content, *rest, **options)  # type: ignore[misc]

    def _refuse_values_of_groups(self, content: str) -> None:
        """Raise InputError where a config gives a value to what has settings below it: it would be ignored."""
        settings = parse_yaml(content)
        for key, value in settings.items() if isinstance(settings, dict) else ():
            actions: Sequence[Any] = self._actions  # type: ignore[attr-defined]
            below = any(a.dest.startswith(f"{key}.") and not a.dest.endswith(".help") for a in actions)
            below = below and not any(a.dest == key and hasattr(a, "_typehint") for a in actions)
            if below and not isinstance(value, dict | str):
                raise InputError(f"expected a mapping of settings, got {shown(value)}", setting=str(key))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Stop with a message; parsers of values within another parser raise it as usual."""
        if not self.exit_on_error:  # type: ignore[attr-defined]
            super().error(message, ex)  # type: ignore[misc]
        raise _Stopped(message)


class Parser(OneLineErrors, ArgumentParser):
    """A parser for a command of its own."""


def refuse_long_numbers(settings: Any, key: str = "") -> None:
    """Raise InputError for whole numbers beyond 64 bits: no setting needs them, and libraries overflow."""
    inner = vars(settings) if isinstance(settings, Namespace) else settings
    for name, value in inner.items() if isinstance(inner, dict) else ():
        refuse_long_numbers(value, f"{key}.{name}".strip("."))
    for value in inner if isinstance(inner, list | tuple) else ():
        refuse_long_numbers(value, key)
    if type(inner) is int and inner.bit_length() > 63:
        setting = plain_key(key)
        raise InputError("expected a number that fits into 64 bits, got one of many more digits", setting=setting)


prepare()


def explain(message: str, parser: ArgumentParser, typed: Sequence[str]) -> InputError:
    """Return what a message of jsonargparse says about a command line, as an error whose setting is the flag."""
    if MARK in message:
        return interpolation(message, typed)
    if match := re.search(r'expected "?(?:subcommand|dataset)"? to be one of {([^}]*)}', message):
        return InputError(f"name a subcommand: {', '.join(match[1].split(','))}")
    if match := re.search(r"(?:subcommand|dataset): invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL):
        names = re.findall(r"[\w-]+", match[2])
        return InputError(f"no subcommand {shown(match[1])}{hint(close(match[1], names), names)}")
    if match := re.search(r"unrecognized arguments: (.*)", message, re.DOTALL):
        return _unknown(match[1].split(" ")[0], parser, typed)
    if match := re.search(r"Config file loop detected: ([^\n]*)", message):
        return InputError(f"a config names itself: {match[1]}", setting="config")
    if match := re.search(r"Key must be a string, got: ([^\n]*?)\.?$", message, re.MULTILINE):
        file = next((file for file in config_files(typed) if match[1] in map(str, _odd_keys(read_yaml(file)))), None)
        return InputError(f"keys must be texts, got {match[1]}", file=file)
    setting = _setting(message, parser)
    if match := re.search(r"Unable to load config \\*['\"](.*?)\\*['\"]", message, re.DOTALL):
        return InputError(f"expected a mapping of settings, or a YAML file; got {shown(match[1])}", setting=setting)
    if match := re.search(r"arguments are required: ([^\n]*)|Key \"(\S+)\" is required", message):
        return _missing((match[1] or match[2]).split(", "), setting, parser, typed)
    if match := re.search(r"(?:Option|accept option) '([^']+)'", message):
        key, file = _place(f"{setting}.{match[1]}".strip("."), typed)
        return _no_setting(key, parser, typed, file)
    if match := re.search(r"argument (\S+): expected one argument", message):
        bare = [word for word in typed if word.startswith(match[1].split("/")[-1]) and "=" not in word]
        return InputError("a value is missing", setting=(bare or [match[1]])[0].lstrip("-"))
    if match := re.search(r"Expected a dot import path string: ([^\s\\']*)", message):
        return _no_class(match[1], setting, parser, typed)
    match = re.search(r"expects a function or a callable class: .*?Got value: ([^\s\\']*)", message, re.DOTALL)
    if match and not match[1].startswith("Namespace") and not re.search("Expected an? <class", message):
        return _no_class(match[1].rstrip("."), setting, parser, typed)
    return from_argparse(message) or InputError(_reason(message), setting=setting or None)


def _missing(keys: Sequence[str], owner: str, parser: ArgumentParser, typed: Sequence[str]) -> InputError:
    """Return the error of settings that have no value; ``owner`` is the setting whose class needs them."""
    actions = [action for part in _parsers(parser, typed) for action in part._actions]
    positional = {action.dest for action in actions if not action.option_strings}
    chosen = {f"{word}." for word in typed[:1]}  # the subcommand
    whole = [f"{owner}.{key}".strip(".") if owner else plain_key(key) for key in keys]
    names = [name[len(typed[0]) + 1 :] if name.startswith(tuple(chosen)) else name for name in whole]
    told = ", ".join(name if name in positional else flag(name) for name in names)
    accepts_configs = any(action.dest == "config" for action in actions)
    more = "; --config NAME gives settings" if accepts_configs and not config_files(typed) else ""
    return InputError(f"missing: {told}{more}")


def _odd_keys(value: Any) -> Iterator[Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(value, dict) and not isinstance(key, str):
            yield key
        yield from _odd_keys(inner)


def _unknown(argument: str, parser: ArgumentParser, typed: Sequence[str]) -> InputError:
    if not argument.startswith("-") or not argument.strip("-"):
        return InputError(f"unexpected argument {shown(argument)}: settings are given as --KEY=VALUE")
    return _no_setting(argument.lstrip("-").partition("=")[0], parser, typed, None)


def _no_setting(key: str, parser: ArgumentParser, typed: Sequence[str], file: str | None) -> InputError:
    key = key.removesuffix("+").replace("init_args.", "")
    found = closest_keys(key, known_keys(parser, typed))
    near = f"; the closest: {', '.join(map(flag, found))}" if found else "; see --help"
    return InputError(f"no setting {shown(key)}{near}", file=file)


def closest_keys(key: str, keys: Iterable[str]) -> list[str]:
    """Return up to three keys that may be meant: of the same last part, or close to it, those with this owner first."""
    owner, _, last = key.rpartition(".")
    by_last: dict[str, list[str]] = {}
    for known in sorted(keys, key=lambda known: (not known.startswith(f"{owner}."), known.count("."), known)):
        by_last.setdefault(known.rpartition(".")[2], []).append(known)
    siblings = {known.rpartition(".")[2] for known in keys if known.rpartition(".")[0] == owner}
    if last in by_last:
        return by_last[last][:3]
    if owner and (near := close(last, siblings, 0.6)):
        return [f"{owner}.{name}" for name in near]
    return [by_last[name][0] for name in close(last, by_last, 0.7)] or close(key, keys, 0.7)


def known_keys(parser: ArgumentParser, typed: Sequence[str]) -> set[str]:
    """Return the keys of all settings, as a user types them: of the given configs, else of the default ones."""
    command = [word for word in typed[:1] if word in SUBCOMMANDS]
    files = config_files(typed)
    keys = {action.dest for part in _parsers(parser, typed) for action in part._actions if ".help" not in action.dest}
    parse = super(OneLineErrors, parser).parse_args  # type: ignore[misc]  # raises, and does not explain
    given = [files[:count] for count in range(len(files), 0, -1)]  # the mistake may be in the last of them
    for configs in [*given, [packaged("configs", name, "config") for name in DEFAULT_CONFIGS] if command else []]:
        try:
            settings = parse(resolve([*command, *(f"--config={file}" for file in configs)]))
        except (SystemExit, Exception):  # noqa: S112  (the mistake that is being explained, once more)
            continue
        return keys | set(_flat(settings[command[0]] if command else settings))
    return keys


def _parsers(parser: ArgumentParser, typed: Sequence[str]) -> Iterator[ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action.choices, dict) and typed and typed[0] in action.choices:
            yield action.choices[typed[0]]


def _flat(settings: Any, prefix: str = "") -> Iterator[str]:
    for name, value in vars(settings).items():
        key = prefix.removesuffix(".") if name == "init_args" else f"{prefix}{name}"
        if name not in ("class_path", "init_args"):
            yield key
        if isinstance(value, Namespace):
            yield from _flat(value, f"{key}.")
            yield from (f"{key}.{parameter}" for parameter in _parameters(value.get("class_path")))


def _parameters(dotted: Any) -> Sequence[str]:
    """Return the parameters of a class, of which a config need not give all."""
    if not isinstance(dotted, str):
        return ()
    module, _, name = dotted.rpartition(".")
    try:
        return tuple(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (AttributeError, ImportError, ValueError):
        return ()


def _setting(message: str, parser: ArgumentParser) -> str:
    """Return the dotted key of a message; an error within a class has the keys of the class and of its parameter."""
    parts = dict.fromkeys(re.findall(r'Parser key \\*"([^"\\]+)\\*"', message))
    key = ".".join(parts).replace("init_args.", "")
    commands = [name for action in parser._actions if isinstance(action.choices, dict) for name in action.choices]
    first, _, rest = key.partition(".")
    return rest if first in commands else key


def _place(key: str, typed: Sequence[str]) -> tuple[str, str | None]:
    """Return the whole key of an unknown setting, and the config file that has it unless it is a flag."""
    last = key.rpartition(".")[2]
    given = [word.lstrip("-").partition("=")[0] for word in typed if word.startswith("--")]
    for name in given:
        if name.removesuffix("+").rpartition(".")[2] == last:
            return name, None
    for file in reversed(config_files(typed)):
        for name, _ in dotted(read_yaml(file)):
            if name == key or name.endswith(f".{last}"):
                return name, str(file)
    return key, None


def _no_class(name: str, setting: str, parser: ArgumentParser, typed: Sequence[str]) -> InputError:
    """Return the error of a value that is no class of the setting's type, with the classes that are."""
    actions = [action for part in _parsers(parser, typed) for action in part._actions if action.dest == setting]
    types = [getattr(action, "_typehint", None) for action in actions]
    bases = {kind for typehint in types if typehint is not None for kind in _classes(typehint)}
    names = sorted({below for base in bases for below in (*subclasses(base.__name__), *_imported(base))})
    near = close(name, names or public_classes())
    return InputError(f"no class {shown(name)} here{hint(near, names)}", setting=setting)


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes that a type hint accepts; of a callable, those that it returns."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is collections.abc.Callable:
        inner = inner[-1:]
    if not inner and isinstance(hint, type) and hint is not type(None):
        yield hint
    for part in inner:
        yield from _classes(part)


def _imported(base: type) -> Iterator[str]:
    for kind in base.__subclasses__():
        if not kind.__name__.startswith("_"):
            yield kind.__name__
        yield from _imported(kind)


def _reason(message: str) -> str:
    """Return the part of a message that says what was given and what was expected."""
    if match := re.search(r"Expected an? ([^\n]*?)\. Got value: ([^\\\n]*)", message):
        given = match[2].partition(". Got value: ")[0]
        return f"expected {_plain(match[1])}, got {shown(given)}"
    value = re.search(r"Given value: (.*)", message)
    if value and (match := re.search(r"Subtypes: \[(.*)\]", message)):
        return f"expected {_plain(match[1])}, got {shown(value[1])}"
    lines = [line.strip() for line in message.splitlines()]
    told = [line.removeprefix("- ") for line in lines if line and not _JARGON.match(line)]
    return " ".join(told or lines[:1])


def _plain(types: str) -> str:
    """Return the names and choices in a list of types."""
    names = re.findall(r"<class '[\w.]*?(\w+)'>|Literal\[([^\]]*)\]", types)
    plain = [name or choices.replace("'", "") for name, choices in names]
    return " or ".join(dict.fromkeys("null" if name == "NoneType" else name for name in plain)) or types
