"""The progress of a run: a bar where there is a terminal, lines where there is none."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.console import Console

from callbacks.progress import ProgressLines, RunProgress, show_progress
from tests.helpers.toy_evaluation import ToyData, ToyModule
from tests.helpers.watched import Clock, PassTime, model, train


class Watch(Callback):
    """Keeps what the bar shows after every batch."""

    def __init__(self, bar: RunProgress) -> None:
        self.bar = bar
        self.seen: list[str] = []

    def on_train_batch_end(self, *_: Any) -> None:
        console = Console(width=300, file=io.StringIO())
        console.print(self.bar.progress.get_renderable())
        self.seen.append(console.file.getvalue())


def test_the_bar_shows_the_step_of_the_run_the_speed_and_the_time_left(tmp_path: Path) -> None:
    bar = RunProgress()
    watch = Watch(bar)
    train(model(), tmp_path, bar, watch, max_steps=8, enable_progress_bar=True)  # an epoch has six batches
    assert len(watch.seen) == 8
    shown = re.compile(r"epoch 2 .*2/2 .*step 8/8 • 0:00:00 left +[\d,]+ triplets/s +loss: [\d.]+ +contrastive: [\d.]+")
    assert shown.search(watch.seen[-1])
    assert re.search(r"step 3/8 • \d:\d\d:\d\d left", watch.seen[2])
    assert "v_num" not in watch.seen[-1] and "/-2" not in watch.seen[-1]


def test_bars_of_an_evaluation_stay_as_they_are() -> None:
    bar = RunProgress()
    trainer = SimpleNamespace(state=SimpleNamespace(fn="test"))
    bar.train_progress_bar_id = None
    *_, times, speed = bar.configure_columns(trainer)
    task = SimpleNamespace(id=3, finished=False, elapsed=61, time_remaining=5, speed=2.0)
    assert times.render(task).plain == "0:01:01 • 0:00:05" and speed.render(task).plain == "2.00it/s"


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]


def test_lines_come_at_first_now_and_then_and_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    time = Clock()
    lines = ProgressLines(every=30, now=time)
    train(model(), tmp_path, PassTime(time, 10), lines, max_steps=8, enable_progress_bar=True)
    first, fourth, seventh, last = lines_of(capsys)
    assert first.startswith("epoch 1, step 1/8, loss ") and first.endswith("0 triplets/s, -:--:-- left")
    assert fourth.startswith("epoch 1, step 4/8") and fourth.endswith("0:00:40 left")
    assert seventh.startswith("epoch 2, step 7/8")
    assert last.startswith("epoch 2, step 8/8") and last.endswith("0 triplets/s, 0:00:00 left")


def test_lines_of_an_evaluation_name_the_split_and_what_is_encoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"accelerator": "cpu", "logger": False, "enable_model_summary": False, "enable_checkpointing": False}
    options |= {"max_epochs": 1, "num_sanity_val_steps": -1, "default_root_dir": tmp_path}
    Trainer(callbacks=[ProgressLines(every=0)], **options).fit(ToyModule(), datamodule=ToyData())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("toy")]
    one = [f"{what}: batch {batch} of 3" for what in ("gallery", "queries") for batch in (1, 2, 3)]
    assert lines == 2 * [f"toy {split}, {words}" for split in ("val", "hard") for words in one]


def test_other_ranks_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(every=0)
    lines.setup(SimpleNamespace(is_global_zero=False), None, "fit")
    lines._print("epoch 1")
    assert not lines_of(capsys)
    lines.enable()
    lines._print("epoch 1")
    assert lines_of(capsys) == ["epoch 1"]


@pytest.mark.parametrize(("terminal", "kind"), [(True, RunProgress), (False, ProgressLines)])
def test_the_trainers_own_bar_is_replaced(terminal: bool, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert type(trainer.progress_bar_callback) is RichProgressBar
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    show_progress(trainer)
    assert type(trainer.progress_bar_callback) is kind


def test_a_bar_that_was_chosen_or_none_stays() -> None:
    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    chosen = Trainer(callbacks=[TQDMProgressBar()], **options)
    without = Trainer(enable_progress_bar=False, **options)
    for trainer in (chosen, without):
        show_progress(trainer)
    assert type(chosen.progress_bar_callback) is TQDMProgressBar
    assert without.progress_bar_callback is None
