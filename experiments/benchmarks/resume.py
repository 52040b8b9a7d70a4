"""Measure the cost of resumable runs: saving, checking and loading checkpoints, and seeding every sample.

python -m experiments.benchmarks.resume --folder /a/disk --parameters 151000000
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from callbacks.checkpoint_files import AtomicCheckpoints, damage
from contextcir.files import stable_hash
from data_modules.loading.sampling import preserve_rng_state
from experiments.command import command, processor, table
from experiments.outputs import output_folder, scratch

TENSORS = 200  # parameter tensors of a model; a checkpoint holds each three times


def seconds(action: Callable[[], object], times: int) -> float:
    """Return the shortest time of several repetitions of an action."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best


def state_of(parameters: int) -> dict:
    """Return the content of a checkpoint of a model trained by AdamW: every parameter and its two moments."""
    size = parameters // TENSORS
    return {kind: {str(n): torch.randn(size) for n in range(TENSORS)} for kind in ("weights", "mean", "square")}


def seed_a_sample() -> None:
    """Seed the generator as for a training sample."""
    torch.default_generator.manual_seed(stable_hash("seed 0, epoch 0, place 0"))


def resume(folder: Path = Path("."), parameters: int = 151_000_000, times: int = 3) -> None:
    """Print a table in Markdown.

    Args:
        folder: Folder on the disk to measure, with room for two checkpoints of 12 bytes per parameter.
        parameters: Number of trained parameters; ViT-B/32 has 151 million, ViT-L/14 428, ViT-H/14 986.
        times: Repetitions; the shortest time counts.
    """
    output_folder(folder, "folder")
    torch.set_num_threads(1)
    state = state_of(parameters)
    with scratch(folder) as place:
        file = Path(place) / "resume-step=1.ckpt"
        save = seconds(lambda: AtomicCheckpoints().save_checkpoint(state, file), times)
        size = os.path.getsize(file)
        check = seconds(lambda: damage(file), times)
        load = seconds(lambda: AtomicCheckpoints().load_checkpoint(file), times)
        lightning = seconds(lambda: TorchCheckpointIO().save_checkpoint(state, file), times)
    rows = [
        ("save it: another name, fsync, rename", save),
        ("save it Lightning's way: memory, temporary folder, move; no fsync", lightning),
        ("check it at the start of a run", check),
        ("load it", load),
    ]
    print(f"{processor()}; checkpoint of {size / 1e9:.2f} GB ({parameters / 1e6:.0f} million parameters, AdamW)\n")
    print(table(["", "s"], [(name, f"{value:.2f}") for name, value in rows]))
    one = seconds(seed_a_sample, 1000)
    with_state = seconds(lambda: preserve_rng_state().__enter__(), 1000)
    print(f"seeding: {1e6 * one:.0f} us a sample, {1e6 * with_state:.0f} us a batch to keep the generators")


if __name__ == "__main__":
    command(resume)
