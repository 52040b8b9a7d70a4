"""Run a controlled study: variants times seeds, settings chosen on val, test reported once.

    python -m experiments.study experiments/studies/NAME.yaml [--jobs 2] [--publish docs/studies] [--data.root=...]

Started again, it goes on where it was; several processes may work on one folder. In a SLURM array every task does its
share, `--only $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT` with `--array=0-7`, and `--aggregate` then makes the tables
of what is there. Flags like --data.*, --model.* and --trainer.* go to all runs.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jsonargparse import auto_cli

from experiments.study.file import read_plan
from experiments.study.lock import write_at_once
from experiments.study.plan import Plan
from experiments.study.report import Choices, publish_report, write_report
from experiments.study.results import Figures, interval
from experiments.study.runner import RESULT, Runner, read_result

OWN_FLAGS = ("--list", "--aggregate")  # may stand without a value
PASSED_ON = ("--data", "--model", "--trainer", "--config")
COMMANDS = "commands.txt"


def study(
    file: Path,
    out: Path | None = None,
    only: str | None = None,
    jobs: int = 1,
    threads: int = 1,
    list: bool = False,
    aggregate: bool = False,
    publish: Path | None = None,
    flags: Sequence[str] = (),
) -> None:
    """Run a study, or what is left of it, and make its tables.

    Args:
        file: The study: a YAML file, see experiments/study/file.py.
        out: Folder for everything; runs/studies/NAME if not given.
        only: i/n: every n-th run of the study from the i-th on (0/4 to 3/4). Settings are chosen before, by all tasks
            together.
        jobs: Runs at a time.
        threads: Threads of each run; two runs of one thread are faster than one of two.
        list: Print the runs and whether they are done, and run nothing.
        aggregate: Make the tables from what is done, and run nothing.
        publish: Folder to copy tables and figure to.
        flags: More flags of experiments.run, for all runs. Those that begin with --data, --model, --trainer or --config
            need no `--flags`.
    """
    plan = read_plan(file, flags)
    root = out or Path("runs") / "studies" / plan.name
    share = read_share(only)
    if list:
        print_trials(plan, root)
        return
    if not aggregate:
        note_command(root)
        write_at_once(root / "study.yaml", file.read_text())
        run_study(plan, root, share, Runner(root, jobs, threads))
    report = write_report(plan, root, choose(plan, root), commands(root))
    print("\n".join(str(path) for path in report))
    if publish is not None:
        print("\n".join(str(path) for path in publish_report(report, plan, publish)))


def read_share(only: str | None) -> tuple[int, int]:
    """Return i and n of ``i/n``, 0 and 1 for None."""
    first, slash, count = (only or "0/1").partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise ValueError(f"--only is {only}: expected i/n with i from 0 to n - 1, as 0/4")
    return int(first), int(count)


def run_study(plan: Plan, root: Path, share: tuple[int, int], runner: Runner) -> None:
    """Choose the settings, then run the share ``(i, n)`` of the study.

    All tasks of an array need all choices: each begins with its share of these runs, then helps with the others.
    """
    first, step = share
    tuning = plan.tuning_trials()
    runner.run([trial for start in range(step) for trial in tuning[(first + start) % step :: step]])
    stop_at_failures(runner)
    choices = choose(plan, root)
    if choices is not None and plan.tune is not None:
        write_at_once(root / "choices.json", json.dumps(choices._asdict(), indent=2) + "\n")
    runner.run(plan.trials(choices.chosen)[first::step])
    stop_at_failures(runner)


def stop_at_failures(runner: Runner) -> None:
    """Raise ValueError if a run has failed."""
    if runner.failed:
        name, line = next(iter(runner.failed.items()))
        raise ValueError(
            f"{len(runner.failed)} runs failed, the first is {name}: {line}; all others are done, and the same command "
            "repeats those that failed"
        )


def choose(plan: Plan, root: Path) -> Choices | None:
    """Return what the tuning runs choose: of each variant, the setting of the highest mean; None unless all are done.

    Raises:
        ValueError: if a run does not have the metric that decides.
    """
    if plan.tune is None:
        return Choices("", (), {}, dict.fromkeys((variant.name for variant in plan.variants), 0))
    scores: dict[str, dict[str, list[float]]] = {}
    for trial in plan.tuning_trials():
        result = read_result(trial, root)
        if result is None:
            return None
        value = Figures(result["metrics"]).get(plan.tune.metric)
        if value is None:
            raise ValueError(f"{root / trial.name / RESULT} has no {plan.tune.metric}, by which tune.metric chooses")
        setting = trial.name.split("/")[2]
        scores.setdefault(trial.variant, {}).setdefault(setting, []).append(value)
    means = {name: [interval(values).mean for values in of.values()] for name, of in scores.items()}
    chosen = {name: values.index(max(values)) for name, values in means.items()}  # the first of equal ones
    return Choices(plan.tune.metric, plan.tune.seeds, means, chosen)


def print_trials(plan: Plan, root: Path) -> None:
    """Print every run, its state, and the flags it has beyond those that all have."""
    choices = choose(plan, root)
    trials = plan.tuning_trials() + (plan.trials(choices.chosen) if choices else [])
    common = set.intersection(*(set(trial.flags) for trial in trials))
    for trial in trials:
        state = "done" if read_result(trial, root) else "open"
        print(f"{state}  {trial.name}  {shlex.join(flag for flag in trial.flags if flag not in common)}")
    if choices is None:
        print(f"then {len(plan.variants) * len(plan.seeds)} runs with the settings that these choose")


def note_command(root: Path) -> None:
    """Add the command line to those that made the study."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / COMMANDS, "a") as file:
        file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M}\t{command_line()}\n")


def command_line() -> str:
    """Return the command as it was typed."""
    return shlex.join(["python", "-m", "experiments.study", *sys.argv[1:]])


def commands(root: Path) -> tuple[str, ...]:
    """Return the different commands that made the study, the first one first."""
    path = root / COMMANDS
    lines = path.read_text().splitlines() if path.exists() else []
    return tuple(dict.fromkeys(line.partition("\t")[2] for line in lines))


def split_flags(args: Sequence[str]) -> list[str]:
    """Return the arguments with those for the runs collected into ``--flags``, and bare switches spelled out."""
    own, passed = [], []
    for arg in args:
        key = arg.split("=", 1)[0]
        if key.split(".", 1)[0].rstrip("+") in PASSED_ON:
            if "=" not in arg:
                raise ValueError(f"{arg}: write {arg}=VALUE, in one word")
            passed.append(arg)
        else:
            own.append(f"{arg}=true" if arg in OWN_FLAGS else arg)
    return [*own, f"--flags={json.dumps(passed)}"] if passed else own


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    try:
        auto_cli(study, args=split_flags(sys.argv[1:] if args is None else args))
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
