"""Where a run writes: never outside of the folder of runs, and one process at a time."""

import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from contextcir.checks import folder_name
from contextcir.errors import InputError, one_line
from contextcir.files import one_writer
from experiments.command import one_line_errors
from experiments.record import LOCK, check_folder, claim_run_id, own_run
from experiments.run import main
from experiments.start import named_checkpoint
from experiments.study.__main__ import study
from tests.helpers.paths import CONFIGS, PROJECT

LEADING_OUT = [
    "../x",
    "../../x",
    "/x",
    "..",
    ".",
    "",
    " ",
    "a/../..",
    "a//b",
    "a\0b",
    "a\nb",
    "\x1b[31m",
    "x" * 300,
]
LEADING_OUT += ["ä" * 125, "..\\x", "\ud800"]


@pytest.mark.parametrize("name", LEADING_OUT, ids=ascii)
def test_a_name_that_leads_out_of_a_folder_is_refused(name: str) -> None:
    for parts in (False, True):
        with pytest.raises(InputError, match=r"^expected (one or more of )?a name of at most 128") as error:
            folder_name(name, "name", parts)
        assert str(error.value).isprintable() and len(str(error.value)) <= 300


def test_ordinary_names_are_taken() -> None:
    for name in ("debug", "cirr b32", "täglich", "v1.2+ema", "..x", "7_0", "x" * 128):
        assert folder_name(name, "name") == name
    assert folder_name("a/b", "name", parts=True) == "a/b"
    with pytest.raises(InputError):
        folder_name("a/b", "WANDB_RUN_ID")


@pytest.mark.parametrize("name", ["../../x", "a/b", "/x", "..", "a\nb", "x" * 300], ids=ascii)
def test_a_run_id_is_one_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", name)
    with pytest.raises(InputError, match="WANDB_RUN_ID: expected a name"):
        claim_run_id()
    monkeypatch.setenv("WANDB_RUN_ID", "")
    assert claim_run_id()  # nothing was chosen


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit), one_line_errors():
        main(args)
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_by_flag_by_config_and_by_variable(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "named.yaml"
    config.write_text(yaml.safe_dump({"name": "../../x"}))
    base = ["fit", f"--config={CONFIGS / 'base.yaml'}", f"--config={CONFIGS / 'scenes.yaml'}"]
    for flags in (["--name=../../x"], [f"--config={config}"]):
        assert "a name of at most 128" in refused([*base, *flags], capsys)
    taken = tmp_path / "a file"
    taken.write_text("")
    line = refused([*base, f"--trainer.default_root_dir={taken / 'x'}"], capsys)
    assert "expected a folder, found something else" in line and str(taken) in line
    monkeypatch.setenv("WANDB_RUN_ID", "../../x")
    assert "WANDB_RUN_ID" in refused([*base, "--name=x"], capsys)
    assert not runs.exists() and sorted(tmp_path.iterdir()) == [taken, config]


def test_paths_that_can_be_no_folder() -> None:
    for root in ("a\0b", "a\nb", "x" * 256, "/dev/null/x"):
        with pytest.raises(InputError) as error:
            check_folder("x", root)
        assert error.value.setting == "trainer.default_root_dir"
    check_folder("x", None)


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """A process that trains in a folder."""
    ready, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        with one_writer(tmp_path / "run", "trains", LOCK):
            os.write(begin, b"x")
            signal.pause()
    os.read(ready, 1)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_second_process_is_refused_and_a_dead_one_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    folder = tmp_path / "run"
    with (
        pytest.raises(InputError, match=rf"another process trains here already, process {other} on \S+: wait") as error,
        own_run(folder),
    ):
        pass
    assert one_line(str(error.value)) == str(error.value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with own_run(folder):  # a rank of the run
        assert (folder / LOCK).exists()
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with own_run(folder):  # a requeued job: the start before it has ended
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(InputError, match="nothing can be written here: Permission denied"), own_run(tmp_path / "x"):
        pass


@pytest.mark.parametrize("word", ["last", "best", "hpc", "registry", "registry:model", "", " "])
def test_a_word_for_a_checkpoint_that_is_not_there_is_an_error(word: str, tmp_path: Path) -> None:
    trainer = SimpleNamespace(callbacks=[], default_root_dir=str(tmp_path))
    with pytest.raises(InputError) as error:
        named_checkpoint(trainer, word)
    assert error.value.setting == "ckpt_path"
    assert named_checkpoint(trainer, None) is None and named_checkpoint(trainer, "a.ckpt") == "a.ckpt"


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_a_study_leaves_its_results_where_runs_go(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.study.__main__.run_study", lambda plan, root, share, runner: None)
    monkeypatch.setattr("experiments.study.__main__.write_report", lambda plan, root, *given: [root])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIR_RUNS", raising=False)
    if given:
        monkeypatch.setenv("CIR_RUNS", given)
    study("text_cc")
    assert capsys.readouterr().out.strip() == f"{given or 'runs'}/studies/text_cc"
    assert (tmp_path / (given or "runs") / "studies" / "text_cc" / "study.yaml").is_file()


def test_no_command_has_a_folder_of_runs_by_default_that_the_variable_does_not_move() -> None:
    found = [
        f"{file.name}: {line.strip()}"
        for file in (PROJECT / "experiments").rglob("*.py")
        for line in file.read_text().splitlines()
        if re.search(r"Path\(\"runs|= \"runs/", line)
    ]
    # What a stage of a synthesis reads stands in its YAML, which a user changes.
    assert found == ['synthesis_precision.py: run: Path = Path("runs/synthesis/scenes"),']
