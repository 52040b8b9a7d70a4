"""Measure the mining of pairs after the embedding of images: time, memory, and recall of the search.

python -m experiments.benchmarks.mining --images 1000000 --dim 512
"""

import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from contextcir.files import whole_array, write_json
from contextcir.synthesis.mining.duplicates import NearDuplicates
from contextcir.synthesis.mining.encoder import BLOCK, Vectors
from contextcir.synthesis.mining.neighbours import NeighbourTable, find_groups
from contextcir.synthesis.mining.search import ApproximateSearch
from contextcir.synthesis.mining.selection import Band, MostSimilar, Uses, choose_pairs
from experiments.command import command
from experiments.outputs import output_file, output_folder, scratch

GROUP = 20  # vectors around each centre
TOPIC = 50  # centres around each centre of centres


@dataclass
class Step:
    """A step of the mining.

    Args:
        name: Of the step.
        seconds: By the wall clock, so that load on the machine raises it.
        cpu_seconds: Of all threads.
        peak_mb: Peak memory of the process in this step, in megabytes, including mapped pages of files.
        result: What the step produced.
    """

    name: str
    seconds: float
    cpu_seconds: float
    peak_mb: float
    result: str


def measured(name: str, work: Callable[[], str]) -> Step:
    """Run a step and print its row."""
    _reset_peak()
    start, used = time.perf_counter(), time.process_time()
    result = work()
    step = Step(name, time.perf_counter() - start, time.process_time() - used, _peak_mb(), result)
    print(f"| {name} | {step.seconds:,.0f} | {step.cpu_seconds:,.0f} | {step.peak_mb:,.0f} | {result} |", flush=True)
    return step


def _reset_peak() -> None:
    with suppress(OSError):  # only on Linux; elsewhere the peak is that of all steps so far
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_mb() -> float:
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def write_vectors(path: Path, images: int, dim: int, seed: int) -> str:
    """Write unit vectors in groups, and groups in topics: more like photographs than plain noise."""
    random = np.random.default_rng(seed)

    def noise(count: int) -> np.ndarray:
        return random.standard_normal((count, dim), np.float32) / dim**0.5

    centres = noise(max(1, images // GROUP))
    topics = noise(max(1, len(centres) // TOPIC))
    with whole_array(path, (images, dim), np.float16) as array:
        for start in range(0, images, BLOCK):
            chosen = random.integers(len(centres), size=min(BLOCK, images - start))
            vectors = topics[chosen % len(topics)] + 0.7 * centres[chosen] + 0.6 * noise(len(chosen))
            array[start : start + len(chosen)] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return f"{path.stat().st_size / 1e6:,.0f} MB on the disk"


def recall(vectors: Vectors, places: np.ndarray, sample: int, seed: int) -> str:
    """Return the recall of the search: the share of exact neighbours of some vectors among the approximate ones."""
    chosen = np.sort(np.random.default_rng(seed).choice(len(vectors), min(sample, len(vectors)), replace=False))
    queries = vectors.take(chosen)
    similarities = np.empty((len(chosen), len(vectors)), np.float32)
    for start, block in vectors.blocks():
        similarities[:, start : start + len(block)] = queries @ block.T
    similarities[np.arange(len(chosen)), chosen] = -np.inf
    shares = []
    for count in (10, places.shape[1]):
        hits = []
        for row, approximate in zip(similarities, places[chosen], strict=True):
            exact = np.argpartition(-row, count)[:count]
            hits.append(len(set(exact.tolist()) & set(approximate[:count].tolist())))
        shares.append(f"{100 * np.mean(hits) / count:.2f} % of the nearest {count}")
    return f"recall {', '.join(shares)} ({len(chosen)} images)"


def near_duplicates(images: int, seed: int) -> str:
    """Search near-duplicates among random hashes, every hundredth of which is a copy with 3 bits changed."""
    random = np.random.default_rng(seed)
    prints = random.integers(256, size=(images, 8), dtype=np.uint8)
    copies = np.arange(100, images, 100)
    prints[copies] = prints[copies - 1] ^ np.array([1, 0, 128, 0, 0, 0, 4, 0], np.uint8)
    originals = NearDuplicates(4).originals(prints, prints)
    duplicate = originals != np.arange(images)
    hits = duplicate[copies].sum()
    return f"{hits:,} of {len(copies):,} copies, and {duplicate.sum() - hits:,} others"


def mining(
    images: int = 100_000,
    dim: int = 512,
    neighbours: int = 50,
    probes: int = 16,
    threads: int | None = None,
    sample: int = 200,
    seed: int = 0,
    folder: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure each step on random vectors that lie in groups.

    Args:
        images: Number of vectors.
        dim: Of a vector.
        neighbours: Of each vector.
        probes: Lists that each vector is compared with.
        threads: Of faiss; null for its own choice.
        sample: Vectors whose neighbours are also searched exactly.
        seed: Of everything random.
        folder: Of the files; null for a temporary one.
        json: File for the results.
    """
    output_folder(folder, "folder")
    output_file(json, "json")
    print(f"{images:,} vectors of {dim}, {neighbours} neighbours, {os.cpu_count()} cores, threads: {threads}")
    print("| step | seconds | CPU seconds | peak MB | result |\n| --- | ---: | ---: | ---: | --- |")
    with scratch(folder) as place:
        work = Path(place)
        steps = [measured("drawing the vectors", lambda: write_vectors(work / "vectors.npy", images, dim, seed))]
        vectors = Vectors(work / "vectors.npy")
        table = NeighbourTable(work, vectors)
        steps.append(measured("near-duplicates, 64-bit hashes", lambda: near_duplicates(images, seed)))
        search, kept = ApproximateSearch(probes=probes, threads=threads), np.arange(images)

        def find() -> str:
            table.make({"seed": seed}, lambda: kept, search, neighbours)
            return f"{2 * dim * images / 1e6:,.0f} MB are the vectors"

        steps.append(measured("neighbours", find))
        places, similarities = table.read()
        band = Band(0.6, 0.8)

        def choose() -> str:
            pairs = choose_pairs(places, similarities, band, Uses(), MostSimilar(), seed)
            groups = [len(group) for _, group in find_groups(pairs, places, similarities, vectors, band, 6)]
            return f"{len(groups):,} pairs, {sum(size == 6 for size in groups):,} with a group of 6"

        steps.append(measured("pairs and groups", choose))
        steps.append(measured("exact search", lambda: recall(vectors, places, sample, seed)))
    if json is not None:
        sizes = {"images": images, "dim": dim, "neighbours": neighbours, "probes": probes}
        write_json(json, sizes | {"steps": [asdict(step) for step in steps]})


def main() -> None:
    """Parse the command line."""
    command(mining)


if __name__ == "__main__":
    main()
