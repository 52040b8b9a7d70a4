"""Measure the search page's server under load: times of queries, failures, and memory, over HTTP on this machine.

python -m experiments.benchmarks.search_load --clients 16 --queries 500 --json search_load.json
"""

import http.client
import json as json_texts
import multiprocessing
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from contextcir import assets
from contextcir.errors import InputError
from contextcir.files import read_json, write_json
from data_modules.scenes.writer import Size, write_scenes
from experiments.benchmarks.measure import measured_on, require_at_least
from experiments.command import command, table
from experiments.outputs import output_file

WARM_UP = 8  # queries, before anything is measured
VAL = Path("img_raw") / "val"


@dataclass(frozen=True)
class Asked:
    """A query over HTTP: an image that is uploaded, and a text."""

    image: Path
    text: str


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Args:
        images: Of the index.
        clients: That ask at the same time, each its next query when the last one is answered.
        queries: Of all clients.
        failures: Answers that were not 200, and broken connections.
        seconds: From the first query to the last answer.
        p50: Milliseconds from a query to its answer, by the median.
        p95: Likewise, the time that 95 % of the queries take at most.
        slowest: Likewise.
        calls: Of the model, each for a batch.
        memory_start: Resident memory of the server after the warm-up, in MiB.
        memory_end: Likewise, after the last query.
    """

    images: int
    clients: int
    queries: int
    failures: int
    seconds: float
    p50: float
    p95: float
    slowest: float
    calls: int
    memory_start: float
    memory_end: float


def host(model: str, photos: Path, index: Path, threads: int, pipe: Connection) -> None:
    """Index a folder and serve it, in a process of its own; answer "state" with memory and calls, and stop at "end"."""
    from contextcir.search.searcher import Searcher
    from experiments.search.server import running

    torch.set_num_threads(threads)
    searcher = Searcher.load(model, device="cpu")
    searcher.index_folder(photos, index)
    calls, answer = 0, searcher.search_many

    def counted(queries: Sequence[Any]) -> list[Any]:
        nonlocal calls
        calls += 1
        return answer(queries)

    searcher.search_many = counted  # type: ignore[method-assign]
    with running(searcher) as address:
        pipe.send((address, searcher.index.count()))
        while pipe.recv() == "state":
            pipe.send((resident_memory(), calls))


def resident_memory() -> float:
    """Return the memory of this process that is in RAM now, in MiB; 0 where the system does not tell (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def read_queries(root: Path, count: int) -> list[Asked]:
    """Return queries of the split val, over again where there are fewer."""
    records = read_json(root / "captions" / "cap.scenes.val.json")
    listed = [Asked(root / VAL / f"{record['reference']}.jpg", record["caption"]) for record in records]
    return [listed[number % len(listed)] for number in range(count)]


def form_of(asked: Asked) -> tuple[bytes, str]:
    """Return the body of a form and its content type."""
    border = secrets.token_hex(16)
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in
             {"text": asked.text, "k": "20"}.items()]  # fmt: skip
    head = "".join(f"--{border}\r\n{part}\r\n" for part in parts)
    head += f'--{border}\r\nContent-Disposition: form-data; name="images"; filename="query.jpg"\r\n'
    head += "Content-Type: image/jpeg\r\n\r\n"
    body = head.encode() + asked.image.read_bytes() + f"\r\n--{border}--\r\n".encode()
    return body, f"multipart/form-data; boundary={border}"


def ask_all(address: str, queries: Sequence[Asked]) -> list[tuple[float, bool]]:
    """Ask queries one after the other; return the milliseconds of each, and whether it was answered with results."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=120)
    done = []
    for query in queries:
        body, kind = form_of(query)
        start = time.perf_counter()
        try:
            connection.request("POST", "/api/search", body, {"content-type": kind})
            response = connection.getresponse()
            good = bool(json_texts.loads(response.read()).get("results")) and response.status == 200
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()  # the next request opens it again
            good = False
        done.append((1000 * (time.perf_counter() - start), good))
    connection.close()
    return done


def measure(model: str, root: Path, clients: int, queries: int, threads: int) -> Figures:
    """Serve the images of a split in a process of its own, and ask it from threads of this one."""
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        server = context.Process(target=host, args=(model, root / VAL, Path(folder) / "index", threads, far))
        server.start()
        far.close()
        try:
            address, images = pipe.recv()
            listed = read_queries(root, queries)
            ask_all(address, listed[:WARM_UP])
            before, calls = _state(pipe)
            start = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                answers = pool.map(lambda first: ask_all(address, listed[first::clients]), range(clients))
                done = [one for answered in answers for one in answered]
            seconds = time.perf_counter() - start
            after, calls_after = _state(pipe)
            pipe.send("end")
        except EOFError:
            raise InputError("the server ended before it answered: its last lines say why") from None
        finally:
            server.join(30)
            if server.is_alive():
                server.terminate()
    times = [milliseconds for milliseconds, _ in done]
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    failures = sum(not good for _, good in done)
    return Figures(
        images, clients, len(done), failures, seconds, statistics.median(times), cuts[18], max(times),
        calls_after - calls, before, after,
    )  # fmt: skip


def _state(pipe: Connection) -> tuple[float, int]:
    pipe.send("state")
    return pipe.recv()


def search_load(
    clients: int = 16,
    queries: int = 500,
    references: int = 48,
    root: Path | None = None,
    model: str = assets.EMBEDDED,
    threads: int = 1,
    json: Path | None = None,
) -> None:
    """Measure the server with several clients at once.

    Args:
        clients: That ask at the same time.
        queries: Of all clients together, at least as many as clients.
        references: Of the scenes that are drawn: 21 images each.
        root: Of scenes that exist already, to be served instead.
        model: As `experiments.search index` takes it.
        threads: Of the model.
        json: File for the results.
    """
    require_at_least(1, clients=clients, references=references, threads=threads)
    require_at_least(max(2, clients), queries=queries)
    output_file(json, "json")
    with tempfile.TemporaryDirectory() as folder:
        scenes = root or Path(folder) / "scenes"
        if root is None:
            write_scenes(scenes, 0, Size(1, references, 1))
        figures = measure(model, scenes, clients, queries, threads)
    load = os.getloadavg()[0]
    machine = f"{measured_on(torch.device('cpu'), threads)}; load {load:.1f} on {os.cpu_count()} processors at the end"
    header = ["images", "clients", "queries", "failed", "queries/s", "p50, ms", "p95, ms", "slowest, ms", "model calls",
              "MiB before", "MiB after"]  # fmt: skip
    row = [f"{figures.images:,}", str(clients), str(figures.queries), str(figures.failures)]
    row += [f"{figures.queries / figures.seconds:.1f}", f"{figures.p50:.0f}", f"{figures.p95:.0f}"]
    row += [f"{figures.slowest:.0f}", str(figures.calls), f"{figures.memory_start:.0f}", f"{figures.memory_end:.0f}"]
    print(f"{model}; {machine}\n\n{table(header, [row], left=0)}", end="")
    if json is not None:
        write_json(json, {"model": model, "machine": machine, **asdict(figures)})


def main() -> None:
    """Parse the command line."""
    command(search_load)


if __name__ == "__main__":
    main()
