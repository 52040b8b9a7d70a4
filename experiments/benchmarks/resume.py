"""Measure what it costs that a run can be resumed: saving, checking and loading checkpoints, and seeding.

python -m experiments.benchmarks.resume --folder /a/disk --parameters 151000000
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jsonargparse import auto_cli
from lightning.pytorch.plugins.io import TorchCheckpointIO

from callbacks.checkpoint_files import AtomicCheckpoints, damage
from contextcir.files import stable_hash
from data_modules.loading.sampling import preserve_rng_state
from experiments.command import processor

TENSORS = 200  # of a model; checkpoints hold each three times


def seconds(action: Callable[[], object], times: int) -> float:
    """Return the shortest of some runs of an action."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best


def state_of(parameters: int) -> dict:
    """Return what a checkpoint of a model under AdamW holds: every parameter and its two moments."""
    size = parameters // TENSORS
    return {kind: {str(n): torch.randn(size) for n in range(TENSORS)} for kind in ("weights", "mean", "square")}


def seed_a_sample() -> None:
    """Do what a training sample costs more than its loading."""
    torch.default_generator.manual_seed(stable_hash("seed 0, epoch 0, place 0"))


def main(folder: Path = Path("."), parameters: int = 151_000_000, times: int = 3) -> None:
    """Print a table in Markdown.

    Args:
        folder: On the disk to measure; needs room for two checkpoints, of 12 bytes for every parameter.
        parameters: Of the model, all of them trained; ViT-B/32 has 151 million, ViT-L/14 428, ViT-H/14 986.
        times: How often everything is done; the shortest time counts.
    """
    torch.set_num_threads(1)
    state = state_of(parameters)
    with TemporaryDirectory(dir=folder) as place:
        file = Path(place) / "resume-step=1.ckpt"
        save = seconds(lambda: AtomicCheckpoints().save_checkpoint(state, file), times)
        size = os.path.getsize(file)
        rows = [
            ("save it: another name, fsync, rename", save),
            ("save it Lightning's way: memory, temporary folder, move; no fsync", None),
            ("check it at the start of a run", seconds(lambda: damage(file), times)),
            ("load it", seconds(lambda: AtomicCheckpoints().load_checkpoint(file), times)),
        ]
        rows[1] = (rows[1][0], seconds(lambda: TorchCheckpointIO().save_checkpoint(state, file), times))
    print(f"{processor()}; checkpoint of {size / 1e9:.2f} GB ({parameters / 1e6:.0f} million parameters, AdamW)\n")
    print("| | s |\n| --- | ---: |")
    for name, value in rows:
        print(f"| {name} | {value:.2f} |")
    one = seconds(seed_a_sample, 1000)
    with_state = seconds(lambda: preserve_rng_state().__enter__(), 1000)
    print(f"\nseeding: {1e6 * one:.0f} us a sample, {1e6 * with_state:.0f} us a batch to keep the generators")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
