"""Measure time and memory of scoring: this project's, a bare matrix product with top-k, and two full sorts.

python -m experiments.benchmarks.ranking --threads 2 --repeats 3 --json ranking.json
"""

import json as json_format
import math
import multiprocessing
import platform
import random
import resource
import statistics
import sys
import time
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
from experiments.command import command

ELEMENTS = 2**25  # scores that are there at a time: that of `ranking.score_chunks`, for all variants
CUTOFFS = (1, 5, 10, 50)  # of recall
BATCH = 256  # rows that an evaluation feeds at a time


@dataclass
class Size:
    """How much is ranked.

    Args:
        queries: Number of queries.
        gallery: Number of gallery images.
        targets: Most right answers of a query.
    """

    queries: int
    gallery: int
    targets: int = 1


@dataclass
class Measured:
    """What a variant took.

    Args:
        seconds: By the clock, the median over the repeats.
        cpu_seconds: Of all processors together, likewise; other work on the machine hardly changes it.
        extra_mb: Most memory beyond the features at any time, over all repeats, in 2^20 bytes.
    """

    seconds: float
    cpu_seconds: float
    extra_mb: float


def make_protocol(size: Size) -> Protocol:
    """Return a protocol with random answers; most queries have few, as in CIRCO with 14 at most and 4.2 on average."""
    generator = random.Random(0)
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
    """What an evaluation does once everything is encoded."""
    metric = CompositionMetric(protocol)
    for start in range(0, len(gallery), BATCH):
        part = gallery[start : start + BATCH]
        metric.update_gallery(torch.arange(start, start + len(part)), part)
    for start in range(0, len(queries), BATCH):
        part = queries[start : start + BATCH]
        metric.update_queries(torch.arange(start, start + len(part)), part)
    metric.compute()


def bare(protocol: Protocol, queries: Tensor, gallery: Tensor) -> None:
    """The product in float32 and the first 50 images, without norms, protocol or figures: less can't be done."""
    columns = gallery.float().T
    for piece in queries.float().tensor_split(chunks(queries, gallery)):
        (piece @ columns).topk(min(50, len(gallery)))


def full_sort(protocol: Protocol, queries: Tensor, gallery: Tensor) -> None:
    """All images of every query in order, and which of the first 50 are answers.

    In pieces, which is kind to it: LaSCo's whole would take 14 GB.
    """
    for order, wanted in sorted_pieces(protocol, queries, gallery):
        first = order[:, : max(CUTOFFS)]
        hits = (first[:, :, None] == wanted[:, None, :]).any(2)  # (rows, 50)
        [hits[:, :k].any(1).float().mean() for k in CUTOFFS]


def full_sort_of_names(protocol: Protocol, queries: Tensor, gallery: Tensor) -> None:
    """All image names of every query in order, compared with those of its answers: as much published code does it."""
    names = np.array(protocol.gallery)
    for order, wanted in sorted_pieces(protocol, queries, gallery):
        in_order = names[order.numpy()]  # (rows, G)
        labels = np.zeros(in_order.shape, bool)
        for answers in wanted.unbind(1):
            labels |= in_order == np.where(answers < 0, "", names[answers.numpy()])[:, None]
        [labels[:, :k].any(1).mean() for k in CUTOFFS]


def sorted_pieces(protocol: Protocol, queries: Tensor, gallery: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images in order (rows, G), and the answers (rows, K), of some queries."""
    queries = torch.nn.functional.normalize(queries.float(), dim=-1)
    columns = torch.nn.functional.normalize(gallery.float(), dim=-1).T
    parts = chunks(queries, gallery)
    for piece, wanted in zip(queries.tensor_split(parts), pad_rows(protocol.targets).tensor_split(parts), strict=True):
        yield (1 - piece @ columns).argsort(dim=-1), wanted


BARE = "product and top-k"
VARIANTS: dict[str, Callable[[Protocol, Tensor, Tensor], None]] = {
    "ours": ours,
    BARE: bare,
    "full sort": full_sort,
    "full sort of names": full_sort_of_names,
}


def chunks(queries: Tensor, gallery: Tensor) -> int:
    """Return into how many pieces queries are cut."""
    return math.ceil(len(queries) * len(gallery) / ELEMENTS)


def measure(size: Size, width: int, threads: int, repeats: int) -> dict[str, Measured]:
    """Return what each variant takes on the same random features.

    Every single measurement has its own process, forked with the features in memory, and the variants take turns, so
    that whatever else the machine does meets all of them alike. The caller must not have used more than one thread.
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
        for name, (seconds, cpu, extra) in ((name, zip(*found, strict=True)) for name, found in results.items())
    }


def in_a_fork(variant: Callable[..., None], arguments: tuple[Any, ...], threads: int) -> tuple[float, float, float]:
    """Return seconds by the clock and of processors, and extra memory in 2^20 bytes, of a call in its own process.

    Raises:
        RuntimeError: if that process ends without a result, e.g. for lack of memory.
    """
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)

    def work() -> None:
        torch.set_num_threads(threads)
        warm = torch.randn(256, 256)
        warm @ warm  # starts the threads
        before, start, cpu = peak_memory(), time.perf_counter(), time.process_time()
        variant(*arguments)
        send.send((time.perf_counter() - start, time.process_time() - cpu, peak_memory() - before))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError(f"{variant.__name__}: the process ended without a result; was memory short?") from None
    finally:
        process.join()


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in 2^20 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def show(name: str, size: Size, results: dict[str, Measured]) -> None:
    """Print the results of one size as a table."""
    print(f"\n{name}: {size.queries:,} queries on {size.gallery:,} images, up to {size.targets} targets")
    print(f"{'':20}{'seconds':>10}{'of product':>12}{'cpu seconds':>13}{'of product':>12}{'extra MB':>10}")
    for variant, found in results.items():
        wall, cpu = found.seconds / results[BARE].seconds, found.cpu_seconds / results[BARE].cpu_seconds
        figures = f"{found.seconds:10.2f}{wall:12.2f}{found.cpu_seconds:13.2f}{cpu:12.2f}{found.extra_mb:10.0f}"
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
        width: Of the features.
        threads: Threads of every variant.
        repeats: Measurements of each variant.
        only: Leave the other size out.
        json: File for the results.
    """
    if min(width, threads, repeats) < 1:
        raise ValueError(f"--width, --threads and --repeats must be at least 1, got {width}, {threads}, {repeats}")
    torch.set_num_threads(1)
    sizes = {name: size for name, size in {"circo": circo, "lasco": lasco}.items() if only in (None, name)}
    report: dict[str, Any] = {"torch": torch.__version__, "machine": platform.machine(), "threads": threads}
    for name, size in sizes.items():
        results = measure(size, width, threads, repeats)
        show(name, size, results)
        report[name] = vars(size) | {"width": width, "variants": {key: vars(found) for key, found in results.items()}}
    if json is not None:
        json.write_text(json_format.dumps(report, indent=2) + "\n")


def main() -> None:
    """Parse the command line."""
    command(ranking)


if __name__ == "__main__":
    main()
