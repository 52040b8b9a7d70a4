"""Training from files: does the GPU wait for its images, with a cache of pixels and without?"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import DataLoader

from contextcir.batch import TripletBatch
from data_modules.benchmarks import Manifest
from data_modules.loading.sampling import Shuffled
from experiments.benchmarks.gpu.card import Card
from experiments.benchmarks.gpu.report import Budget, Report
from experiments.benchmarks.gpu.steps import Bench, Sizes
from experiments.benchmarks.loading import write_photos

COLUMNS = ["images", "batch", "processes", "triplets/s", "share of time in data"]
WAYS = ("decoded each time", "kept pixels")


def batches(loader: DataLoader) -> Iterator[TripletBatch]:
    """Yield batches, one epoch after the other."""
    while True:
        yield from loader


def measure_loaders(
    card: Card, name: str, batch: int, images: int, report: Report, budget: Budget, least: int = 8
) -> None:
    """Train on JPEGs, first decoded and then from kept pixels, each for a third of the time and ``least`` steps."""
    workers = max(0, min(14, (os.cpu_count() or 1) - 1)) if card.on_gpu else 0
    bench = Bench(card, name, batch, Sizes(low_precision=card.on_gpu))
    bench.model.concept = None  # these triplets have no phrases
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_photos(folder, images, 4 * batch)
        for way in WAYS:
            cache = str(folder / "kept") if way == WAYS[1] else None
            options = {"batch_size": batch, "num_workers": workers, "order": Shuffled(0), "val_splits": ()}
            data = Manifest(folder, preprocess=bench.model.backbone.preprocess, cache=cache, **options)
            data.setup("fit")
            source = batches(data.train_dataloader())
            for _ in range(4 if cache else 1):  # an epoch, so that all pixels are kept
                bench.batch = next(source)
                bench.step()
            card.wait()
            start, waited, steps, limit = time.perf_counter(), 0.0, 0, budget.left / 3
            while steps < least or time.perf_counter() - start < min(limit, 15.0 if card.on_gpu else 0.0):
                asked = time.perf_counter()
                bench.batch = next(source)
                waited += time.perf_counter() - asked
                bench.step()
                steps += 1
                if budget.left < 0:
                    break
            card.wait()
            spent = time.perf_counter() - start
            report.row(way, str(batch), str(workers), f"{batch * steps / spent:,.0f}", f"{waited / spent:.0%}")
            del source
            torch.manual_seed(0)
