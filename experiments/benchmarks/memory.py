"""Measure what a large batch takes: peak memory and time, all rows at once against gradient caching.

python -m experiments.benchmarks.memory --markdown memory.md
"""

import platform
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
from experiments.benchmarks.ranking import peak_memory
from experiments.benchmarks.workload import random_triplets
from experiments.command import command, processor, publish

WARM_UP = 8  # steps
PLAIN, CACHED = "all rows at once", "gradient cache"


class Setting(NamedTuple):
    """The model, triplets per chunk, rows of logits at a time, threads of a CPU, seed of weights and batch."""

    model: str
    chunk: int
    rows: int
    threads: int
    seed: int
    device: str


class Measured(NamedTuple):
    """A step: peak memory in 2^20 bytes beyond torch and the input pixels, and seconds for a triplet (see `step`)."""

    memory: float
    seconds: float


def train(setting: Setting, way: str, batch: int) -> Measured:
    """Train for some steps of a chunk, then for the one that is meant; to be called in a process of its own.

    With the first steps come weights, gradients and the optimizer's state, and texts of all lengths: only then does the
    memory that a CPU's allocator holds stop growing, whatever the batch.
    """
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    device = torch.device(setting.device)
    before = peak_memory()
    backbone = OpenCLIPBackbone(setting.model)
    cached = way == CACHED
    contrastive = InfoNCE(0.03, setting.rows if cached else None)
    encoding = GradientCache(setting.chunk) if cached else WholeBatch()
    model = ContextCIR(backbone, contrastive=contrastive, concept=TextConceptConsistency(), encoding=encoding)
    model = model.to(device)
    optimizer, _ = AdamWWarmupCosine()(backbone, [model.fusion], total_steps=1000)
    given = random_triplets(batch, 4, backbone.image_size, setting.seed)
    pixels = 2 * given.target.numel() * given.target.element_size() / 2**20
    for number in range(WARM_UP):
        step(model, optimizer, random_triplets(setting.chunk, 4, backbone.image_size, setting.seed + number), device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = step(model, optimizer, given, device)
    if device.type == "cuda":
        # All rows at once have their images on the GPU.
        return Measured(torch.cuda.max_memory_allocated() / 2**20 - (0 if cached else pixels), seconds / batch)
    return Measured(peak_memory() - before - pixels, seconds / batch)


def step(model: ContextCIR, optimizer: torch.optim.Optimizer, batch: TripletBatch, device: torch.device) -> float:
    """Move a batch, train on it, and return the seconds that this took: on a CPU those of processors.

    Other work on the machine hardly changes these.
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
    """Return what each way takes of each batch; all rows at once only as far as the last one says that it fits.

    ``limit``: of its memory, in 2^20 bytes.
    """
    found: dict[str, dict[int, Measured]] = {PLAIN: {}, CACHED: {}}
    expected = 0.0
    for batch in sorted(batches):
        for way in found:
            if way == PLAIN and expected * batch > limit:
                continue
            with ProcessPoolExecutor(1, get_context("spawn" if setting.device == "cuda" else "fork")) as process:
                found[way][batch] = process.submit(train, setting, way, batch).result()
            print(f"{way}, batch {batch}: {found[way][batch]}", file=sys.stderr, flush=True)
            if way == PLAIN:
                expected = found[way][batch].memory / batch
    return found


def as_markdown(setting: Setting, found: dict[str, dict[int, Measured]], pixels: float) -> str:
    """Return the results as a table with what they were measured on; ``pixels``: 2^20 bytes of a triplet's images."""
    plain, cached = found[PLAIN], found[CACHED]
    least, most = (f(row.memory for row in cached.values()) for f in (min, max))
    on_gpu = setting.device == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else f"{processor()}, {setting.threads} thread(s)"
    time_is = "ms" if on_gpu else "CPU ms"
    lines = [
        f"**{setting.model}**, both towers trained, Text-CC with 4 phrases per caption, float32, seed {setting.seed}; "
        f"chunks of {setting.chunk} triplets, logits {setting.rows} rows at a time; {machine}; "
        f"torch {torch.__version__}, Python {platform.python_version()}; {time.strftime('%Y-%m-%d')}",
        "",
        f"| batch | input pixels, MiB | {PLAIN}: peak MiB | {CACHED}: peak MiB | {PLAIN}: {time_is} per triplet | "
        f"{CACHED}: {time_is} per triplet |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for batch, row in cached.items():
        other = plain.get(batch)
        cells = [f"{batch:,}", f"{batch * pixels:,.0f}"]
        cells += [f"{other.memory:,.0f}" if other else "-", f"{row.memory:,.0f}"]
        cells += [f"{1000 * other.seconds:.1f}" if other else "-", f"{1000 * row.seconds:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Peak of the gradient cache: {least:,.0f} to {most:,.0f} MiB, {100 * (most / least - 1):.1f} % apart.",
    ]
    return "\n".join(lines) + "\n"


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

    Peak memory is torch's count on a GPU, and on a CPU the peak resident memory beyond Python, torch and the input
    pixels: weights, gradients and the optimizer's state are in it.

    Args:
        batches: Triplets of a step.
        model: open_clip model; its image tower is trained as well.
        chunk: Triplets that the gradient cache encodes at a time.
        rows: Rows of logits at a time, with the gradient cache.
        limit: All rows at once only as far as they are expected to fit in so many MiB.
        threads: Threads on a CPU.
        seed: Of the fusion's weights and of the batch.
        device: The GPU where there is one, by default.
        markdown: File for the table.
    """
    if not batches or min(*batches, chunk, rows, threads) < 1:
        raise ValueError(
            f"--batches, --chunk, --rows and --threads must be at least 1, got {batches}, {chunk}, {rows} and {threads}"
        )
    torch.set_num_threads(1)  # processes are forked from this one
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    setting = Setting(model, chunk, rows, threads, seed, place)
    side = OpenCLIPBackbone(model).image_size
    text = as_markdown(setting, measure(setting, batches, limit), 2 * 3 * side**2 * 4 / 2**20)
    publish(text, markdown)


def main() -> None:
    """Parse the command line."""
    command(memory)


if __name__ == "__main__":
    main()
