"""Measure what the Text-CC loss costs a training step: operations, time and memory, against lambda = 0.

python -m experiments.benchmarks.step --model ViT-B-32 --batch 8 --markdown step.md
python -m experiments.benchmarks.step --model ViT-H-14 --batch 2 --repeats 0    # counts only, in seconds
"""

import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from contextcir.losses.text_cc import ConceptLoss, TextConceptConsistency
from experiments.benchmarks.flops import count_flops
from experiments.benchmarks.ranking import in_a_fork
from experiments.benchmarks.workload import (
    BASELINE,
    PUBLISHED,
    FusionClass,
    Recipe,
    Seconds,
    Setting,
    Workload,
    build,
    name_of,
    recipes,
)
from experiments.command import command, processor, publish


@dataclass
class Measured:
    """What a step of a variant takes.

    Args:
        flops: Floating-point operations, forward and backward.
        memory: Peak, in 2^20 bytes; 0 where it was not measured.
        seconds: Each time, with the optimizer.
        paired: For each time, the mean of lambda = 0 right before and right after; none for lambda = 0 itself.
    """

    flops: int
    memory: float = 0.0
    seconds: list[Seconds] = field(default_factory=list)
    paired: list[Seconds] = field(default_factory=list)

    def ratios(self, kind: Literal["clock", "cpu"]) -> list[float]:
        """Return each time over that of lambda = 0 around it."""
        return [getattr(a, kind) / getattr(b, kind) for a, b in zip(self.seconds, self.paired, strict=False)]


def measure(
    setting: Setting, wanted: Mapping[str, Recipe], device: torch.device, threads: int, repeats: int
) -> dict[str, Measured]:
    """Return what each variant takes; with 0 repeats its operations only, for which nothing is computed.

    The caller must not have used more than one thread.
    """
    on_gpu = device.type == "cuda"
    memory = dict.fromkeys(wanted, 0.0)
    if repeats and not on_gpu:  # first, as a process begins with the memory of the one that it is forked from
        memory = {name: in_a_fork(train, (setting, {name: wanted[name]}), threads)[2] for name in wanted}
    found = {name: Measured(flops, memory[name]) for name, flops in operations(setting, wanted).items()}
    if repeats:
        torch.set_num_threads(threads)
        work = build(setting, wanted, device)
        for name in wanted:
            work.step(name)  # the first one allocates, and starts threads
        for name in wanted if on_gpu else ():
            torch.cuda.reset_peak_memory_stats()
            work.step(name)
            found[name].memory = torch.cuda.max_memory_allocated() / 2**20
        take_times(work, found, repeats)
    return found


def train(setting: Setting, wanted: Mapping[str, Recipe]) -> None:
    """Build a variant, and train it for as long as its memory grows."""
    work = build(setting, wanted, torch.device("cpu"))
    for _ in range(2):
        for name in wanted:
            work.step(name)


def operations(setting: Setting, wanted: Mapping[str, Recipe]) -> dict[str, int]:
    """Return the floating-point operations of each variant, counted on the CPU without doing them."""
    work = build(setting, wanted, torch.device("cpu"), weights=False)
    return {
        name: count_flops(lambda name=name: work.loss(name), [p for p in variant.parameters() if p.requires_grad])
        for name, variant in work.variants.items()
    }


def take_times(work: Workload, found: Mapping[str, Measured], repeats: int) -> None:
    """Run every variant between two steps of lambda = 0, so that what else the machine does meets both alike."""
    for _ in range(repeats):
        before = work.step(BASELINE)
        found[BASELINE].seconds.append(before)
        for name in found:
            if name != BASELINE:
                found[name].seconds.append(work.step(name))
                after = work.step(BASELINE)
                found[name].paired.append(Seconds(*((a + b) / 2 for a, b in zip(before, after, strict=True))))
                found[BASELINE].seconds.append(after)
                before = after


def as_markdown(setting: Setting, found: Mapping[str, Measured], device: torch.device, threads: int) -> str:
    """Return the results as a table with what they were measured on."""
    kinds = ("clock",) if device.type == "cuda" else ("clock", "cpu")
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{processor()}, {threads} thread(s)"
    heads = ["step", "GFLOP", "of lambda = 0", "seconds, median"]
    heads += [f"of lambda = 0, by {kind} (quartiles)" for kind in kinds]
    lines = [
        f"**{setting.model}**, batch {setting.batch}, {setting.phrases} phrases per caption, "
        f"{'float32' if setting.precision == '32' else 'bf16-mixed'}; {machine}; torch {torch.__version__}, "
        f"Python {platform.python_version()}; {time.strftime('%Y-%m-%d')}",
        "",
        f"| {' | '.join([*heads, 'peak MiB'])} |",
        f"|---{'|---:' * len(heads)}|",
    ]
    for name, row in found.items():
        cells = [name, f"{row.flops / 1e9:,.1f}", f"{row.flops / found[BASELINE].flops:.3f}"]
        cells.append(f"{statistics.median(time.clock for time in row.seconds):.3f}" if row.seconds else "")
        cells += [spread(row.ratios(kind)) for kind in kinds]
        lines.append(f"| {' | '.join([*cells, f'{row.memory:,.0f}' if row.memory else ''])} |")
    ours, published = found.get(name_of(TextConceptConsistency())), found[PUBLISHED]
    if ours:
        line = f"The {PUBLISHED}, over ours: {published.flops / ours.flops:.2f} times the operations"
        for kind in kinds if ours.paired else ():
            ratios = [a / b for a, b in zip(published.ratios(kind), ours.ratios(kind), strict=True)]
            line += f", {spread(ratios)} times as long by {kind}"
        lines += ["", f"{line}."]
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Return the median, with quartiles where there are several values."""
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def step(
    model: str = "ViT-B-32",
    batch: int = 8,
    phrases: int = 4,
    losses: list[ConceptLoss] | None = None,
    fusion: FusionClass | None = None,
    precision: Literal["32", "bf16"] = "32",
    repeats: int = 7,
    threads: int = 1,
    device: Literal["cpu", "cuda"] | None = None,
    markdown: Path | None = None,
) -> None:
    """Measure a training step (forward, backward, optimizer) without the Text-CC loss, and with each.

    Peak memory is torch's count on a GPU, and on a CPU that of a process of its own, beyond Python and torch. Every
    step of a variant is compared with lambda = 0 right before and after; "cpu" is the time of processors, which other
    work on the machine hardly changes.

    Args:
        model: open_clip model; its weights are random.
        batch: Triplets of a step.
        phrases: Noun phrases of each caption.
        losses: Text-CC losses, as class paths with their settings; by default the published one.
        fusion: Another fusion than cross-attention, to be measured too: without a loss, and with each.
        precision: bf16: forward passes in bfloat16, as mixed precision has it.
        repeats: Measurements of each variant; 0 only counts operations, which is possible for any model.
        threads: Threads on a CPU.
        device: The GPU where there is one, by default.
        markdown: File for the table.
    """
    if min(batch, phrases, threads) < 1 or repeats < 0:
        raise ValueError(
            "--batch, --phrases and --threads must be at least 1, and --repeats at least 0, "
            f"got {batch}, {phrases}, {threads} and {repeats}"
        )
    torch.set_num_threads(1)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    setting = Setting(model, batch, phrases, precision)
    found = measure(setting, recipes(losses or [TextConceptConsistency()], fusion), place, threads, repeats)
    text = as_markdown(setting, found, place, threads)
    publish(text, markdown)


def main() -> None:
    """Parse the command line."""
    command(step)


if __name__ == "__main__":
    main()
