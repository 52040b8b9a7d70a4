"""Measure peak memory and time of a step with a large batch: all rows at once against gradient caching.

python -m experiments.benchmarks.memory --markdown memory.md
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from contextcir.batch import TripletBatch
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.losses.contrastive import InfoNCE
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine
from experiments.benchmarks.measure import choose_device, measured_on, peak_memory, require_at_least
from experiments.benchmarks.workload import random_triplets
from experiments.command import command, publish, table
from experiments.outputs import output_file

WARM_UP = 8  # steps
PLAIN, CACHED = "all rows at once", "gradient cache"


class Setting(NamedTuple):
    """The model, triplets per chunk, rows of logits at a time, CPU threads, seed of weights and batch, device."""

    model: str
    chunk: int
    rows: int
    threads: int
    seed: int
    device: str


class Measured(NamedTuple):
    """Peak memory of a step in MiB, without torch and the input pixels, and seconds per triplet (see `step`)."""

    memory: float
    seconds: float


def train(setting: Setting, way: str, batch: int) -> Measured:
    """Warm up with steps of one chunk, then measure a step of the batch; to be called in a process of its own.

    The warm-up allocates weights, gradients and the optimizer's state, and meets texts of all lengths: only then does
    the memory that a CPU's allocator holds stop growing, whatever the batch.
    """
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    device = torch.device(setting.device)
    before = peak_memory()
    backbone = OpenCLIPBackbone(setting.model, "random")
    cached = way == CACHED
    contrastive = InfoNCE(0.03, setting.rows if cached else None)
    encoding = GradientCache(setting.chunk) if cached else WholeBatch()
    model = ContextCIR(backbone, contrastive=contrastive, concept=TextConceptConsistency(), encoding=encoding)
    model = model.to(device)
    optimizer, _ = AdamWWarmupCosine()(backbone, [model.fusion], total_steps=1000)
    triplets = random_triplets(batch, 4, backbone.image_size, setting.seed)
    pixels = 2 * triplets.target.numel() * triplets.target.element_size() / 2**20
    for number in range(WARM_UP):
        step(model, optimizer, random_triplets(setting.chunk, 4, backbone.image_size, setting.seed + number), device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = step(model, optimizer, triplets, device)
    if device.type == "cuda":
        # Without gradient caching, the images of all rows are on the GPU.
        return Measured(torch.cuda.max_memory_allocated() / 2**20 - (0 if cached else pixels), seconds / batch)
    return Measured(peak_memory() - before - pixels, seconds / batch)


def step(model: ContextCIR, optimizer: torch.optim.Optimizer, batch: TripletBatch, device: torch.device) -> float:
    """Move a batch to the device, train on it, and return the seconds: on a CPU those of CPU time.

    Background load hardly affects CPU time.
    """
    wait, clock = (torch.cuda.synchronize, time.perf_counter) if device.type == "cuda" else (int, time.process_time)
    wait()
    start = clock()
    optimizer.zero_grad()
    loss: Tensor = model.losses(model.encoding.move(batch, device))["loss"]
    loss.backward()
    optimizer.step()
    wait()
    return clock() - start


def measure(setting: Setting, batches: Sequence[int], limit: float) -> dict[str, dict[int, Measured]]:
    """Measure each batch both ways; all rows at once only where they are expected to fit into ``limit`` MiB.

    The expectation is proportional to the memory of the batch before.
    """
    results: dict[str, dict[int, Measured]] = {PLAIN: {}, CACHED: {}}
    expected = 0.0
    for batch in sorted(batches):
        for way in results:
            if way == PLAIN and expected * batch > limit:
                continue
            with ProcessPoolExecutor(1, get_context("spawn" if setting.device == "cuda" else "fork")) as process:
                results[way][batch] = process.submit(train, setting, way, batch).result()
            print(f"{way}, batch {batch}: {results[way][batch]}", file=sys.stderr, flush=True)
            if way == PLAIN:
                expected = results[way][batch].memory / batch
    return results


def as_markdown(setting: Setting, results: dict[str, dict[int, Measured]], pixels: float) -> str:
    """Return the results as a table with what they were measured on; ``pixels``: MiB of a triplet's images."""
    plain, cached = results[PLAIN], results[CACHED]
    low, high = (limit(row.memory for row in cached.values()) for limit in (min, max))
    unit = "ms" if setting.device == "cuda" else "CPU ms"
    header = ["batch", "input pixels, MiB", f"{PLAIN}: peak MiB", f"{CACHED}: peak MiB"]
    header += [f"{way}: {unit} per triplet" for way in (PLAIN, CACHED)]
    rows = []
    for batch, row in cached.items():
        rows.append(
            [f"{batch:,}", f"{batch * pixels:,.0f}", "-", f"{row.memory:,.0f}", "-", f"{1000 * row.seconds:.1f}"]
        )
        if batch in plain:
            rows[-1][2::2] = f"{plain[batch].memory:,.0f}", f"{1000 * plain[batch].seconds:.1f}"
    return (
        f"**{setting.model}**, both towers trained, Text-CC with 4 phrases per caption, float32, seed {setting.seed}; "
        f"chunks of {setting.chunk} triplets, logits {setting.rows} rows at a time; "
        f"{measured_on(torch.device(setting.device), setting.threads)}\n\n{table(header, rows, left=0)}\n"
        f"Peak of the gradient cache: {low:,.0f} to {high:,.0f} MiB, {100 * (high / low - 1):.1f} % apart.\n"
    )


def memory(
    batches: list[int] = [64, 256, 1024, 4096],  # noqa: B006
    model: str = "scenes-vit",
    chunk: int = 32,
    rows: int = 64,
    limit: float = 8192,
    threads: int = 1,
    seed: int = 0,
    device: Literal["cpu", "cuda"] | None = None,
    markdown: Path | None = None,
) -> None:
    """Measure a training step with growing batches, each in a process of its own.

    Peak memory is torch's count on a GPU, and on a CPU the peak resident memory without Python, torch and the input
    pixels; it includes weights, gradients and the optimizer's state.

    Args:
        batches: Triplets of a step.
        model: open_clip model; its image tower is trained as well.
        chunk: Triplets that the gradient cache encodes at a time.
        rows: Rows of logits at a time, with the gradient cache.
        limit: Memory in MiB; larger batches are not measured with all rows at once.
        threads: CPU threads.
        seed: Seed of the fusion's weights and of the batch.
        device: The GPU where there is one, by default.
        markdown: File for the table.
    """
    output_file(markdown, "markdown")
    require_at_least(1, batches=batches, chunk=chunk, rows=rows, threads=threads)
    torch.set_num_threads(1)  # processes are forked from this one
    setting = Setting(model, chunk, rows, threads, seed, choose_device(device).type)
    side = OpenCLIPBackbone(model, "random").image_size
    publish(as_markdown(setting, measure(setting, batches, limit), 2 * 3 * side**2 * 4 / 2**20), markdown)


if __name__ == "__main__":
    command(memory)
