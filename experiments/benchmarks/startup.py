"""CPU seconds and peak memory of commands that only start: what they import, and what their parsers take.

    git worktree add ../before a6fde4c
    python -m experiments.benchmarks.startup --against ../before [--runs 3] [--markdown table.md]

Each command is a process of its own, on one thread. CPU seconds (user and system) hardly depend on what else the
machine does; of several runs the median is given. The other checkout runs with this Python, so that only the project
differs; its commands alternate with this one's. Modules are compiled to bytecode before anything is measured.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from contextcir.errors import InputError
from experiments.command import command, processor, publish, table
from experiments.outputs import output_file

HERE = Path(__file__).parents[2]


class Start(NamedTuple):
    """A command that ends before its work begins.

    Args:
        name: what the table calls it.
        args: of Python.
        before: of Python in a checkout that knows no bare names; None for the same.
        limit: CPU seconds that it may take; None where the other checkout is the measure.
    """

    name: str
    args: Sequence[str]
    before: Sequence[str] | None = None
    limit: float | None = None


def _module(*args: str) -> list[str]:
    return ["-m", *args]


SWEEP = "experiments/sweeps/scenes_losses.yaml"
STARTS = (
    Start("import torch", ["-c", "import torch"]),
    Start("submission --help", _module("experiments.submission", "--help"), limit=1.5),
    Start("check_data --help", _module("experiments.check_data", "--help"), limit=1.5),
    Start("convert --help", _module("experiments.convert", "--help"), limit=1.5),
    Start("sweep, checked before", _module("experiments.sweep", SWEEP), limit=1.5),
    Start("study --help", _module("experiments.study", "--help"), limit=1.5),
    Start("synthesize --help", _module("experiments.synthesize", "--help"), limit=1.5),
    Start("phrases --help", _module("experiments.phrases", "--help"), limit=1.5),
    Start("import of annotation readers", ["-c", "import data_modules.reading.annotations"],
          before=["-c", "import data_modules.annotations"], limit=1.5),
    Start("imports of run fit", ["-c", "import experiments.run"]),
    Start("run fit --help", _module("experiments.run", "fit", "--help")),
)  # fmt: skip


class Cost(NamedTuple):
    """CPU seconds and peak memory in MB of a process."""

    seconds: float
    memory: float


def measure(args: Sequence[str], folder: Path, cache: Path) -> Cost:
    """Run Python in a folder; raises InputError if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(folder)}
    environment |= {"WANDB_MODE": "disabled", "WANDB_RUN_ID": "startup"}
    process = subprocess.Popen(  # noqa: S603  (this project's own modules, no shell)
        [sys.executable, *args], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"python {' '.join(args)} failed in {folder}: {said.splitlines()[-1:] or process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1 if sys.platform == "darwin" else 1024))


def compare(
    starts: Sequence[Start], folders: Sequence[Path], runs: int, cost: Callable[[Sequence[str], Path, Path], Cost]
) -> list[list[Cost]]:
    """Return the median cost of each command in each folder; a run that fills caches comes first."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for start in starts:
            of_folder: list[list[Cost]] = [[] for _ in folders]
            for number in range(runs + 1):
                for index, folder in enumerate(folders):
                    args = start.args if index == 0 or start.before is None else start.before
                    measured = cost(args, folder, Path(cache) / str(index))
                    if number:
                        of_folder[index].append(measured)
            rows.append([Cost(*map(statistics.median, zip(*costs, strict=True))) for costs in of_folder])
            print(f"{start.name}: {rows[-1][0].seconds:.2f} s", file=sys.stderr, flush=True)
    return rows


def as_table(starts: Sequence[Start], rows: Sequence[Sequence[Cost]]) -> str:
    """Return the table; with a second checkout, also its figures and the ratio."""
    header = ["command", "CPU s", "MB", "at most"]
    both = any(len(costs) > 1 for costs in rows)
    lines = []
    for start, costs in zip(starts, rows, strict=True):
        limit = "" if start.limit is None else f"{start.limit:g} s"
        line = [start.name, f"{costs[0].seconds:.2f}", f"{costs[0].memory:.0f}", limit]
        if both:
            line += [f"{costs[1].seconds:.2f}", f"{costs[1].memory:.0f}", f"{costs[0].seconds / costs[1].seconds:.2f}"]
        lines.append(line)
    return table([*header, *(["CPU s before", "MB before", "ratio"] if both else [])], lines)


def startup(against: Path | None = None, runs: int = 3, markdown: Path | None = None) -> None:
    """Measure how long commands take to start.

    Args:
        against: Folder of another checkout, such as one of a6fde4c, to compare with.
        runs: How often each is measured.
        markdown: File to write the table to.
    """
    output_file(markdown, "markdown")
    if runs < 1:
        raise InputError(f"must be at least 1, got {runs}", setting="runs")
    if against is not None and not (against / "experiments").is_dir():
        raise InputError(f"{against} is no checkout of the project", setting="against")
    folders = [HERE, *([against.resolve()] if against else [])]
    rows = compare(STARTS, folders, runs, measure)
    publish(f"{as_table(STARTS, rows)}\nMedian of {runs}, on {processor()}, one thread.\n", markdown)


if __name__ == "__main__":
    command(startup)
