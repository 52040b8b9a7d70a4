"""What is logged while a run trains: gradient norms and throughput."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from callbacks.gradients import GradientNorms
from callbacks.throughput import TrainingSpeed
from contextcir.batch import QueryBatch, TripletBatch
from contextcir.training.module import ContextCIR
from tests.helpers.watched import Clock, PassTime, batch, model, train


def logged(folder: Path, trained: ContextCIR, *callbacks: Callback, **options: object) -> dict[int, dict[str, float]]:
    """Train, and return what went to a logger, by step."""
    trainer = train(trained, folder, *callbacks, logger=CSVLogger(folder, name="csv", version=0), **options)
    with (Path(trainer.loggers[0].log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {int(row["step"]): {k: float(v) for k, v in row.items() if v and k not in ("step", "epoch")} for row in rows}


def naive_norms(trained: ContextCIR, given: Any) -> dict[str, float]:
    trained.zero_grad()
    trained.losses(given)["loss"].backward()
    sums = {"": 0.0, "_fusion": 0.0, "_text": 0.0, "_image": 0.0}
    for name, weight in trained.named_parameters():
        if weight.grad is not None:
            square = sum(x * x for x in weight.grad.flatten().tolist())
            part = "_fusion" if name.startswith("fusion") else "_image" if ".visual." in name else "_text"
            sums[part] += square
            sums[""] += square
    trained.zero_grad()
    return {f"train_gradient{part}": math.sqrt(value) for part, value in sums.items()}


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradient_norms_are_those_before_clipping(tmp_path: Path, clip: float | None) -> None:
    expected = naive_norms(model(), batch(0))
    found = logged(tmp_path, model(), GradientNorms(), log_every_n_steps=1, gradient_clip_val=clip)
    assert {k: v for k, v in found[0].items() if "gradient" in k} == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 1e-3


def test_parts_that_do_not_train_have_no_norm(tmp_path: Path) -> None:
    frozen = model()
    frozen.backbone.clip.visual.requires_grad_(False)
    names = {name for name in logged(tmp_path, frozen, GradientNorms(), log_every_n_steps=1)[0] if "gradient" in name}
    assert names == {"train_gradient", "train_gradient_fusion", "train_gradient_text"}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_both_are_logged_every_few_steps(tmp_path: Path, accumulated: int) -> None:
    options = {"log_every_n_steps": 2, "accumulate_grad_batches": accumulated}
    found = logged(tmp_path, model(), GradientNorms(), TrainingSpeed(), **options)
    for name in ("train_gradient", "train_triplets_per_second"):
        assert [step for step, figures in found.items() if name in figures] == [1, 3]
    assert all("train_loss" in figures for figures in found.values())  # in the same rows


def test_the_throughput_is_triplets_over_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clock()
    monkeypatch.setattr("callbacks.progress.Pace.__init__.__defaults__", (50, time))
    found = logged(tmp_path, model(), TrainingSpeed(), PassTime(time, 0.5), log_every_n_steps=2)
    assert [figures["train_triplets_per_second"] for figures in found.values()] == [8.0, 8.0]  # four in half a second


def test_memory_is_told_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        device = torch.device("cuda", 0)

        def log_dict(self, figures: dict[str, float]) -> None:
            self.logged = figures

    class Fit:
        global_step, log_every_n_steps, world_size = 2, 2, 1

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_500_000_000)
    module = Module()
    TrainingSpeed().on_train_batch_end(Fit(), module, None, batch(0), 0)
    assert module.logged["train_gpu_memory_gb"] == 3.5


def joined(first: TripletBatch, second: TripletBatch) -> TripletBatch:
    """One batch of two without phrases."""
    a, b = first.query, second.query
    images = torch.cat([a.reference, b.reference])
    query = QueryBatch(torch.cat([a.index, b.index]), images, a.captions + b.captions, a.phrases)
    return TripletBatch(query, *(torch.cat(parts) for parts in zip(first[1:4], second[1:4], strict=True)))


def test_norms_are_of_the_gradient_of_all_ranks(tmp_path: Path) -> None:
    options = {"batches": 2, "log_every_n_steps": 1, "max_steps": 1, "strategy": "ddp_fork", "devices": 2}
    found = logged(tmp_path, model(), GradientNorms(), TrainingSpeed(), **options)[0]
    expected = naive_norms(model(), joined(batch(0), batch(1)))
    assert {k: v for k, v in found.items() if "gradient" in k} == pytest.approx(expected, rel=1e-4)
