"""Run a controlled study: variants times seeds, settings chosen on val, test reported once.

    python -m experiments.study NAME [--jobs 2] [--publish docs/studies] [--data.root=...]

The same command resumes a study, and several processes may work on one folder. In a SLURM array every task runs its
share, `--only $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT` with `--array=0-7`, and `--aggregate` then makes the tables
of all that is done. Arguments like --data.*, --model.* and --trainer.* go to all runs.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jsonargparse import auto_cli

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.files import read_text, write_json, write_text
from experiments.arguments import Parser
from experiments.command import read_shard
from experiments.failures import one_line_errors
from experiments.flags import packaged
from experiments.outputs import output_folder, runs_folder
from experiments.study.file import read_plan
from experiments.study.plan import Plan
from experiments.study.report import write_report
from experiments.study.results import choose, read_result
from experiments.study.runner import Runner
from experiments.study.timing import timing_text

SWITCHES = ("--list", "--aggregate")  # may stand without a value
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
    timing: int | None = None,
    limit_seconds: float | None = None,
    publish: Path | None = None,
    flags: Sequence[str] = (),
) -> None:
    """Run a study, or what is left of it, and make its tables.

    Args:
        file: The study: a YAML file (see experiments/study/file.py), or the name of one in experiments/studies.
        out: Folder for everything; runs/studies/NAME by default.
        only: I/N: every N-th run of the study from the I-th on (0/4 to 3/4). Settings are chosen before, by all tasks
            together.
        jobs: Runs at a time.
        threads: CPU threads of each run; two runs of one thread are faster than one of two.
        list: Print the runs and whether they are done, and run nothing.
        aggregate: Make the tables of what is done, and run nothing.
        timing: Train each variant for so many steps, print what a step costs and how many steps take as long as the
            dearest training, and run nothing else: for studies of equal cost.
        limit_seconds: End after this time, on machines that are given for some hours: runs in progress keep what they
            have done, the tables are made of what is there, and the same command goes on.
        publish: Folder to copy tables and figure to.
        flags: More arguments of experiments.run, for all runs. Those that begin with --data, --model, --trainer or
            --config need no `--flags`.
    """
    file = packaged("studies", file)
    plan = read_plan(file, flags)
    root = out or runs_folder("studies") / plan.name
    output_folder(root, "out")
    output_folder(publish, "publish")
    whole(jobs, 1, "jobs")
    whole(threads, 1, "threads")
    share = read_shard(only, "only") or (0, 1)
    if list:
        print_trials(plan, root)
        return
    if timing is not None:
        whole(timing, 1, "timing")
        trials = plan.timing_trials(timing)
        runner = Runner(root, jobs, threads, seconds=limit_seconds)
        runner.run(trials)
        raise_failures(runner)
        results = [read_result(trial, root) for trial in trials]
        write_text(root / "timing.md", text := timing_text([result for result in results if result is not None]))
        print(text)
        return
    if not aggregate:
        note_command(root)
        write_text(root / "study.yaml", read_text(file))
        runner = Runner(root, jobs, threads, seconds=limit_seconds)
        run_study(plan, root, share, runner)
        if runner.out_of_time:
            print("the time of --limit_seconds is over: the same command goes on with what is left")
    report = write_report(plan, root, choose(plan, root), commands(root))
    if publish is not None:
        publish.mkdir(parents=True, exist_ok=True)
        report += [Path(shutil.copy(path, publish / path.name)) for path in report]
    print("\n".join(str(path) for path in report))


def run_study(plan: Plan, root: Path, share: tuple[int, int], runner: Runner) -> None:
    """Choose the settings, then run the share ``(i, n)`` of the study.

    All tasks of an array need all choices: each begins with its share of these runs, then helps with the others.

    Raises:
        InputError: if a run has failed.
    """
    first, step = share
    tuning = plan.tuning_trials()
    runner.run([trial for start in range(step) for trial in tuning[(first + start) % step :: step]])
    raise_failures(runner)
    if runner.out_of_time:
        return
    choices = choose(plan, root)
    if choices is not None and plan.tune is not None:
        write_json(root / "choices.json", choices._asdict(), indent=2)
    runner.run(plan.trials(choices.chosen)[first::step])
    raise_failures(runner)


def raise_failures(runner: Runner) -> None:
    """Raise InputError if a run has failed."""
    if runner.failed:
        name, line = next(iter(runner.failed.items()))
        raise InputError(
            f"{len(runner.failed)} runs failed, the first is {name}: {line}; all others are done, and the same command "
            "repeats those that failed"
        )


def print_trials(plan: Plan, root: Path) -> None:
    """Print every run, its state, and the arguments that not all runs share."""
    choices = choose(plan, root)
    trials = plan.tuning_trials() + (plan.trials(choices.chosen) if choices else [])
    common = set.intersection(*(set(trial.flags) for trial in trials))
    for trial in trials:
        state = "done" if read_result(trial, root) else "open"
        print(f"{state}  {trial.name}  {shlex.join(flag for flag in trial.flags if flag not in common)}")
    if choices is None:
        print(f"then {plan.runs} runs with the settings that these choose")


def note_command(root: Path) -> None:
    """Append the command line to those that made the study."""
    root.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "experiments.study", *sys.argv[1:]])
    with open(root / COMMANDS, "a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M}\t{command}\n")


def commands(root: Path) -> tuple[str, ...]:
    """Return the different commands that made the study, the first one first."""
    path = root / COMMANDS
    lines = path.read_text().splitlines() if path.exists() else []
    return tuple(dict.fromkeys(line.partition("\t")[2] for line in lines))


def split_flags(args: Sequence[str]) -> list[str]:
    """Return the arguments with those for the runs collected into ``--flags``, and bare switches spelled out.

    Raises:
        InputError: if an argument for the runs is separated from its value.
    """
    own, passed = [], []
    for arg in args:
        key = arg.split("=", 1)[0]
        if key.split(".", 1)[0].rstrip("+") in PASSED_ON:
            if "=" not in arg:
                raise InputError(f"{arg}: write {arg}=VALUE, in one word")
            passed.append(arg)
        else:
            own.append(f"{arg}=true" if arg in SWITCHES else arg)
    return [*own, f"--flags={json.dumps(passed, ensure_ascii=False)}"] if passed else own


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors("finished runs are kept, the same command continues"):
        auto_cli(study, parser_class=Parser, args=split_flags(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    main()
