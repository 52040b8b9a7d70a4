"""What is recorded of a training, with a clock that counts calls in the place of the processor's."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from callbacks import training_record
from callbacks.checkpoints import ResumePoints
from callbacks.training_record import TrainingRecord, processor_seconds
from tests.callbacks.test_recall import ToyModule, make_trainer
from tests.helpers.toy_evaluation import ToyData


def recorded(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text())


class Work(ToyModule):
    """A step takes 2 seconds, a validation 100."""

    clock = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        Work.clock += 2.0
        return super().training_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        Work.clock += 100.0


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_record, "processor_seconds", lambda: Work.clock)


def test_steps_are_timed_without_validations_and_every_validation_is_kept(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[TrainingRecord()], max_epochs=3, num_sanity_val_steps=-1)
    trainer.fit(Work(), datamodule=ToyData())
    found, steps = recorded(tmp_path), trainer.global_step
    assert steps > 0 and found["steps"] == steps and found["cpu_seconds"] == 2.0 * steps
    assert [entry["step"] for entry in found["validations"]] == [steps // 3, 2 * steps // 3, steps]
    assert [entry["cpu_seconds"] for entry in found["validations"]] == [2.0 * steps / 3, 4.0 * steps / 3, 2.0 * steps]
    figures = found["validations"][-1]["figures"]
    assert set(figures) == {"val", "hard"}
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    for split, of in figures.items():
        assert 0 <= of["recall_at_1"] <= 100 and not any("group" in name for name in of)
        assert logged.get(f"{split}_recall_at_1", of["recall_at_1"]) == pytest.approx(of["recall_at_1"], abs=1e-3)


def test_a_step_is_timed_after_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowStart(Work):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            Work.clock += 50.0 if self.trainer.global_step == 0 else 0.0
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(training_record, "WARM_STEPS", 1)
    trainer = make_trainer(tmp_path, callbacks=[TrainingRecord()], max_epochs=4)
    trainer.fit(SlowStart(), datamodule=ToyData())
    assert recorded(tmp_path)["cpu_seconds_per_step"] == 2.0


def test_a_resumed_training_goes_on_counting(tmp_path: Path) -> None:
    points = tmp_path / "points"
    for epochs in (1, 2):
        callbacks = [TrainingRecord(), ResumePoints(points, keep=1)]
        trainer = make_trainer(tmp_path, callbacks=callbacks, max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(Work(), datamodule=ToyData(), ckpt_path=points / "last.ckpt" if epochs == 2 else None)
    found, steps = recorded(tmp_path), trainer.global_step
    assert found["steps"] == steps and found["cpu_seconds"] == 2.0 * steps
    assert [entry["step"] for entry in found["validations"]] == [steps // 2, steps]


def spin(seconds: float) -> None:
    while time.process_time() < seconds:
        pass


def test_living_and_ended_children_count() -> None:
    context, before = multiprocessing.get_context("fork"), processor_seconds()
    child = context.Process(target=spin, args=(time.process_time() + 1e6,), daemon=True)
    child.start()
    end = time.time() + 60
    while processor_seconds() - before < 0.3 and time.time() < end:
        time.sleep(0.05)
    living = processor_seconds() - before
    child.kill()
    child.join()
    assert living >= 0.3 and processor_seconds() - before >= living - 0.02
