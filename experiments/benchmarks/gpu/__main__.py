"""Measure training and retrieval on one GPU in at most eight minutes, as tables in Markdown.

python -m experiments.benchmarks.gpu --markdown gpu.md
"""

from pathlib import Path
from typing import Literal

import torch

from contextcir.checks import positive
from contextcir.errors import InputError
from experiments.benchmarks.gpu import loaders, retrieval, steps, training
from experiments.benchmarks.gpu.card import Card
from experiments.benchmarks.gpu.report import Budget, Report
from experiments.benchmarks.measure import choose_device, measured_on, require_at_least
from experiments.benchmarks.ranking import Size
from experiments.command import command
from experiments.outputs import output_file

PARTS = ("steps", "loaders", "retrieval", "fit")
SHARES = {"loaders": 0.35, "fit": 0.9}  # of what is left
OF_STEPS = 0.7  # of all time, for all models


def gpu(
    models: list[str] = ["ViT-B-32", "ViT-L-14", "ViT-H-14"],  # noqa: B006
    batches: list[int] = [1024, 256, 128],  # noqa: B006
    cached: int = 4096,
    images: int = 300,
    search: Size = Size(800, 123_403, 14),  # noqa: B008
    width: int = 1024,
    seeds: int = 2,
    fit_steps: int = 200,
    references: int = 400,
    parts: list[str] = list(PARTS),  # noqa: B006
    seconds: float = 460.0,
    teraflops: float | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    markdown: Path | None = None,
) -> None:
    """Measure one part after the other; what does not fit into the time is left out, and the tables say so.

    Args:
        models: open_clip models; their weights are random, all of them are trained.
        batches: Triplets of a step of each model, halved until they fit.
        cached: Triplets of a step with gradient caching.
        images: JPEGs of 800 x 600 pixels that the loaders read, for the first model.
        search: The size of the search that is ranked.
        width: Of its embeddings.
        seeds: Fits on scenes.
        fit_steps: Steps of each.
        references: Training references that are drawn for them.
        parts: What is measured: steps, loaders, retrieval, fit.
        seconds: All of it takes at most about so long.
        teraflops: Dense bfloat16 peak of the card in 10^12 operations a second; by default that of its data sheet.
        device: The GPU where there is one, by default.
        markdown: File for the tables, written with every row.
    """
    output_file(markdown, "markdown")
    counts = {"batches": batches, "cached": cached, "images": images, "width": width}
    require_at_least(1, **counts, seeds=seeds, fit_steps=fit_steps, references=references)
    positive(seconds, "seconds")
    if teraflops is not None:
        positive(teraflops, "teraflops")
    if len(batches) != len(models):
        raise InputError(f"expected one of each model, got {len(batches)} of {len(models)}", setting="batches")
    if wrong := [part for part in parts if part not in PARTS]:
        raise InputError(f"expected some of {', '.join(PARTS)}, got {wrong[0]!r}", setting="parts")
    budget, card = Budget(seconds), Card(choose_device(device), teraflops)
    report = Report(head(card), markdown)
    sizes = steps.Sizes(cached=cached, low_precision=card.on_gpu)
    if "steps" in parts:
        report.section("Training steps", steps.COLUMNS)
        of_steps = budget.part(OF_STEPS)
        for place, (name, batch) in enumerate(zip(models, batches, strict=True)):
            steps.measure_model(card, name, batch, sizes, report, of_steps.part(1 / (len(models) - place)))
            card.empty()
    if "loaders" in parts:
        report.section(f"Images from files, {models[0]}", loaders.COLUMNS)
        batch = max(1, min(batches[0], 256))
        loaders.measure_loaders(card, models[0], batch, images, report, budget.part(SHARES["loaders"]))
        card.empty()
    if "retrieval" in parts:
        report.section(f"{search.queries:,} queries in {search.gallery:,} x {width:,}", retrieval.COLUMNS)
        retrieval.measure_retrieval(card, search, width, report)
        card.empty()
    if "fit" in parts:
        report.section("A short fit on scenes", training.COLUMNS)
        training.measure_fit(card, seeds, fit_steps, references, report, budget.part(SHARES["fit"]))
    report.note(f"{seconds - budget.left:.0f} of {seconds:.0f} s.")


def head(card: Card) -> str:
    """Return what is measured, and on what."""
    peak = "not known" if card.teraflops is None else f"{card.teraflops:g} x 10^12 operations a second, bfloat16, dense"
    precision = "bf16-mixed" if card.on_gpu else "float32"
    return (
        f"# One device: {measured_on(card.device, torch.get_num_threads())}\n\nPeak: {peak}. Precision: {precision}. "
        "Random weights, all of them trained; pixels as bytes in pinned memory, copied in each step. MFU: operations "
        "of a step, counted, without those that checkpointing and caching repeat, over its time and the peak. waits: "
        "how often the host waits for the device in a step. Shares are of one step, forward and backward; its isolated "
        "phrases are a part of the loss."
    )


if __name__ == "__main__":
    command(gpu)
