"""Every command of the README and of the first guides on a first day: an empty home, an empty folder, no network.

Each ends well, or in one honest line that says what is missing. A command that is new there has to be entered below.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.commands.test_readme import shown
from tests.helpers.paths import PROJECT

SLOW = pytest.mark.slow
# What a command begins with, and what its one line says.
ENDS = {
    "python -m experiments.check_data cirr": r"no folder /path/to/CIRR",
    "python -m experiments.submission validate": r"no folder: /path/to/CIRR",
    "python -m experiments.phrases": r"no file /path/to/CIRR/captions/cap.rc2.\*.json",
    "python -m experiments.run fit --config cirr_b32": r"/path/to/CIRR|/photos|pretrained",
    "python -m experiments.run predict": r"/path/to/CIRR|FILE|pretrained",
    "python -m experiments.run test --config runs/": r"no file runs/cirr_losses/ID/config.yaml",
    "synthesize --stage": r"/photos|no (file|folder)|pretrained|--stage|chat|pairs|run the stage",
}
QUICK = (
    "python -m experiments.check_data",
    "python -m experiments.submission",
    "python -m experiments.phrases",
)
LEFT_OUT = {
    "make ": "needs the checkout; .ci/run runs the targets, and test_readme.py looks for them",
    "source ": "of the system",
    "wandb ": "W&B's own, with an account",
    "sbatch ": "SLURM; tests/slurm",
    "job=$(sbatch ": "SLURM; tests/slurm",
    "ls ": "of the system",
    "pip install ": "of the system",
    "vllm ": "a server on another machine",
    "export ": "see `SHELL`",
    "alias ": "see `SHELL`",
}
PHOTOS = ("docs/synthesis.md", "## From a folder of photos, step by step")
COMMANDS = list(dict.fromkeys([*shown("README.md"), *shown("docs/sweeps.md"), *shown(*PHOTOS)]))
SHELL = "\n".join(["shopt -s expand_aliases", *(line for line in COMMANDS if line.startswith(("export ", "alias ")))])


def first_day(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment with a home that is new, and nothing that this project or its libraries would read."""
    (folder / "home").mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    # the project's own code, wherever `python` has it from
    return {"PATH": path, "HOME": str(folder / "home"), "PYTHONPATH": str(PROJECT), **more}


def run(command: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line in a new folder."""
    (folder / "work").mkdir(exist_ok=True)
    script = f"{SHELL}\n{command}"
    return subprocess.run(
        ["bash", "-c", script], cwd=folder / "work", env=dict(environment), capture_output=True, timeout=280,
        check=False, encoding="utf-8", errors="replace",
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of an error, the last one; fail for anything else."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1 and done.stderr.rstrip().endswith(lines[0]), done.stderr
    return lines[0]


def test_every_command_is_known_here():
    for line in COMMANDS:
        assert sum(line.startswith(begin) for begin in (*ENDS, *LEFT_OUT)) == 1, line


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=() if line.startswith(QUICK) else SLOW)
        for line in COMMANDS
        if line.startswith(tuple(ENDS))
    ],
)
def test_a_command_ends_well_or_says_what_is_missing(line, tmp_path):
    done = run(line, tmp_path, first_day(tmp_path))
    if line.startswith("synthesize") and done.returncode == 0:  # a stage may have nothing to do
        assert re.search("0 (done|kept)", done.stdout)
        return
    # a check lists what it found, and ends with the number of problems
    told = done.stdout if "check_data" in line and done.returncode == 1 else one_line(done)
    assert "Traceback" not in done.stderr
    (words,) = (words for begin, words in ENDS.items() if line.startswith(begin))
    assert re.search(words, told), told
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) in ([], ["runs"])


STANZA = "python -m experiments.phrases --captions c.txt --parser stanza --out b"


@pytest.mark.parametrize(
    "more",
    [{}, pytest.param({"STANZA_RESOURCES_DIR": ""}, marks=SLOW), pytest.param({"HOME": "/proc/none"}, marks=SLOW)],
    ids=["empty home", "empty variable", "no home"],
)
def test_stanza_without_its_models_and_without_a_network_is_one_line(more, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "c.txt").write_text("a red car\n")
    offline = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    told = one_line(run(STANZA, tmp_path, first_day(tmp_path, **(offline | more))))
    assert "stanza.download(" in told and "STANZA_RESOURCES_DIR=DIR" in told and "no resources.json in" in told


def test_what_is_read_and_written_does_not_depend_on_the_locale(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "c.txt").write_text("the «café» 👩\n", encoding="utf-8")
    ascii_only = first_day(tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    parser = "--parser tests.helpers.word_parser.WordParser"
    command = f"python -X warn_default_encoding -m experiments.phrases --captions *.txt {parser} --out b"
    done = run(command, tmp_path, ascii_only)
    assert done.returncode == 0 and (tmp_path / "work" / "b").is_file(), done.stderr
    ours = [line for line in done.stderr.splitlines() if "EncodingWarning" in line and str(PROJECT) in line]
    assert ours == []
