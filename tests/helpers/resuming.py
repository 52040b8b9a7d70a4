"""Small runs that are interrupted: their command, what they went through, and what they ended with."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from data_modules.scenes.writer import Size
from tests.helpers.paths import CONFIGS

SIZE = Size(train_references=6, references=2, shared_references=2)  # 6 batches of 8
EPOCHS = ["--trainer.max_steps=-1", "--trainer.val_check_interval=1.0", "--trainer.check_val_every_n_epoch=1"]


CROP = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.RandomResizedCrop(32, scale=(0.5, 1.0))])


def random_crop(image: Image.Image) -> Tensor:
    """A ``preprocess`` that draws random numbers of torch, wherever it runs."""
    return CROP(image)


class Trace(Callback):
    """Writes every hook that training goes through to ``trace.jsonl``, and draws a random number in each step."""

    def __init__(self, file: str) -> None:
        self.file = file

    def note(self, trainer: Trainer, event: str, *details: Any) -> None:
        if trainer.is_global_zero:
            logged = trainer.fit_loop.epoch_loop._batches_that_stepped
            entry = [event, trainer.current_epoch, trainer.global_step, logged, *details]
            with open(self.file, "a") as file:
                file.write(json.dumps(entry) + "\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        drawn = torch.rand(()).item()
        loss = outputs["loss"].item()
        pixels = batch.query.reference.double().sum().item()
        self.note(trainer, "batch", batch_idx, batch.query.index.tolist(), rate, drawn, loss, pixels)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer, "epoch end")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        figure = trainer.callback_metrics["val_recall_at_5"].item()
        self.note(trainer, "validated", figure)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer, "end")


def write_overlay(path: Path, trace: Path, points: dict[str, Any], extra: Sequence[Any] = ()) -> str:
    """Write a config with the callbacks of these runs; returns the flag that names it."""
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())["trainer"]["callbacks"]
    kept = ("StepSeeds", "StopWhenNotFinite", "RecallTable", "ModelCheckpoint", "ResumePoints")
    listed = [entry for entry in base if entry["class_path"] in kept]
    listed[-1]["init_args"] |= points
    listed += [*extra, {"class_path": "tests.helpers.resuming.Trace", "init_args": {"file": str(trace)}}]
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": listed}}))
    return f"--config={path}"


def command(clip: Path, scenes: Path, overlay: str, *flags: str) -> list[str]:
    """Return the arguments of a small deterministic fit."""
    whole = ["--model.backbone.trainable_image_blocks=null", "--model.backbone.trainable_text_blocks=null"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return [
        "fit",
        f"--config={CONFIGS / 'base.yaml'}",
        f"--config={CONFIGS / 'scenes.yaml'}",
        overlay,
        f"--model.backbone.model=local-dir:{clip}",
        "--model.backbone.pretrained=null",
        *whole,
        *quiet,
        f"--data.root={scenes}",
        *(f"--data.size.{name}={value}" for name, value in vars(SIZE).items()),
        "--data.num_workers=0",
        "--data.batch_size=8",
        "--data.eval_batch_size=16",
        "--trainer.precision=32-true",
        "--trainer.accelerator=cpu",
        "--trainer.deterministic=true",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.log_every_n_steps=1",
        "--trainer.logger=false",
        *flags,
    ]


def read_trace(file: Path) -> list[list[Any]]:
    """Return what a run went through."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def outcome(folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return the last checkpoint of a run, its figures, and which checkpoints it left."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    left = sorted(file.name for file in (folder / "checkpoints").iterdir())
    return state, json.loads((folder / "metrics.json").read_text()), left


def assert_equal(found: Any, expected: Any, place: str = "") -> None:
    """Compare nested values, tensors bit for bit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected.keys() - {"current_score"}:  # of ModelCheckpoint, which neither restores nor reads it
            assert_equal(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for index, value in enumerate(expected):
            assert_equal(found[index], value, f"{place}[{index}]")
    elif isinstance(expected, Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), place
    else:
        assert found == expected, f"{place}: {found} instead of {expected}"


def back_to(folder: Path, aside: Path, step: int) -> None:
    """Make a run's folder what it was at a step: without later checkpoints to resume, and without figures."""
    shutil.rmtree(folder)
    shutil.copytree(aside, folder, symlinks=True)
    for file in (folder / "checkpoints").glob("resume-step=*.ckpt"):
        if int(file.stem.partition("=")[2]) > step:
            file.unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    (folder / "metrics.json").unlink()
