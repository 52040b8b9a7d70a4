"""Measure memory and time of training records in Arrow files, against records in memory, for as many as is asked.

python -m experiments.benchmarks.records --triplets 1000000 --manifest true --markdown records.md
python -m experiments.benchmarks.records --triplets 18000000 --images 4000000 --markdown records.md
"""

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from contextcir.errors import InputError
from data_modules.arrow.stream import BLOCK, RecordStream
from data_modules.arrow.table import RecordTable
from data_modules.arrow.writer import TableWriter
from data_modules.loading.sampling import GroupedByReference, Shuffled, TrainingOrder
from data_modules.manifest import ManifestReader
from data_modules.records import Origin, QueryRecord, TrainingSet
from experiments.benchmarks.measure import in_a_fork, measured_on, require_at_least
from experiments.command import command, publish, table
from experiments.outputs import output_file, output_folder, scratch

WORDS = ("make", "the", "dog", "larger", "and", "put", "a", "red", "collar", "on", "it", "so", "that", "looks", "at")
READS = 20_000  # records that each process takes
SMAPS = Path("/proc/self/smaps_rollup")
MEBI = 2**20


class Simulated(RecordStream):
    """Records of captions of eight words on average and two images each, as a data set of pairs has them.

    Args:
        count: of records.
        images: how many there are to choose from.
        file: what they are said to be from.
    """

    def __init__(self, count: int, images: int, file: str) -> None:
        self.count, self.images, self.file = count, images, file

    def record(self, number: int) -> QueryRecord:
        """Return a record, the same each time."""
        draw = random.Random(number)  # noqa: S311  (of no secret)
        reference, target = (draw.randrange(self.images) for _ in range(2))
        target = (target + (reference == target)) % self.images
        caption = " ".join(draw.choices(WORDS, k=draw.randint(5, 11)))
        names = [f"{image // 1000:05}/{image:09}.jpg" for image in (reference, target)]
        return QueryRecord(names[0], caption, target=names[1], id=number, origin=Origin(self.file, number))

    def read(self, state: Any = None) -> Iterator[tuple[list[QueryRecord], Any]]:
        for start in range(state or 0, self.count, BLOCK):
            stop = min(start + BLOCK, self.count)
            yield [self.record(number) for number in range(start, stop)], stop

    def write(self, path: Path) -> None:
        """Write the records as a manifest."""
        with path.open("w", encoding="utf-8") as file:
            for block, _ in self.read():
                for record in block:
                    fields = {"reference": record.reference, "target": record.target, "caption": record.caption}
                    file.write(json.dumps(fields) + "\n")


class Memory(NamedTuple):
    """Memory of processes in MiB, each shared page counted once: of their own, and of files that are mapped."""

    own: float
    mapped: float


def memory_now() -> Memory:
    """Return this process's share of memory (PSS): a page of n processes counts a n-th."""
    lines = dict(line.split(":", 1) for line in SMAPS.read_text(encoding="utf-8").splitlines()[1:])
    size = {name: int(value.split()[0]) / 1024 for name, value in lines.items() if value.strip().endswith("kB")}
    return Memory(size["Pss_Anon"], size["Pss_File"])


def memory_of_processes(ranks: int, workers: int, opened: Callable[[], TrainingSet | None]) -> Memory:
    """Return what all processes have together once each has taken `READS` records.

    Args:
        ranks: processes that open the set for themselves.
        workers: of each rank, forked when it is open, as those of loaders are.
        opened: returns the set.
    """
    context = multiprocessing.get_context("fork")
    queue, barrier = context.SimpleQueue(), context.Barrier(ranks * (1 + workers))

    def use(training: TrainingSet | None, seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311  (of no secret)
        for _ in range(READS if training else 0):
            record = training.records[draw.randrange(len(training.records))]
            training.image_paths[record.reference]
        barrier.wait()
        queue.put(memory_now())
        barrier.wait()  # a page of a process that has ended is no longer shared

    def rank(number: int) -> None:
        training = opened()
        order = Shuffled(0)
        kept = [order.of_epoch(order.groups(training.records), 0)] if training else []
        children = [context.Process(target=use, args=(training, 100 * number + n)) for n in range(workers)]
        for child in children:
            child.start()
        use(training, -number - 1)
        for child in children:
            child.join()
        del kept

    processes = [context.Process(target=rank, args=(number,)) for number in range(ranks)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in range(ranks * (1 + workers))]
    for process in processes:
        process.join()
    return Memory(sum(part.own for part in found), sum(part.mapped for part in found))


def seconds(action: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measured_order(order: TrainingOrder, opened: Callable[[], TrainingSet]) -> tuple[float, float]:
    """Return the seconds of an epoch's order, and the MiB that making it takes at its height."""
    wall, _, peak = in_a_fork(lambda: order.of_epoch(order.groups(opened().records), 0), (), 1)
    return wall, peak


def records(
    triplets: int = 1_000_000,
    images: int = 0,
    manifest: bool = False,
    compare: int = 100_000,
    ranks: int = 2,
    workers: int = 2,
    folder: Path | None = None,
    markdown: Path | None = None,
) -> None:
    """Convert records, open them, and read them in processes as a run has them.

    Args:
        triplets: How many records.
        images: How many images these are of; 0 for 4 in 10.
        manifest: Read them from a manifest that is written first; otherwise they are made as they are converted.
        compare: Records that are held in memory, for comparison; memory goes with their number.
        ranks: Processes that train.
        workers: Loader processes of each.
        folder: Where the files are put; null for the system's temporary folder. 18 million triplets need 3 GB.
        markdown: File to write the table to.
    """
    require_at_least(BLOCK, triplets=triplets, compare=compare)
    require_at_least(1, ranks=ranks)
    require_at_least(0, workers=workers, images=images)
    output_file(markdown, "markdown")
    output_folder(folder, "folder")
    if not SMAPS.exists():
        raise InputError(f"needs {SMAPS}, which Linux has", setting="ranks")
    images = images or max(2, triplets * 4 // 10)
    torch.set_num_threads(1)
    with scratch(folder) as place:
        root = Path(place)
        rows = [*converted(root, Simulated(triplets, images, "simulated"), manifest)]
        rows += [*used(root / "table", triplets, ranks, workers)]
        Simulated(compare, max(2, compare * 4 // 10), "small").write(root / "small.jsonl")
        rows += [*in_memory(root, triplets, compare, ranks, workers)]
    told = f"{triplets:,} triplets of {images:,} images, {'from a manifest' if manifest else 'simulated'}; "
    told += f"{ranks} ranks with {workers} loader processes each; {measured_on(torch.device('cpu'), 1)}"
    publish(f"{told}\n\n{table(['what', 'figure'], rows)}", markdown)


def converted(root: Path, made: Simulated, manifest: bool) -> Iterator[list[str]]:
    """Write the table, and yield what that took."""
    stream: RecordStream = made
    if manifest:
        made.write(root / "train.jsonl")
        yield ["manifest, MB", f"{(root / 'train.jsonl').stat().st_size / 1e6:,.0f}"]
        stream = ManifestReader(root).training_stream("train")
    wall, _, peak = in_a_fork(lambda: TableWriter(root / "table").write(stream), (), 1)
    size = sum(path.stat().st_size for path in (root / "table").iterdir())
    yield ["conversion, once, s", f"{wall:,.0f}"]
    yield ["conversion, additional memory, MiB", f"{peak:,.0f}"]
    yield ["table on disk, MB", f"{size / 1e6:,.0f}"]


def used(folder: Path, triplets: int, ranks: int, workers: int) -> Iterator[list[str]]:
    """Yield times and memory of a table."""
    yield ["import of pyarrow, once a process, s", f"{seconds(lambda: __import__('pyarrow.ipc')):.2f}"]
    yield ["open and take the first record, s", f"{seconds(lambda: RecordTable(folder)[0]):.4f}"]
    opened = RecordTable(folder)
    places = [random.Random(0).randrange(triplets) for _ in range(READS)]  # noqa: S311  (of no secret)
    first = seconds(lambda: [opened[place] for place in places])
    again = seconds(lambda: [opened[place] for place in places])
    yield ["a record at random, first (compared with its checksum), µs", f"{first / READS * 1e6:.1f}"]
    yield ["a record at random, later, µs", f"{again / READS * 1e6:.1f}"]
    bare = memory_of_processes(ranks, workers, lambda: None)
    full = memory_of_processes(ranks, workers, lambda: RecordTable(folder).training_set())
    yield ["memory of all processes: mapped, shared, MiB", f"{full.mapped - bare.mapped:,.0f}"]
    yield ["memory of all processes: their own, MiB", f"{full.own - bare.own:,.0f}"]
    for order in (Shuffled(0), GroupedByReference(0)):
        wall, peak = measured_order(order, lambda: RecordTable(folder).training_set())
        yield [f"an epoch's order by {type(order).__name__}, a rank: s and MiB", f"{wall:,.1f} and {peak:,.0f}"]


def in_memory(root: Path, triplets: int, compare: int, ranks: int, workers: int) -> Iterator[list[str]]:
    """Yield time and memory of records as Python's objects, and what that is for all triplets."""
    reader, scale = ManifestReader(root, file=os.fspath(root / "small.jsonl")), triplets / compare
    wall, _, peak = in_a_fork(reader.read_training, ("train",), 1)
    bare = memory_of_processes(ranks, workers, lambda: None)
    full = memory_of_processes(ranks, workers, lambda: reader.read_training("train"))
    told = f"{compare:,} records in memory"
    yield [f"{told}, a rank: s and MiB", f"{wall:,.1f} and {peak:,.0f}"]
    yield [f"{told}, all processes, MiB", f"{full.own - bare.own:,.0f}"]
    yield [f"times {scale:g}, all processes, MiB", f"{(full.own - bare.own) * scale:,.0f}"]


if __name__ == "__main__":
    command(records)
