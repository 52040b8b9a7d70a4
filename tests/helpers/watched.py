"""A short training of a tiny model, for tests of callbacks that watch training."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from contextcir.batch import Phrases, QueryBatch, TripletBatch
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine
from tests.helpers import tiny


def batch(number: int, size: int = 4) -> TripletBatch:
    """Triplets of random images, without phrases."""
    images = torch.randn(2, size, 3, 32, 32, generator=torch.Generator().manual_seed(number))
    phrases = Phrases(torch.zeros(0).long(), torch.zeros(0, 2).long(), torch.zeros(0, 4))
    query = QueryBatch(torch.arange(size), images[0], [f"{number} dogs, {row} cats" for row in range(size)], phrases)
    ids = torch.arange(2 * size) + 2 * size * number
    return TripletBatch(query, images[1], ids[:size], ids[size:])


def model(seed: int = 0) -> ContextCIR:
    """A model in which every part gets a gradient from the first step on."""
    torch.manual_seed(seed)
    fusion = partial(CrossAttentionFusion, layers=1, dropout=0.0)
    built = ContextCIR(tiny.backbone(), fusion, optimizer=AdamWWarmupCosine(warmup_steps=0))
    with torch.no_grad():  # at its zero initialisation, the fusion ignores the text
        for parameter in built.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def train(trained: ContextCIR, folder: Path, *callbacks: Callback, batches: int = 6, **options: object) -> Trainer:
    """Train on so many batches an epoch, on the CPU."""
    settings = {"accelerator": "cpu", "max_steps": 5, "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    trainer = Trainer(**(settings | options), callbacks=list(callbacks))
    torch.manual_seed(1)
    trainer.fit(trained, DataLoader([batch(number) for number in range(batches)], batch_size=None))
    return trainer


class Clock:
    """A clock that only moves where it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class PassTime(Callback):
    """Lets every batch take so many seconds of a clock."""

    def __init__(self, time: Clock, seconds: float) -> None:
        self.time, self.seconds = time, seconds

    def on_train_batch_start(self, *_: Any) -> None:
        self.time.seconds += self.seconds
