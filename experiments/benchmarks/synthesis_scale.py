"""Measure a synthesis at the scale of a data set: a stage's requests a second, what a kill costs, memory of keys.

python -m experiments.benchmarks.synthesis_scale --keys 10000000 --json scale.json

A server that answers at once stands in for the model. Nothing but the stage describe-reference is run: of all stages,
it has the least work besides its requests. Keys are those of so many pairs, half of whose references are described.
"""

import io
import multiprocessing
import os
import tarfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextcir.checks import whole
from contextcir.files import write_json
from contextcir.synthesis.describe import DescribeReference
from contextcir.synthesis.models.base import Answer, BudgetSpent, Request, VisionLanguageModel
from contextcir.synthesis.models.chat import ChatModel, Exchange
from contextcir.synthesis.models.endpoint import Endpoint
from contextcir.synthesis.pairs import pair_key
from contextcir.synthesis.photos import FolderPhotos, Photos, TarPhotos
from contextcir.synthesis.records import Pair
from contextcir.synthesis.request_stage import run_requests
from contextcir.synthesis.stages import Run
from contextcir.synthesis.store import encode, read_stage, shard_path
from experiments.benchmarks.measure import in_a_fork
from experiments.benchmarks.synthesis import ANSWER, instant_server, photograph
from experiments.command import command, processor, table
from experiments.outputs import output_file, scratch

GROUP = 10_000  # lines that are written together
FEWER = 10  # the sets of texts of earlier versions are measured with so many times fewer keys


@dataclass
class Row:
    """A figure: what was done, how often, the result, wall-clock and CPU seconds, and additional peak memory in MiB."""

    case: str
    count: int
    result: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


class _Noted(Exchange):
    """Appends a line to a log for each time that a request is sent."""

    log = Path()

    def body(self, dialect: Any) -> dict[str, Any]:
        with open(self.log, "ab", buffering=0) as file:
            file.write(f"{self.request.key}\n".encode())
        return super().body(dialect)


class _Nobody(VisionLanguageModel):
    """Stops at the first request: what is measured is the way to it."""

    name = "nobody"

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        for request in requests:
            raise BudgetSpent(f"{request.key} would be asked now")
        yield Answer("", None)


def names(count: int) -> Iterator[str]:
    """Yield the names of images, as those of shards with 10,000 each."""
    return (f"photos-{number // 10_000:05d}/{number:09d}.jpg" for number in range(count))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write a shard of records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        group: list[bytes] = []
        for line in lines:
            group.append(line)
            if len(group) == GROUP:
                file.writelines(group)
                group = []
        file.writelines(group)


def write_synthesis(folder: Path, count: int, described: int) -> None:
    """Write a synthesis of ``count`` pairs, the references of the first ``described`` of which are described."""
    about = {"model": "instant", "usage": {"input_tokens": 900, "output_tokens": 120, "requests": 1, "cost": 0.0}}
    objects = [{"object": "ball", "descriptors": ["red", "small"]}]
    # plain values: `to_json` of millions of records would take longer than what is measured
    pair = Pair("", "", "t.jpg").to_json()
    pairs = ({**pair, "key": pair_key(name, "t.jpg"), "reference": name} for name in names(count))
    answers = ({"key": name, "objects": objects, "provenance": about} for name in names(described))
    write_lines(shard_path(folder, "pairs", 0, 1), map(encode, pairs))
    if described:
        write_lines(shard_path(folder, "describe-reference", 0, 1), map(encode, answers))


def write_photos(folder: Path, count: int) -> None:
    """Write the same image under all names, as files and in tar shards."""
    folder.mkdir(parents=True)
    content = photograph(folder / "small.jpg", 256).read_bytes()
    tars: dict[str, tarfile.TarFile] = {}
    for name in names(count):
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        shard, _, member = name.partition("/")
        if shard not in tars:
            tars[shard] = tarfile.open(folder / f"{shard}.tar", "w")  # noqa: SIM115  (many at once)
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        tars[shard].addfile(entry, io.BytesIO(content))
    for each in tars.values():
        each.close()


def run_stage(folder: Path, photos: Photos, url: str, concurrency: int, log: Path | None = None) -> None:
    """Run the stage with the server at ``url``."""
    model = Endpoint(ChatModel("instant"), url, concurrency=concurrency)
    if log is not None:
        _Noted.log = log
        model.exchange = _Noted  # type: ignore[method-assign]
    photos.begin(folder)
    run_requests(Run(folder), DescribeReference(photos), model)


def measure_requests(folder: Path, count: int, url: str, concurrency: int) -> Iterator[Row]:
    """Run a stage of ``count`` requests with a photo each, from files and from shards."""
    write_photos(folder / "photos", count)
    kinds: dict[str, Photos] = {
        "files": FolderPhotos(folder / "photos" / "files"),
        "tar shards": TarPhotos(f"{folder}/photos/*.tar"),
    }
    for kind, photos in kinds.items():
        out = folder / kind
        write_synthesis(out, count, 0)
        used = in_a_fork(run_stage, (out, photos, url, concurrency), 1)
        done = sum(1 for _ in read_stage(out, "describe-reference"))
        rates = f"{done / used[0]:.0f} requests/s, {done / used[1]:.0f} for each second of a core"
        yield Row(f"a stage, photos from {kind}", done, rates, *used)


def measure_kill(folder: Path, count: int, url: str, concurrency: int) -> Row:
    """Kill a stage when half of its requests were sent, run it again, and count those that were sent twice."""
    photos, out, log = FolderPhotos(folder / "photos" / "files"), folder / "killed", folder / "log"
    write_synthesis(out, count, 0)
    log.touch()
    process = multiprocessing.get_context("fork").Process(target=run_stage, args=(out, photos, url, concurrency, log))
    start = time.perf_counter()
    process.start()
    while process.is_alive() and log.read_bytes().count(b"\n") < count // 2:
        time.sleep(0.002)
    process.kill()
    process.join()
    killed = len(log.read_bytes().splitlines())
    _, cpu, peak = in_a_fork(run_stage, (out, photos, url, concurrency, log), 1)
    sent = log.read_bytes().splitlines()
    twice = len(sent) - len(set(sent))
    result = f"killed after {killed:,}: {twice:,} sent twice, {count - len(set(sent)):,} never"
    return Row(f"a kill at half, {concurrency} at once", count, result, time.perf_counter() - start, cpu, peak)


def _start(folder: Path) -> None:
    try:
        run_requests(Run(folder), DescribeReference(Path("photos")), _Nobody())
    except BudgetSpent:
        return


def _as_sets(folder: Path) -> None:
    """Do what earlier versions did: hold all keys as texts in two sets."""
    known = {record["key"] for record in read_stage(folder, "describe-reference")}
    seen: set[str] = set()
    for record in read_stage(folder, "pairs"):
        seen.add(record["reference"])
    if len(seen - known) != len(seen) - len(known):
        raise ValueError("described references are in no pair")


def measure_keys(folder: Path, count: int) -> Iterator[Row]:
    """Start a stage with so many pairs, half of which are done, up to its first request."""
    for keys, work, how in (
        (max(2, count // FEWER), _as_sets, "as sets of texts"),
        (max(2, count // FEWER), _start, "sorted"),
        (count, _start, "sorted"),
    ):
        with scratch(folder) as out:
            write_synthesis(Path(out), keys, keys // 2)
            size = sum(path.stat().st_size for path in Path(out).rglob("*.jsonl")) / 2**30
            used = in_a_fork(work, (Path(out),), 1)
        yield Row(f"keys {how}", keys, f"{size:.1f} GiB of records", *used)


def synthesis_scale(
    keys: int = 10_000_000,
    requests: int = 2000,
    concurrency: int = 8,
    folder: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure requests a second of a stage, what a kill at half costs, and the memory of a start with many keys.

    Args:
        keys: Pairs of the start; ten million take 4 GB in the folder.
        requests: Of each run of a stage.
        concurrency: At once.
        folder: For what is written, and removed; null for that of temporary files.
        json: File for the results.
    """
    whole(keys, 2, "keys")
    whole(requests, 2, "requests")
    whole(concurrency, 1, "concurrency")
    output_file(json, "json")
    rows: list[Row] = []
    with scratch(folder) as work, instant_server(ANSWER) as url:
        place = Path(work)
        rows += measure_requests(place, requests, url, concurrency)
        rows.append(measure_kill(place, requests, url, concurrency))
        rows += measure_keys(place, keys)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    cells = [
        (row.case, f"{row.count:,}", row.result, f"{row.seconds:.1f}", f"{row.cpu_seconds:.1f}", f"{row.peak_mib:.0f}")
        for row in rows
    ]
    print(table(("case", "items", "result", "seconds", "CPU seconds", "peak MiB"), cells))
    if json is not None:
        write_json(json, [asdict(row) for row in rows])


def main() -> None:
    """Parse the command line."""
    command(synthesis_scale)


if __name__ == "__main__":
    main()
