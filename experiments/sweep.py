"""Print the commands of a sweep, and make sure that they would run; no W&B account is needed.

    python -m experiments.sweep experiments/sweeps/scenes_losses.yaml [--count 5] [--seed 0]

W&B's agent calls the same command lines, with values that W&B's server chooses. Of a grid all are printed; of a random
or Bayesian search some that are drawn from its distributions, as the server would without earlier results.
"""

import io
import itertools
import math
import random
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, auto_cli
from lightning.pytorch import LightningDataModule

from contextcir.training.module import ContextCIR
from experiments.run import ExperimentCLI, claim_run_id
from experiments.start import quiet

ARGS = "${args}"
PROGRAM = "experiments.run"
METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
DISTRIBUTIONS: dict[str, Callable[[random.Random, float, float], float]] = {
    "uniform": lambda chance, low, high: chance.uniform(low, high),
    "int_uniform": lambda chance, low, high: chance.randint(low, high),
    "log_uniform_values": lambda chance, low, high: math.exp(chance.uniform(math.log(low), math.log(high))),
}


def read_sweep(file: Path) -> dict[str, Any]:
    """Return the content of a sweep file.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or it is no sweep of ours.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: name one of experiments/sweeps/*.yaml")
    sweep = yaml.safe_load(file.read_text())
    if not isinstance(sweep, dict) or not isinstance(sweep.get("parameters"), dict):
        raise ValueError(f"{file}: expected a mapping with method, metric, command and parameters")
    if sweep.get("method") not in METHODS:
        raise ValueError(f"{file}: method must be one of {', '.join(METHODS)}, got {sweep.get('method')!r}")
    metric = sweep.get("metric")
    if not isinstance(metric, dict) or not metric.get("name") or metric.get("goal") not in GOALS:
        raise ValueError(f"{file}: metric must have a name and a goal, {' or '.join(GOALS)}, got {metric!r}")
    command = sweep.get("command")
    if not isinstance(command, list) or ARGS not in command or PROGRAM not in command:
        raise ValueError(f"{file}: command must be a list with {PROGRAM!r}, its subcommand, and {ARGS!r} of its own")
    for key, space in sweep["parameters"].items():
        _check_space(f"{file}: {key}", space, sweep["method"])
    return sweep


def _check_space(what: str, space: Any, method: str) -> None:
    if not isinstance(space, dict) or "parameters" in space:
        raise ValueError(f"{what} must be a mapping with values, value, or min and max; keys are flat, with dots")
    choices = space.get("values", [space["value"]] if "value" in space else None)
    if choices is not None:
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"{what}: values must be a list, got {choices!r}")
        if None in choices:
            raise ValueError(f'{what}: write null as a string, "null": None would arrive as the word None')
        return
    if method == "grid":
        raise ValueError(f"{what}: a grid needs values")
    low, high, kind = space.get("min"), space.get("max"), distribution(space)
    if not all(isinstance(end, (int, float)) for end in (low, high)) or low >= high:
        raise ValueError(f"{what}: min and max must be two numbers, got {low!r} and {high!r} (YAML wants 1.0e-5)")
    if kind not in DISTRIBUTIONS:
        raise ValueError(f"{what}: distribution must be one of {', '.join(DISTRIBUTIONS)}, got {kind!r}")


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
    chance = random.Random(seed)
    for _ in range(5 if count is None else count):
        yield {
            key: DISTRIBUTIONS[distribution(space)](chance, space["min"], space["max"])
            if "min" in space
            else chance.choice(options[key])
            for key, space in spaces.items()
        }


def command_of(sweep: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the command line of a trial, as the agent builds it."""
    given = [f"--{key}={value}" for key, value in settings.items()]
    return [part for word in sweep["command"] for part in (given if word == ARGS else [str(word)])]


def arguments(command: list[str]) -> list[str]:
    """Return what of a command line is for ``experiments.run``."""
    return command[command.index(PROGRAM) + 1 :]


class SettingsOnly(ExperimentCLI):
    """Parses; neither builds nor runs anything."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def _set_seed(self) -> None:
        """Leave random numbers alone."""


def parser_for(args: list[str]) -> ArgumentParser:
    """Return the parser of ``experiments.run``, having parsed these arguments."""
    quiet()
    claim_run_id()  # configs name it
    options = {"subclass_mode_data": True, "parser_kwargs": {"parser_mode": "omegaconf+"}}
    options |= {"auto_configure_optimizers": False, "seed_everything_default": 0, "save_config_callback": None}
    return SettingsOnly(ContextCIR, LightningDataModule, args=args, **options).parser


def check(parser: ArgumentParser, args: list[str], file: Path) -> None:
    """Raise ValueError, in one line, unless the parser takes these arguments."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parser.parse_args(args)
    except SystemExit:
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        words = ("not accept", "Problem with", "error:")
        reason = next((line for word in words for line in lines if word in line), lines[-1])
        raise ValueError(f"{file}: {reason.removeprefix('error: ')}, of {shlex.join(args)}") from None


def sweep(file: Path, count: int | None = None, seed: int = 0) -> None:
    """Print the commands of a sweep, having checked that their settings exist.

    Args:
        file: One of experiments/sweeps/*.yaml.
        count: How many; null for all of a grid, and five of a search.
        seed: Of the draw.
    """
    settings = read_sweep(file)
    commands = [command_of(settings, trial) for trial in trials(settings, count, seed)]
    plain = [word for word in map(str, settings["command"]) if word != ARGS]
    parser = parser_for(arguments(plain))
    for command in commands:
        check(parser, arguments(command), file)
    size = math.prod(len(space.get("values", [0])) for space in settings["parameters"].values())
    of = f" of {size}" if settings["method"] == "grid" else ", drawn for this list"
    print(f"# {file}: {settings['method']}, to {settings['metric']['goal']} {settings['metric']['name']}")
    print(f"# {len(commands)} trials{of}:")
    for command in commands:
        print(shlex.join(command))
    print(f"# to run them: wandb sweep {file}, then the `wandb agent` command that it prints")


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    try:
        auto_cli(sweep, args=args, as_positional=True)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
