"""What docs/results.md shows is run, in its order."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from contextcir.weights import state_digest
from experiments.bundle.__main__ import build_parser
from experiments.bundle.__main__ import main as bundle
from experiments.hub.__main__ import build_parser as hub_parser
from experiments.hub.__main__ import main as hub
from experiments.leaderboard.__main__ import main as leaderboard
from tests.commands.test_readme import shown
from tests.helpers.paths import PROJECT
from tests.helpers.result_runs import make_run
from tests.results.test_hub import SETTINGS, model
from tests.results.test_leaderboard import make_study

DOCUMENT = "docs/results.md"
COMMANDS = {"bundle": bundle, "leaderboard": leaderboard, "hub": hub}
__all__ = ["model"]  # a fixture


def test_its_commands_run(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state = model.state_dict()
    run = make_run(tmp_path / "RUN", made={"checkpoint": None, "weights": state_digest(state)})
    (run / "checkpoints").mkdir()
    content = {"pytorch-lightning_version": "2.6.4", "state_dict": state, "hyper_parameters": SETTINGS}
    torch.save({**content, "hparams_name": "kwargs"}, run / "checkpoints" / "epoch=0-step=20.ckpt")
    make_study(tmp_path / "runs" / "studies" / "NAME")
    lines = [line for line in shown(DOCUMENT) if line.startswith("python -m experiments.")]
    assert len(lines) == 7
    for line in lines:
        words = shlex.split(line)
        COMMANDS[words[2].partition(".")[2]](words[3:])
    said = capsys.readouterr().out
    assert ", 0 differs" in said and "2 tables" not in said and "nothing was sent" in said
    for name in ("run.zip", "results/my_model.json", "leaderboard.html", "results/NAME/sum.json", "leaderboard.md"):
        assert (tmp_path / name).is_file(), name
    shutil.rmtree(tmp_path / "runs")


def test_the_flags_that_it_names_exist() -> None:
    text = (PROJECT / DOCUMENT).read_text(encoding="utf-8")
    known = {f"--{name}" for parser in (build_parser(), hub_parser()) for name in parser.options()}
    named = set(re.findall(r"(?<![\w-])--[a-z-]+", text))
    assert named and named <= known | {"--markdown", "--reported"}
