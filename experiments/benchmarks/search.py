"""Measure the index in a folder: a query beside a bare product with top-k, memory, storing, and conditions.

python -m experiments.benchmarks.search --threads 1 --json search.json
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contextcir.files import write_json
from contextcir.search.embedded import EmbeddedIndex
from contextcir.search.index import Photo, Where
from experiments.benchmarks.measure import measured_on, require_at_least
from experiments.command import command
from experiments.outputs import output_file, scratch

BATCH = 1000  # photos that are stored at a time
FOLDERS = 100  # of the photos
THUMBNAIL = bytes(range(256)) * 4  # a stand-in: searches read only those of the images that they find
CONDITIONS = {  # the share of the images that they hold for
    "of one folder (1 %)": Where(folder="folder 7"),
    "of half of the time (50 %)": Where(since=FOLDERS // 2),
    "of one format (90 %)": Where(formats=("JPEG",)),
}


@dataclass
class Times:
    """Times of a call.

    Args:
        median: Wall-clock milliseconds, median over the repeats.
        least: Likewise, the least.
        cpu: CPU milliseconds of all threads, the least; background load hardly affects it.
    """

    median: float
    least: float
    cpu: float


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Measure calls in turn, so that background load affects all of them equally."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if repeat:  # the first one warms up
                found[name].append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    return {
        name: Times(statistics.median(walls), min(walls), min(cpus))
        for name, (walls, cpus) in ((name, zip(*times, strict=True)) for name, times in found.items())
    }


def made_up(images: int, width: int) -> Iterator[tuple[list[Photo], Tensor]]:
    """Yield photos and their embeddings (B, E), random directions, batch by batch."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, images, BATCH):
        photos = [
            Photo(
                path=f"folder {number % FOLDERS}/{number:08}.jpg",
                size=number,
                modified=number,
                sha256=f"{number:064x}",
                look=number,
                taken=number % FOLDERS,
                format="JPEG" if number % 10 else "PNG",
                width=4000,
                height=3000,
                thumbnail=THUMBNAIL,
            )
            for number in range(start, min(start + BATCH, images))
        ]
        yield photos, normalize(torch.randn(len(photos), width, generator=generator), dim=1)


def store(folder: Path, images: int, width: int) -> float:
    """Make an index; return how many photos were stored in a second."""
    seconds = 0.0
    with closing(EmbeddedIndex(folder, {})) as index:
        for photos, embeddings in made_up(images, width):
            begin = time.perf_counter()
            index.upsert(photos, embeddings)
            seconds += time.perf_counter() - begin
    return images / seconds


def made_up_queries(count: int, width: int) -> Tensor:
    """Return random queries (Q, E)."""
    return normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(1)), dim=1)


def against_product(
    folder: Path, images: int, width: int, queries: list[int], count: int, repeats: int
) -> dict[str, dict[str, Times]]:
    """Return the times of searches, and of products in single precision with top-k, by the number of queries.

    The product has all embeddings in memory in single precision, and gives scores and numbers, no photos.
    """
    gallery = torch.cat([embeddings for _, embeddings in made_up(images, width)])
    results = {}
    with closing(EmbeddedIndex(folder)) as index:
        for number in queries:
            asked = made_up_queries(number, width)
            results[str(number)] = interleaved(
                {
                    "search": lambda asked=asked: index.search(asked, count),
                    "product": lambda asked=asked: (gallery @ asked.T).T.topk(min(count, images)),
                },
                repeats,
            )
    return results


def conditions(folder: Path, width: int, count: int, repeats: int) -> dict[str, dict[str, Times]]:
    """Return the times of searches for one query with conditions, at first and once their images are known."""
    asked = made_up_queries(1, width)
    with closing(EmbeddedIndex(folder)) as index:

        def anew(where: Where) -> None:
            index._masks = (-1, {})  # as it is after a change of the index
            index.search(asked, count, where)

        return {
            name: interleaved(
                {
                    "at first": lambda where=where: anew(where),
                    "again": lambda where=where: index.search(asked, count, where),
                    "without": lambda: index.search(asked, count),
                },
                repeats,
            )
            for name, where in CONDITIONS.items()
        }


def memory(folder: Path, width: int, count: int, threads: int, repeats: int) -> dict[str, float]:
    """Return MiB of a new process before searches and at most, mapped files among them, and milliseconds of searches.

    Raises:
        RuntimeError: if that process ends without a result.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_search, args=(folder, width, count, threads, repeats, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError("the process that searches ended without a result; was memory short?") from None
    finally:
        process.join()


def _search(folder: Path, width: int, count: int, threads: int, repeats: int, send: Any) -> None:
    torch.set_num_threads(threads)
    before, _ = resident()
    with closing(EmbeddedIndex(folder)) as index:
        calls = {str(n): (lambda n=n: index.search(made_up_queries(n, width), count)) for n in (1, 16)}
        times = interleaved(calls, repeats)
        index.search(made_up_queries(1, width), count, CONDITIONS["of half of the time (50 %)"])
    figures = {"before, MiB": before, "peak, MiB": resident()[1]}
    for name, row in times.items():
        figures |= {f"{name} queries, median ms": row.median, f"{name} queries, CPU ms": row.cpu}
    send.send(figures)


def resident() -> tuple[float, float]:
    """Return the resident memory of this process in MiB, now and at most, mapped files among it (Linux).

    `peak_memory` would count what the process was before it became this program.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return tuple(int(found[name].split()[0]) / 2**10 for name in ("VmRSS", "VmHWM"))


def show(title: str, rows: dict[str, Times], of: str) -> None:
    """Print times as a table, each with its multiple of the row ``of``."""
    print(f"\n{title}\n{'':24}{'median ms':>10}{'least ms':>10}{'CPU ms':>10}{'multiple of ' + of + ', by each':>40}")
    base = rows[of]
    for name, row in rows.items():
        figures = "".join(f"{value:10.1f}" for value in (row.median, row.least, row.cpu))
        ratios = f"{row.median / base.median:.2f}, {row.least / base.least:.2f}, {row.cpu / base.cpu:.2f}"
        print(f"{name:24}{figures}{ratios:>40}", flush=True)


def search(
    images: int = 100_000,
    most: int = 1_000_000,
    width: int = 512,
    count: int = 50,
    queries: list[int] = [1, 16],  # noqa: B006
    threads: int = 1,
    repeats: int = 30,
    folder: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure the index in a folder on random embeddings.

    Args:
        images: Photos of the index whose times are measured.
        most: Photos of the index whose memory is measured.
        width: Width of the embeddings.
        count: Images that a query returns.
        queries: Queries of a search.
        threads: CPU threads.
        repeats: Measurements of each call.
        folder: Where the two indexes are made, which are removed afterwards; by default, that for temporary files.
        json: File for the results.
    """
    output_file(json, "json")
    require_at_least(1, images=images, most=most, width=width, count=count, queries=queries, repeats=repeats)
    require_at_least(1, threads=threads)
    torch.set_num_threads(threads)
    report: dict[str, Any] = {"measured on": measured_on(torch.device("cpu"), threads)}
    report |= {"images": images, "most": most, "width": width, "count": count, "repeats": repeats}
    print(report["measured on"])
    with scratch(folder) as place:
        small, large = Path(place) / "small", Path(place) / "large"
        report["stored a second"] = store(small, images, width)
        print(f"\n{report['stored a second']:,.0f} photos stored a second, {BATCH:,} at a time")
        times = against_product(small, images, width, queries, count, repeats)
        for number, rows in times.items():
            show(f"{number} queries on {images:,} images, the best {count}", rows, "product")
        filtered = conditions(small, width, count, repeats)
        for name, rows in filtered.items():
            show(f"One query on images {name}", rows, "without")
        for part, of_part in (("times", times), ("conditions", filtered)):
            report[part] = {name: {key: vars(row) for key, row in rows.items()} for name, rows in of_part.items()}
        store(large, most, width)
        report["process with most images"] = memory(large, width, count, threads, min(repeats, 5))
        print(f"\nA process that searches {most:,} images:")
        for name, value in report["process with most images"].items():
            print(f"{name:24}{value:10,.0f}")
    if json is not None:
        write_json(json, report, indent=2)


if __name__ == "__main__":
    command(search)
