"""What a command says wins over what a checkpoint was saved with, or does not go with it and is told."""

import http.server
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules.scenes.writer import write_scenes
from experiments.failures import one_line_errors
from experiments.run import main
from experiments.start import go_offline_if_unreachable
from tests.helpers.resuming import EPOCHS, SIZE, assert_equal, command, outcome, read_trace, write_overlay


@pytest.fixture
def fit(clip_folder: Path, runs: Path, tmp_path: Path) -> Any:
    """Runs a command; returns it and the folder of the run."""
    write_scenes(tmp_path / "scenes", 0, SIZE, workers=1)
    overlay = write_overlay(tmp_path / "overlay.yaml", tmp_path / "trace.jsonl", {"every_n_train_steps": 4})

    def run(*flags: str, name: str = "one") -> tuple[Any, Path]:
        args = command(clip_folder, tmp_path / "scenes", overlay, *EPOCHS, "--trainer.max_epochs=2", *flags)
        return main([*args, f"--name={name}"]), runs / name / "id1"

    return run


def steps(tmp_path: Path) -> list[list[Any]]:
    return [entry for entry in read_trace(tmp_path / "trace.jsonl") if entry[0] == "batch"]


def failure(capfd: pytest.CaptureFixture[str], run: Any, *flags: str, **options: str) -> str:
    with pytest.raises(SystemExit), one_line_errors():
        run(*flags, **options)
    text = capfd.readouterr().err
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_a_new_id_starts_anew(
    fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = fit()
    before, taken = outcome(folder), len(steps(tmp_path))
    fit()
    assert_equal(outcome(folder), before)
    assert len(steps(tmp_path)) == taken
    monkeypatch.setenv("WANDB_RUN_ID", "id2")
    fit()
    assert len(steps(tmp_path)) == 2 * taken


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_passed_over(fit: Any, tmp_path: Path) -> None:
    _, folder = fit()
    before = outcome(folder)
    os.truncate(folder / "checkpoints" / "resume-step=12.ckpt", 9000)
    (tmp_path / "trace.jsonl").unlink()
    with pytest.warns(UserWarning, match=r"step=12.ckpt is damaged .*taking the one before, .*step=10.ckpt"):
        fit()
    assert [entry[2] for entry in steps(tmp_path)] == [11, 12]
    assert_equal(outcome(folder), before)


@pytest.mark.slow
def test_a_start_from_another_run_is_made_once(fit: Any, tmp_path: Path, runs: Path) -> None:
    _, one = fit()
    first = one / "checkpoints" / "epoch=0-step=6.ckpt"
    (tmp_path / "trace.jsonl").unlink()
    for _ in range(2):  # the same command again is a restart
        fit(f"--ckpt_path={first}", name="two")
        assert [entry[2] for entry in steps(tmp_path)] == [7, 8, 9, 10, 11, 12]
    (tmp_path / "trace.jsonl").unlink()
    back = runs / "two" / "id1" / "checkpoints" / "resume-step=10.ckpt"
    fit(f"--ckpt_path={back}", name="two")  # an own one is asked for: the run is taken back
    assert [entry[2] for entry in steps(tmp_path)] == [11, 12]


@pytest.mark.slow
def test_learning_rates_of_the_command_win(fit: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    constant = ["--model.optimizer.warmup_steps=0", "--model.optimizer.final_lr_scale=1"]
    _, one = fit(*constant, "--model.optimizer.backbone_lr=1e-3")
    point = one / "checkpoints" / "resume-step=10.ckpt"
    faster = ["--model.optimizer.backbone_lr=2e-3", "--model.optimizer.weight_decay=0.5"]
    cli, two = fit(*constant, *faster, f"--ckpt_path={point}", name="two")
    assert [entry[6] for entry in steps(tmp_path)] == [1e-3] * 12 + [2e-3] * 2
    assert cli.trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.5
    text = " ".join(str(warning.message) for warning in recwarn)
    assert "--model.optimizer.init_args.backbone_lr was 0.001, is 0.002" in text or "backbone_lr was 0.001" in text
    moments = [torch.load(run / "checkpoints" / "last.ckpt")["optimizer_states"][0]["state"][0] for run in (one, two)]
    assert moments[0]["step"] == moments[1]["step"] == 12 and not torch.equal(*(m["exp_avg"] for m in moments))


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_told_in_one_line(fit: Any, capfd: pytest.CaptureFixture[str]) -> None:
    _, one = fit()
    file = one / "checkpoints" / "last.ckpt"
    message = failure(capfd, fit, f"--ckpt_path={file}", "--model.fusion=ImageOnly", "--model.concept=null", name="two")
    assert f"{file.name}: does not fit the model" in message and "--model.fusion" in message
    own = failure(capfd, fit, "--model.fusion=ImageOnly", "--model.concept=null")  # the run's own, found by itself
    assert "does not fit the model of this command" in own
    damaged = one / "damaged.ckpt"
    damaged.write_bytes(file.read_bytes()[:5000])
    message = failure(capfd, fit, f"--ckpt_path={damaged}", name="two")
    assert f"{damaged}: can't be read as a checkpoint" in message
    message = failure(capfd, fit, f"--ckpt_path={file}", "--model.backbone.trainable_image_blocks=0", name="two")
    assert "parameter group" in message


def test_a_server_that_is_not_there_is_told_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", url)
    start = time.monotonic()
    with pytest.warns(UserWarning, match=f"W&B at {url} can't be reached .*Connection refused.*wandb sync"):
        go_offline_if_unreachable()
    assert os.environ["WANDB_MODE"] == "offline" and time.monotonic() - start < 5


def test_a_server_that_answers_anything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # answers 501
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        go_offline_if_unreachable()
    finally:
        server.shutdown()
        server.server_close()
    assert os.environ["WANDB_MODE"] == "online"


def test_a_server_that_never_answers_is_waited_for_as_long_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.warns(UserWarning, match="can't be reached"):
            go_offline_if_unreachable(seconds=0.3)
    assert 0.2 < time.monotonic() - start < 5
