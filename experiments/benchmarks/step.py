"""Measure the cost of the Text-CC loss in a training step: operations, time and memory, relative to lambda = 0.

python -m experiments.benchmarks.step --model ViT-B-32 --batch 8 --markdown step.md
python -m experiments.benchmarks.step --model ViT-H-14 --batch 2 --repeats 0    # counts only, in seconds
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from contextcir.losses.text_cc import ConceptLoss, TextConceptConsistency
from experiments.benchmarks.flops import count_flops
from experiments.benchmarks.measure import choose_device, in_a_fork, measured_on, require_at_least
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
from experiments.command import command, publish, table
from experiments.outputs import output_file


@dataclass
class Measured:
    """The cost of a variant's step.

    Args:
        flops: Floating-point operations, forward and backward.
        memory: Peak in MiB; 0 where it was not measured.
        seconds: Time of each step, with the optimizer.
        paired: For each step, the mean of the baseline steps right before and after; empty for the baseline.
    """

    flops: int
    memory: float = 0.0
    seconds: list[Seconds] = field(default_factory=list)
    paired: list[Seconds] = field(default_factory=list)

    def ratios(self, kind: Literal["clock", "cpu"]) -> list[float]:
        """Return the time of each step relative to the baseline steps around it."""
        return [getattr(a, kind) / getattr(b, kind) for a, b in zip(self.seconds, self.paired, strict=False)]


def measure(
    setting: Setting, variants: Mapping[str, Recipe], device: torch.device, threads: int, repeats: int
) -> dict[str, Measured]:
    """Measure each variant; with 0 repeats only count its operations, for which nothing is computed.

    The caller must not have used more than one thread.
    """
    on_gpu = device.type == "cuda"
    memory = dict.fromkeys(variants, 0.0)
    if repeats and not on_gpu:  # first, as a process starts with the memory of the one that it is forked from
        memory = {name: in_a_fork(train, (setting, {name: variants[name]}), threads)[2] for name in variants}
    results = {name: Measured(flops, memory[name]) for name, flops in operations(setting, variants).items()}
    if repeats:
        torch.set_num_threads(threads)
        work = build(setting, variants, device)
        for name in variants:
            work.step(name)  # the first step allocates memory, and starts threads
        for name in variants if on_gpu else ():
            torch.cuda.reset_peak_memory_stats()
            work.step(name)
            results[name].memory = torch.cuda.max_memory_allocated() / 2**20
        take_times(work, results, repeats)
    return results


def train(setting: Setting, variants: Mapping[str, Recipe]) -> None:
    """Build a variant, and train it until its memory no longer grows."""
    work = build(setting, variants, torch.device("cpu"))
    for _ in range(2):
        for name in variants:
            work.step(name)


def operations(setting: Setting, variants: Mapping[str, Recipe]) -> dict[str, int]:
    """Return the floating-point operations of each variant, counted on the CPU without executing them."""
    work = build(setting, variants, torch.device("cpu"), weights=False)
    return {
        name: count_flops(lambda name=name: work.loss(name), [p for p in variant.parameters() if p.requires_grad])
        for name, variant in work.variants.items()
    }


def take_times(work: Workload, results: Mapping[str, Measured], repeats: int) -> None:
    """Interleave each variant with baseline steps, so that background load affects both equally."""
    for _ in range(repeats):
        before = work.step(BASELINE)
        results[BASELINE].seconds.append(before)
        for name in results:
            if name != BASELINE:
                results[name].seconds.append(work.step(name))
                after = work.step(BASELINE)
                results[name].paired.append(Seconds(*((a + b) / 2 for a, b in zip(before, after, strict=True))))
                results[BASELINE].seconds.append(after)
                before = after


def as_markdown(setting: Setting, results: Mapping[str, Measured], device: torch.device, threads: int) -> str:
    """Return the results as a table with what they were measured on."""
    kinds = ("clock",) if device.type == "cuda" else ("clock", "cpu")
    header = ["step", "GFLOP", "of lambda = 0", "seconds, median"]
    header += [f"of lambda = 0, by {kind} (quartiles)" for kind in kinds]
    rows = [
        [
            name,
            f"{row.flops / 1e9:,.1f}",
            f"{row.flops / results[BASELINE].flops:.3f}",
            f"{statistics.median(seconds.clock for seconds in row.seconds):.3f}" if row.seconds else "",
            *(spread(row.ratios(kind)) for kind in kinds),
            f"{row.memory:,.0f}" if row.memory else "",
        ]
        for name, row in results.items()
    ]
    text = (
        f"**{setting.model}**, batch {setting.batch}, {setting.phrases} phrases per caption, "
        f"{'float32' if setting.precision == '32' else 'bf16-mixed'}; {measured_on(device, threads)}\n\n"
        f"{table([*header, 'peak MiB'], rows)}"
    )
    ours, published = results.get(name_of(TextConceptConsistency())), results[PUBLISHED]
    if ours:
        text += f"\nThe {PUBLISHED}, over ours: {published.flops / ours.flops:.2f} times the operations"
        for kind in kinds if ours.paired else ():
            ratios = [a / b for a, b in zip(published.ratios(kind), ours.ratios(kind), strict=True)]
            text += f", {spread(ratios)} times as long by {kind}"
        text += ".\n"
    return text


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

    Peak memory is torch's count on a GPU, and on a CPU that of a process of its own, without Python and torch. Every
    step of a variant is compared with the baseline steps (lambda = 0) right before and after; "cpu" is CPU time, which
    background load hardly affects.

    Args:
        model: open_clip model; its weights are random.
        batch: Triplets of a step.
        phrases: Noun phrases of each caption.
        losses: Text-CC losses, as class paths with their settings; by default the published one.
        fusion: Another fusion to measure besides cross-attention: without a loss, and with each.
        precision: 32, or bf16 for mixed precision.
        repeats: Measurements of each variant; 0 only counts operations, which is possible for any model.
        threads: CPU threads.
        device: The GPU where there is one, by default.
        markdown: File for the table.
    """
    output_file(markdown, "markdown")
    require_at_least(1, batch=batch, phrases=phrases, threads=threads)
    require_at_least(0, repeats=repeats)
    torch.set_num_threads(1)
    place = choose_device(device)
    setting = Setting(model, batch, phrases, precision)
    results = measure(setting, recipes(losses or [TextConceptConsistency()], fusion), place, threads, repeats)
    publish(as_markdown(setting, results, place, threads), markdown)


if __name__ == "__main__":
    command(step)
