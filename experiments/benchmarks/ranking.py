"""Measure time and memory of scoring: this project's, a bare matrix product with top-k, and two full sorts.

python -m experiments.benchmarks.ranking --threads 2 --repeats 3 --json ranking.json
"""

import math
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.metrics import AveragePrecisionAt, RecallAt
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.ranking import pad_rows
from contextcir.files import write_json
from experiments.benchmarks.measure import in_a_fork, require_at_least
from experiments.command import command, processor
from experiments.outputs import output_file

ELEMENTS = 2**25  # scores that are there at a time: that of `ranking.score_chunks`, for all variants
CUTOFFS = (1, 5, 10, 50)  # of recall
BATCH = 256  # rows that an evaluation feeds at a time


@dataclass
class Size:
    """The size of a benchmark.

    Args:
        queries: Number of queries.
        gallery: Number of gallery images.
        targets: Largest number of targets of a query.
    """

    queries: int
    gallery: int
    targets: int = 1


@dataclass
class Measured:
    """Time and memory of a variant.

    Args:
        seconds: Wall-clock time, median over the repeats.
        cpu_seconds: CPU time of all threads, median over the repeats; background load hardly affects it.
        extra_mb: Peak memory in addition to the features, over all repeats, in MiB.
    """

    seconds: float
    cpu_seconds: float
    extra_mb: float


def make_protocol(size: Size) -> Protocol:
    """Return a protocol with random targets; most queries have few, as in CIRCO with 14 at most and 4.2 on average."""
    generator = random.Random(0)  # noqa: S311  (draws of an experiment, no secret)
    counts = [min(size.targets, 1 + int(generator.expovariate(4 / size.targets))) for _ in range(size.queries)]
    return Protocol(
        benchmark="random",
        split="val",
        gallery=tuple(map(str, range(size.gallery))),
        query_ids=tuple(range(size.queries)),
        targets=tuple(tuple(generator.sample(range(size.gallery), count)) for count in counts),
        references=(-1,) * size.queries,
        exclude_reference=False,
        metrics=(*RecallAt.at(*CUTOFFS), *(AveragePrecisionAt.at(5, 10, 25, 50) if size.targets > 1 else ())),
    )


def ours(protocol: Protocol, queries: Tensor, gallery: Tensor) -> None:
    """Score as an evaluation does once everything is encoded."""
    metric = CompositionMetric(protocol)
    for start in range(0, len(gallery), BATCH):
        part = gallery[start : start + BATCH]
        metric.update_gallery(torch.arange(start, start + len(part)), part)
    for start in range(0, len(queries), BATCH):
        part = queries[start : start + BATCH]
        metric.update_queries(torch.arange(start, start + len(part)), part)
    metric.compute()


def bare(protocol: Protocol, queries: Tensor, gallery: Tensor) -> None:
    """Compute the product in float32 and the first 50 images, without norms, protocol or metrics: a lower bound."""
    columns = gallery.float().T
    for piece in queries.float().tensor_split(chunks(queries, gallery)):
        (piece @ columns).topk(min(50, len(gallery)))


def full_sort(protocol: Protocol, queries: Tensor, gallery: Tensor) -> None:
    """Sort all images of every query, and find targets among the first 50.

    In chunks, which favours this variant: all of LaSCo at once would take 14 GB.
    """
    for order, wanted in sorted_pieces(protocol, queries, gallery):
        first = order[:, : max(CUTOFFS)]
        hits = (first[:, :, None] == wanted[:, None, :]).any(2)  # (rows, 50)
        [hits[:, :k].any(1).float().mean() for k in CUTOFFS]


def full_sort_of_names(protocol: Protocol, queries: Tensor, gallery: Tensor) -> None:
    """Sort all image names of every query, and compare them with those of its targets, as much published code does."""
    names = np.array(protocol.gallery)
    for order, wanted in sorted_pieces(protocol, queries, gallery):
        in_order = names[order.numpy()]  # (rows, G)
        labels = np.zeros(in_order.shape, bool)
        for answers in wanted.unbind(1):
            labels |= in_order == np.where(answers < 0, "", names[answers.numpy()])[:, None]
        [labels[:, :k].any(1).mean() for k in CUTOFFS]


def sorted_pieces(protocol: Protocol, queries: Tensor, gallery: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the sorted images (rows, G) and the targets (rows, K) of one chunk of queries after the other."""
    queries = torch.nn.functional.normalize(queries.float(), dim=-1)
    columns = torch.nn.functional.normalize(gallery.float(), dim=-1).T
    parts = chunks(queries, gallery)
    targets = pad_rows(protocol.targets).tensor_split(parts)
    for piece, of_piece in zip(queries.tensor_split(parts), targets, strict=True):
        yield (1 - piece @ columns).argsort(dim=-1), of_piece


BARE = "product and top-k"
VARIANTS: dict[str, Callable[[Protocol, Tensor, Tensor], None]] = {
    "ours": ours,
    BARE: bare,
    "full sort": full_sort,
    "full sort of names": full_sort_of_names,
}


def chunks(queries: Tensor, gallery: Tensor) -> int:
    """Return the number of chunks of queries."""
    return math.ceil(len(queries) * len(gallery) / ELEMENTS)


def measure(size: Size, width: int, threads: int, repeats: int) -> dict[str, Measured]:
    """Measure each variant on the same random features.

    Every measurement has its own process, forked with the features in memory, and the variants are interleaved, so that
    background load affects all of them equally. The caller must not have used more than one thread.
    """
    protocol = make_protocol(size)
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.empty(count, width, dtype=torch.half) for count in (size.queries, size.gallery))
    for part in (*queries.split(4096), *gallery.split(4096)):
        part.copy_(torch.randn(part.shape, generator=generator))
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in VARIANTS}
    for _ in range(repeats):
        for name, variant in VARIANTS.items():
            results[name].append(in_a_fork(variant, (protocol, queries, gallery), threads))
    return {
        name: Measured(statistics.median(seconds), statistics.median(cpu), max(extra))
        for name, (seconds, cpu, extra) in ((name, zip(*times, strict=True)) for name, times in results.items())
    }


def show(name: str, size: Size, results: dict[str, Measured]) -> None:
    """Print the results of one size as a table."""
    print(f"\n{name}: {size.queries:,} queries on {size.gallery:,} images, up to {size.targets} targets")
    print(f"{'':20}{'seconds':>10}{'of product':>12}{'cpu seconds':>13}{'of product':>12}{'extra MB':>10}")
    for variant, row in results.items():
        wall, cpu = row.seconds / results[BARE].seconds, row.cpu_seconds / results[BARE].cpu_seconds
        figures = f"{row.seconds:10.2f}{wall:12.2f}{row.cpu_seconds:13.2f}{cpu:12.2f}{row.extra_mb:10.0f}"
        print(f"{variant:20}{figures}", flush=True)


def ranking(
    circo: Size = Size(800, 123_403, 14),  # noqa: B008
    lasco: Size = Size(30_000, 39_826),  # noqa: B008
    width: int = 1024,
    threads: int = 2,
    repeats: int = 3,
    only: Literal["circo", "lasco"] | None = None,
    json: Path | None = None,
) -> None:
    """Measure scoring on random float16 features of two sizes.

    Args:
        circo: The size of CIRCO's test set.
        lasco: The size of LaSCo's validation set.
        width: Width of the features.
        threads: CPU threads.
        repeats: Measurements of each variant.
        only: Measure one size only.
        json: File for the results.
    """
    output_file(json, "json")
    require_at_least(1, width=width, threads=threads, repeats=repeats)
    torch.set_num_threads(1)
    sizes = {name: size for name, size in {"circo": circo, "lasco": lasco}.items() if only in (None, name)}
    report: dict[str, Any] = {"torch": torch.__version__, "machine": processor(), "threads": threads}
    for name, size in sizes.items():
        results = measure(size, width, threads, repeats)
        show(name, size, results)
        report[name] = vars(size) | {"width": width, "variants": {key: vars(row) for key, row in results.items()}}
    if json is not None:
        write_json(json, report, indent=2)


if __name__ == "__main__":
    command(ranking)
