"""The panel at the end of a run: what it says, and when it comes."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.stopping import keep_first_error
from callbacks.summary import best_checkpoint, where
from experiments.run import main
from tests.helpers.scenes_flags import configs, draw, on

pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture
def flags(small: list[str], scenes: Path) -> list[str]:
    few = ["--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null"]
    return [*configs("base", "scenes"), *small, *on(scenes), *few, "--trainer.num_sanity_val_steps=0"]


def panel(text: str) -> tuple[str, dict[str, str]]:
    """Title and rows of the only panel in a text."""
    lines = text.splitlines()
    (begin,) = [place for place, line in enumerate(lines) if line.startswith("╭")]
    end = next(place for place, line in enumerate(lines) if place > begin and line.startswith("╰"))
    rows: dict[str, str] = {}
    for line in lines[begin + 1 : end]:
        name, _, value = line.strip("│ ").partition("  ")
        if line.startswith("│  "):  # goes on from the line before
            rows[next(reversed(rows))] += " " + line.strip("│ ")
        else:
            rows[name] = value.strip()
    return re.search(r"─ (.*?) ─", lines[begin])[1], rows


@pytest.mark.slow
def test_after_training_it_names_the_best_checkpoint_and_its_metrics(
    flags: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = main(["fit", *flags])
    title, rows = panel(capsys.readouterr().out)
    assert re.fullmatch(r"scenes/id1: trained in 0:00:\d\d", title)
    folder = runs / "scenes" / "id1"
    best = folder / rows["best checkpoint"].partition(" ")[0]
    assert best == Path(cli.trainer.checkpoint_callback.best_model_path) and best.exists()
    assert (folder / rows["last checkpoint"]).exists()
    assert (folder / rows["all metrics"]).exists() and (folder / rows["tables"]).exists()
    assert rows["steps"] == "4 of 4" and rows["folder"].replace(" ", "") == str(folder)
    assert set(rows) >= {"figures", "curves"} and "to go on" not in rows
    # the figures are what an evaluation of that checkpoint gives, be it the last one or not
    main(["validate", *flags, f"--ckpt_path={best}"])
    _, again = panel(capsys.readouterr().out)
    assert again["metrics"] == rows["its metrics"]
    results = json.loads((folder / "metrics.json").read_text())["validate"]["val"]["rows"]["composed"]
    for name in ("recall_at_1", "subset_recall_at_1", "mean_recall"):
        assert f"val_{name} {results[name]:.2f}" in again["metrics"]


class Worse(Callback):
    """Spoils the model after the first validation: the second one is not the best."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 2:
            for weight in pl_module.parameters():
                torch.nn.init.zeros_(weight)


def metrics_of_best(rows: dict[str, str]) -> list[str]:
    return [rows["best checkpoint"], rows["its metrics"]]


@pytest.mark.slow
def test_a_best_checkpoint_that_is_not_the_last_keeps_its_metrics_also_over_a_resume(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = [*flags, "--trainer.callbacks+=tests.callbacks.test_summary.Worse"]
    main(["fit", *flags, "--name=short", "--trainer.max_steps=2"])
    _, short = panel(capsys.readouterr().out)
    main(["fit", *spoiled, "--name=short"])  # goes on from there
    _, resumed = panel(capsys.readouterr().out)
    main(["fit", *spoiled, "--name=whole"])
    _, whole = panel(capsys.readouterr().out)
    assert "step=2.ckpt" in whole["best checkpoint"]
    assert metrics_of_best(whole)[1] == metrics_of_best(resumed)[1] == metrics_of_best(short)[1]


class CtrlC(Callback):
    """Presses it at the fourth batch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 3:
            raise KeyboardInterrupt


class Fails(Callback):
    """Fails before there is a step."""

    def on_train_batch_start(self, *_: Any) -> None:
        raise ValueError("no")


def test_ctrl_c_gives_it_too_and_says_how_to_go_on(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *flags, "--trainer.callbacks+=tests.callbacks.test_summary.CtrlC"])
    title, rows = panel(capsys.readouterr().out)
    assert title.startswith("scenes/id1: stopped by Ctrl-C in ")
    assert rows["steps"] == "3 of 4" and "step=2.ckpt" in rows["best checkpoint"]
    assert rows["to go on"] == "WANDB_RUN_ID=id1 and the same command"


def test_without_any_step_there_is_none(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"):
        main(["fit", *flags, "--trainer.callbacks+=tests.callbacks.test_summary.Fails"])
    main(["fit", *flags, "--trainer.fast_dev_run=1"])
    assert "╭" not in capsys.readouterr().out


def test_only_one_of_two_ranks_gives_it(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    two = ["--trainer.strategy=ddp_fork", "--trainer.devices=2", "--trainer.logger=false"]
    main(["test", *flags, *two, "--trainer.callbacks=RunSummary"])
    title, rows = panel(capfd.readouterr().out)
    assert title.startswith("scenes/id1: tested in")
    assert re.search(r"\btest_recall_at_1 \d+\.\d\d, .*test_unseen_recall_at_1", rows["metrics"])


@pytest.mark.parametrize("url", [None, "https://wandb.ai/us/contextcir/runs/id1"])
def test_a_run_of_wandb_is_named_by_its_address_or_the_command_that_sends_it(url: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "wandb" / "offline-run-20261124_000104-id1"
    logger = SimpleNamespace(experiment=SimpleNamespace(url=url, dir=str(folder / "files")))
    assert where(logger) == (url or f"wandb sync {folder}")


def test_a_run_that_began_from_another_one_names_no_checkpoint_of_that() -> None:
    of_another = ModelCheckpoint(monitor="val_recall_at_1")
    of_another.best_model_path = "elsewhere/epoch=0-step=3.ckpt"  # all that Lightning restores of another folder
    assert best_checkpoint(SimpleNamespace(checkpoint_callbacks=[of_another])) is None


class Breaks(Callback):
    """Fails while a run ends by an error."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        raise TypeError("unsupported format string")


def test_no_callback_or_logger_hides_the_error_of_a_run() -> None:
    heard: list[str] = []
    logger = SimpleNamespace(finalize=lambda status: heard.append(status) or 1 / 0)
    trainer = SimpleNamespace(callbacks=[Breaks(), Breaks()], loggers=[logger])
    keep_first_error(trainer)
    with pytest.warns(UserWarning, match=r"Breaks failed too, after the error below: TypeError: unsupported format"):
        for callback in trainer.callbacks:
            callback.on_exception(trainer, None, ValueError("the point"))
        logger.finalize("failed")
    assert heard == ["failed"]
    with pytest.raises(ZeroDivisionError):
        logger.finalize("success")
