"""Sweep files: their commands as W&B's agent builds them, through the command line."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb.wandb_agent
import yaml

from experiments.convert import main as convert
from experiments.phrases.__main__ import main as parse_phrases
from experiments.run import main
from experiments.sweep import arguments, command_of, read_sweep, trials
from experiments.sweep import main as print_sweep
from tests.helpers.make_convertible import make_hotel, make_rewritten
from tests.helpers.make_data import make_cirr
from tests.helpers.make_lasco import make_lasco
from tests.helpers.paths import SWEEPS
from tests.helpers.scenes_flags import SIZE, draw

FILES = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """W&B's agent without a server: builds the command of a trial, and shows what process it would start."""
    started: list[dict[str, Any]] = []

    class Process:
        def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
            started.append({"command": command, "env": env})

    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", Process)
    for name, value in {"WANDB_DIR": tmp_path, "WANDB_SWEEP_ID": "s1", "WANDB_SWEEP_PARAM_PATH": tmp_path}.items():
        monkeypatch.setenv(name, str(value))

    def start(sweep: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        runner = wandb.wandb_agent.Agent.__new__(wandb.wandb_agent.Agent)
        state = {"_sweep_command": list(sweep["command"]), "_function": None, "_in_jupyter": False}
        vars(runner).update(state | {"_forward_signals": True, "_run_processes": {}})
        values = {key: {"value": value} for key, value in settings.items()}
        runner._command_run({"run_id": "trial1", "program": "train.py", "args": values})
        return started.pop()

    return start


@pytest.mark.parametrize("name", FILES)
def test_the_printed_commands_are_those_of_the_agent(name: str, agent: Any) -> None:
    sweep = read_sweep(SWEEPS / f"{name}.yaml")
    for settings in trials(sweep, 20):
        assert agent(sweep, settings)["command"] == command_of(sweep, settings)


def data_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Small data where a sweep looks for it; returns further flags."""
    monkeypatch.setenv("CIR_DATA", str(folder))
    if name == "scenes_losses":
        draw(folder / "scenes")
        towers = [f"--model.backbone.trainable_{tower}_blocks=null" for tower in ("image", "text")]
        return [*(f"--data.size.{key}={value}" for key, value in vars(SIZE).items()), *towers]
    cirr = make_cirr(folder / "CIRR")
    if name == "cirr_losses":
        bank, listed = folder / "phrases.bank", folder / "captions.jsonl"
        monkeypatch.setenv("CIR_PHRASES", str(bank))
        configs = [f"--config={SWEEPS.parent / 'configs' / file}.yaml" for file in ("base", "cirr_b32")]
        parse_phrases(["list", f"--out={listed}", *configs])
        parse_phrases([f"--captions={listed}", "--parser=tests.helpers.word_parser.WordParser", f"--out={bank}"])
    if name == "mixture":
        make_rewritten(cirr)
        make_lasco(folder / "LaSCo")
        hotel = make_hotel(folder / "hotel_cir")
        for kind, root, out in (("cirr_rewritten", cirr, "rewritten.train.jsonl"), ("hotel", hotel, "train.jsonl")):
            convert([kind, f"--root={root}", "--split=train", f"--out={root / out}"])
    return []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.slow
def test_a_trial_of_every_sweep_trains(
    name: str, agent: Any, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = read_sweep(SWEEPS / f"{name}.yaml")
    *_, settings = trials(sweep)
    started = agent(sweep, settings)
    monkeypatch.setenv("WANDB_RUN_ID", started["env"]["WANDB_RUN_ID"])
    more = data_of(name, tmp_path, monkeypatch)
    few = ["--data.batch_size=2", "--trainer.fast_dev_run=1"]
    cli = main([*arguments(started["command"]), *small, *more, *few])
    assert cli.trainer.global_step == 1
    assert Path(cli.trainer.default_root_dir).parts[-2:] == (name, "trial1")  # W&B's id finds the checkpoints
    assert sweep["metric"]["name"] in cli.trainer.callback_metrics
    for key, value in settings.items():
        found = cli.config.fit[key]
        assert found == yaml.safe_load(str(value)), key


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as failure:
        print_sweep(list(args))
    assert failure.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where verdicts on commands are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "contextcir" / "sweeps.json"


def test_a_misspelt_key_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (SWEEPS / "scenes_losses.yaml").read_text()
    (tmp_path / "sweep.yaml").write_text(text.replace("init_args.temperature", "init_args.temprature"))
    message = error_of(capsys, str(tmp_path / "sweep.yaml"))
    assert "sweep.yaml: no setting 'model.contrastive.temprature'" in message
    assert "--model.contrastive.temperature" in message


@pytest.mark.slow
def test_it_prints_the_whole_grid_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    file = SWEEPS / "scenes_losses.yaml"
    print_sweep([str(file)])
    lines = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert lines[1] == "# 12 trials of 12:" and len({tuple(command) for command in commands}) == 12
    first = ["--model.contrastive.init_args.temperature=0.02", "--model.concept.init_args.weight=0.0"]
    assert commands[0][-2:] == first
    assert all("wandb.config" not in path.read_text() for path in SWEEPS.parent.rglob("*.py"))


@pytest.mark.slow
def test_commands_are_checked_once_and_again_after_a_config_has_changed(tmp_path: Path, cache: Path) -> None:
    config, file = tmp_path / "own.yaml", tmp_path / "sweep.yaml"
    config.write_text("name: own\n")
    text = (SWEEPS / "scenes_losses.yaml").read_text()
    file.write_text(text.replace("  - --name=scenes_losses\n", f"  - --config={config}\n"))
    counts = []
    for name in ("own", "own", "other"):
        config.write_text(f"name: {name}\n")
        print_sweep([str(file)])
        counts.append(len(json.loads(cache.read_text())))
    assert counts == [13, 13, 26]  # twelve trials, and the command without a trial's settings


@pytest.mark.slow
def test_what_is_kept_is_not_taken_for_another_command(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    text = (SWEEPS / "scenes_losses.yaml").read_text()
    for name in ("temperature", "temprature"):
        file.write_text(text.replace("init_args.temperature", f"init_args.{name}"))
        if name == "temperature":
            print_sweep([str(file)])
            capsys.readouterr()
        else:
            assert "temprature" in error_of(capsys, str(file))


def test_a_sweep_whose_commands_are_known_is_printed_without_torch(cache: Path) -> None:
    print_sweep(["scenes_losses", "--count=1"])
    script = "import sys, experiments.sweep as s; s.main(['scenes_losses', '--count=1']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_draws_stay_within_their_ends_and_follow_the_seed() -> None:
    sweep = read_sweep(SWEEPS / "cirr_rates.yaml")
    drawn = list(trials(sweep, 200, seed=3))
    assert drawn == list(trials(sweep, 200, seed=3)) != list(trials(sweep, 200, seed=4))
    for key, space in sweep["parameters"].items():
        values = [settings[key] for settings in drawn]
        if "values" in space:
            assert set(values) == set(space["values"])
        else:
            assert space["min"] <= min(values) < max(values) <= space["max"]
    rates = sorted(settings["model.optimizer.init_args.lr"] for settings in drawn)
    assert 2e-5 < rates[100] < 5e-5  # uniform in its logarithm: the middle is 3e-5, not 1.5e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "best"}, "method must be one of grid, random, bayes, got 'best'"),
        ({"metric": {"name": "val_recall_at_1"}}, "goal, minimize or maximize"),
        ({"command": "python -m experiments.run fit ${args}"}, "command must be a list"),
        ({"command": ["python", "-m", "experiments.run", "fit", "--x=${args}"]}, "of its own"),
        ({"parameters": {"a.b": {"values": [None, 1.0]}}}, 'write null as a string, "null"'),
        ({"parameters": {"a.b": {"min": "1e-5", "max": 1.0}}, "method": "bayes"}, "YAML wants 1.0e-5"),
        ({"parameters": {"a.b": {"min": 1, "max": 3}}}, "a grid needs values"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "keys are flat"),
        ({"parameters": {"a": {"min": 0.1, "max": 3, "distribution": "normal"}}, "method": "random"}, "one of uniform"),
    ],
)
def test_a_broken_file_is_told_in_one_line(
    change: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((SWEEPS / "scenes_losses.yaml").read_text()) | change
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    message = error_of(capsys, str(tmp_path / "sweep.yaml"))
    assert words in message and "sweep.yaml" in message


def test_a_missing_file_is_told_with_close_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no file nowhere.yaml" in error_of(capsys, "nowhere.yaml")
    assert "close to it: scenes_losses" in error_of(capsys, "scene_losses")


@pytest.mark.parametrize("in_slurm", [False, True])
def test_a_trial_is_a_process_or_a_job_step(in_slurm: bool, tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho srun "$@" $WANDB_MODE\n')
    srun.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "WANDB"))}
    env = kept | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    if in_slurm:
        env |= {"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}
    command = [sys.executable, "-m", "experiments.trial", "sh", "-c", 'echo "$0" $WANDB_MODE', "a b"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    said = done.stdout.strip()
    if in_slurm:
        assert said == 'srun sh -c echo "$0" $WANDB_MODE a b --trainer.devices=4 --trainer.num_nodes=2 online'
    else:
        assert said == "a b online"
