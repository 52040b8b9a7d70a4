"""Print the commands of a sweep, and make sure that they would run; no W&B account is needed.

    python -m experiments.sweep scenes_losses [--count 5] [--seed 0]

W&B's agent calls the same command lines, with values that W&B's server chooses. Of a grid all are printed; of a random
or Bayesian search some that are drawn from its distributions, as the server would without earlier results.

The settings are checked by the parser of ``experiments.run``, whose imports take seconds. Its verdict on a command is
kept in the user's cache, together with a fingerprint of all that it depends on: so the same commands are checked once.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import itertools
import math
import os
import platform
import random
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from contextcir.checks import whole
from contextcir.errors import InputError, shown
from contextcir.files import read_json, write_json
from experiments.arguments import Parser
from experiments.failures import one_line_errors
from experiments.flags import packaged
from experiments.mistakes import ArgumentMistake
from experiments.names import PACKAGES, config_files, with_paths
from experiments.yaml_files import read_mapping

ARGS = "${args}"
PROGRAM = "experiments.run"
METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
DISTRIBUTIONS: dict[str, Callable[[random.Random, float, float], float]] = {
    "uniform": lambda chance, low, high: chance.uniform(low, high),
    "int_uniform": lambda chance, low, high: chance.randint(low, high),
    "log_uniform_values": lambda chance, low, high: math.exp(chance.uniform(math.log(low), math.log(high))),
}
PARSING = ("jsonargparse", "lightning", "omegaconf", "pyyaml", "torch")  # decide what is accepted
KEPT = 2000  # commands in the cache
MOST = 10_000  # trials that are printed
KEY = re.compile(r"[A-Za-z_][\w.]*")


def read_sweep(file: Path) -> dict[str, Any]:
    """Return the content of a sweep file.

    Raises:
        InputError: if there is no such file, or it is not a sweep over commands of ``experiments.run``.
    """
    sweep = read_mapping(packaged("sweeps", file), "a sweep: method, metric, command and parameters")
    if not isinstance(sweep.get("parameters"), dict):
        raise InputError("expected a mapping with method, metric, command and parameters", file=file)
    if sweep.get("method") not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {shown(sweep.get('method'))}", file=file)
    metric = sweep.get("metric")
    if not isinstance(metric, dict) or not metric.get("name") or metric.get("goal") not in GOALS:
        raise InputError(f"metric must have a name and a goal, {' or '.join(GOALS)}, got {shown(metric)}", file=file)
    command = sweep.get("command")
    texts = isinstance(command, list) and all(isinstance(word, str) for word in command)
    if not texts or ARGS not in command or PROGRAM not in command:
        problem = f"command must be a list with {PROGRAM!r}, its subcommand, and {ARGS!r} of its own"
        raise InputError(problem, file=file)
    for key, space in sweep["parameters"].items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise InputError(f"{shown(key)} is no setting such as model.optimizer.lr", file=file)
        if problem := _problem(space, sweep["method"]):
            raise InputError(f"{key}: {problem}", file=file)
    return sweep


def _problem(space: Any, method: str) -> str | None:
    """Return what is wrong with the values of a setting."""
    if not isinstance(space, dict) or "parameters" in space:
        return "expected a mapping with values, value, or min and max; keys are flat, with dots"
    choices = space.get("values", [space["value"]] if "value" in space else None)
    if choices is not None:
        if not isinstance(choices, list) or not choices:
            return f"values must be a list, got {shown(choices)}"
        return 'write null as a string, "null": None would arrive as the word None' if None in choices else None
    if method == "grid":
        return "a grid needs values"
    low, high, kind = space.get("min"), space.get("max"), distribution(space)
    numbers = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
    if not numbers or low >= high:
        return f"min and max must be two numbers, got {shown(low)} and {shown(high)} (YAML wants 1.0e-5)"
    if kind not in tuple(DISTRIBUTIONS):
        return f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got {shown(kind)}"
    if kind == "int_uniform" and not (type(low) is type(high) is int):
        return f"int_uniform wants whole numbers, got {low!r} and {high!r}"
    return f"log_uniform_values wants numbers above 0, got min {low!r}" if "log" in kind and low <= 0 else None


def distribution(space: Mapping[str, Any]) -> str:
    """Return the distribution between two ends, as W&B takes it."""
    whole = isinstance(space.get("min"), int) and isinstance(space.get("max"), int)
    return space.get("distribution", "int_uniform" if whole else "uniform")


def trials(sweep: Mapping[str, Any], count: int | None = None, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield settings of trials: of a grid all, or the first ``count``; of a search ``count`` (5) that are drawn."""
    spaces = sweep["parameters"]
    options = {key: space.get("values", [space.get("value")]) for key, space in spaces.items()}
    if sweep["method"] == "grid":
        for chosen in itertools.islice(itertools.product(*options.values()), count):
            yield dict(zip(options, chosen, strict=True))
        return
    chance = random.Random(seed)  # noqa: S311  (draws of an experiment, no secret)
    for _ in range(5 if count is None else count):
        yield {
            key: DISTRIBUTIONS[distribution(space)](chance, space["min"], space["max"])
            if "min" in space
            else chance.choice(options[key])
            for key, space in spaces.items()
        }


def _size(sweep: Mapping[str, Any]) -> int:
    return math.prod(len(space.get("values", [0])) for space in sweep["parameters"].values())


def command_of(sweep: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the command line of a trial, as the agent builds it."""
    given = [f"--{key}={value}" for key, value in settings.items()]
    return [part for word in sweep["command"] for part in (given if word == ARGS else [str(word)])]


def arguments(command: list[str]) -> list[str]:
    """Return what of a command line is for ``experiments.run``."""
    return command[command.index(PROGRAM) + 1 :]


def check(commands: Sequence[list[str]], file: Path) -> None:
    """Parse the arguments of commands, except those that were accepted before by the same program.

    Raises:
        InputError: if an argument is not accepted.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contextcir" / "sweeps.json"
    try:
        known = read_json(cache) or []
    except ValueError:
        known = []
    new = {key: args for args in commands if (key := _fingerprint(args)) not in known}
    if not new:
        return
    from experiments.run import settings_parser  # seconds of imports

    parser = settings_parser()
    for args in new.values():
        try:
            with redirect_stderr(StringIO()):
                parser.parse_args(args)
        except ArgumentMistake as mistake:
            raise InputError(f"{mistake.error}, in {shlex.join(args)}", file=file) from None
    try:
        write_json(cache, [*known, *new][-KEPT:])
    except OSError as error:
        print(f"note: {cache} can't be written ({error}): the next call checks again", file=sys.stderr)


def _fingerprint(args: list[str]) -> str:
    """Return a hash of arguments, of the config files that they name, and of the program that accepts them."""
    text = [_program(), *args]
    for config in config_files(with_paths(args)):
        text.append(config.read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(text).encode()).hexdigest()


@functools.cache
def _program() -> str:
    """Return a hash of the project's source files and the versions of what parses and types its settings."""
    content = hashlib.sha256(platform.python_version().encode())
    for name in PARSING:
        content.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    for package in PACKAGES:
        for folder in importlib.util.find_spec(package).submodule_search_locations:
            for source in sorted(Path(folder).rglob("*.py")):
                content.update(source.read_bytes())
    return content.hexdigest()


def sweep(file: Path, count: int | None = None, seed: int = 0) -> None:
    """Print the commands of a sweep, having checked that their settings exist.

    Args:
        file: A sweep file, or the name of one of the project's: scenes_losses, cirr_losses, ...
        count: How many; null for all of a grid, and five of a search.
        seed: Of the draw.
    """
    if count is not None:
        whole(count, 1, "count", MOST)
    settings = read_sweep(file)
    if count is None and settings["method"] == "grid" and (size := _size(settings)) > MOST:
        raise InputError(f"a grid of {size:,} trials: choose at most {MOST:,}", setting="count")
    commands = [command_of(settings, trial) for trial in trials(settings, count, seed)]
    plain = [word for word in map(str, settings["command"]) if word != ARGS]
    check([arguments(command) for command in (plain, *commands)], file)
    total = f" of {_size(settings)}" if settings["method"] == "grid" else ", drawn for this list"
    print(f"# {file}: {settings['method']}, to {settings['metric']['goal']} {settings['metric']['name']}")
    print(f"# {len(commands)} trials{total}:")
    for command in commands:
        print(shlex.join(command))
    print(f"# to run them: wandb sweep {packaged('sweeps', file, 'file')}, then the `wandb agent` command it prints")


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors():
        auto_cli(sweep, args=args, as_positional=True, parser_class=Parser)


if __name__ == "__main__":
    main()
