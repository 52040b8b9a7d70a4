"""Mistakes on a command line: one line on standard error that says what to change, and exit status 2."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from contextcir.errors import LONGEST, InputError, one_line, shown
from experiments.flags import flag

START = "error: "


class ArgumentMistake(SystemExit):
    """End of a command whose arguments can't be used; ``error`` says why."""

    def __init__(self, error: InputError) -> None:
        super().__init__(2)
        self.error = error


def refuse(error: InputError) -> ArgumentMistake:
    """Print what is wrong with the arguments in one line, and return what ends the command."""
    print(START + one_line(error.describe(flag), LONGEST - len(START)), file=sys.stderr)
    return ArgumentMistake(error)


def close(name: str, names: Iterable[str], cutoff: float = 0.55) -> list[str]:
    """Return up to three names that are close to one, upper and lower case being alike."""
    lower = {known.lower(): known for known in names}
    return [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=cutoff)]


def hint(near: Sequence[str], names: Sequence[str]) -> str:
    """Return the end of a message on an unknown name: what is close to it, else what there is."""
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are: {', '.join(names)}" if names else ""


def from_argparse(message: str) -> InputError | None:
    """Return a message of `argparse` in this project's words, with its setting; None for all others."""
    if match := re.search(r"the following arguments are required: (.*)", message, re.DOTALL):
        if match[1].startswith("{"):
            return InputError(f"name a subcommand: {match[1].strip('{}').replace(',', ', ')}")
        return InputError(f"missing: {match[1]}")
    if match := re.search(r"ambiguous option: (\S+) could match (.*)", message, re.DOTALL):
        return InputError(f"{shown(match[1])[1:-1]} may be {match[2].replace(', ', ' or ')}: write it in full")
    match = re.match(r"argument (\S+): (.*)", message, re.DOTALL)
    if match is None:
        return None
    name, reason = match[1].split("/")[-1], match[2]
    if found := re.match(r"invalid choice: '(.*)' \(choose from (.*)\)", reason, re.DOTALL):
        given, names = found[1], re.findall(r"[^\s,']+", found[2])
        near = close(given, names)
        problem = f"expected one of {', '.join(names)}, got {shown(given)}{hint(near, ())}"
    elif found := re.match(r"invalid (\w+) value: '(.*)'", reason, re.DOTALL):
        problem = f"expected {found[1]}, got {shown(found[2])}"
    elif re.match(r"expected (one|at least one|\d+) argument", reason):
        problem = "a value is missing"
    elif found := re.match(r"ignored explicit argument '(.*)'", reason, re.DOTALL):
        problem = f"takes no value, got {shown(found[1])}"
    else:
        return None
    if name.startswith("-"):
        return InputError(problem, setting=name.lstrip("-"))
    return InputError(f"{name.strip('{}')}: {problem}" if "," not in name else problem)


class PlainParser(argparse.ArgumentParser):
    """A parser of the standard library for commands that start without jsonargparse; mistakes are told in one line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, after a look for values that are empty."""
        typed = list(sys.argv[1:] if args is None else args)
        for word in typed:
            name, _, value = word.partition("=") if word.startswith("-") else ("", "", word)
            if not value.strip() and (not name or "=" in word):
                raise refuse(InputError("a value is missing", setting=name.lstrip("-") or None))
        return super().parse_known_args(typed, namespace)

    def error(self, message: str) -> NoReturn:
        """End the command."""
        if match := re.search(r"unrecognized arguments: (.*)", message, re.DOTALL):
            raise refuse(unknown(match[1].split()[0], self.options()))
        raise refuse(from_argparse(message) or InputError(message))

    def options(self) -> list[str]:
        """Return the names of all options, of subcommands too."""
        return [name for name in option_names(self) if name != "help"]


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Return the long names of a parser's options, those of its subcommands included."""
    names: list[str] = []
    for action in parser._actions:
        names += [option.lstrip("-") for option in action.option_strings if option.startswith("--")]
        choices: Any = action.choices
        for inner in choices.values() if isinstance(choices, dict) else ():
            names += option_names(inner)
    return list(dict.fromkeys(names))


def unknown(argument: str, names: Sequence[str]) -> InputError:
    """Return the error of an argument that a command does not have, with those that are close to it."""
    if not argument.startswith("-"):
        return InputError(f"unexpected argument {shown(argument)}: settings are given as --KEY=VALUE")
    key = argument.lstrip("-").partition("=")[0]
    near = close(key, names)
    found = f"; the closest: {', '.join(map(flag, near))}" if near else "; see --help"
    return InputError(f"no setting {shown(key)}{found}")
