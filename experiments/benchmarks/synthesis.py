"""Measure the client of model servers, in requests a second, against a server that answers at once.

python -m experiments.benchmarks.synthesis --requests 2000 --json synthesis.json

The server is a process of its own and gives every request the same answer.
"""

import asyncio
import json as json_format
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contextcir.files import write_json
from contextcir.synthesis.describe import OBJECTS
from contextcir.synthesis.models.base import Request
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.endpoint import Endpoint
from experiments.command import command, table
from experiments.outputs import output_file


class _Instant(asyncio.Protocol):
    """HTTP/1.1 as far as our client uses it: requests with a length, one after the other."""

    def __init__(self, response: bytes) -> None:
        self.response = response
        self.received = bytearray()
        self.wanted = 0  # bytes of the current request, known once its head is complete

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while True:
            if not self.wanted:
                end = self.received.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self.received[:end]).lower()
                self.wanted = end + 4 + int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self.received) < self.wanted:
                return
            del self.received[: self.wanted]
            self.wanted = 0
            self.transport.write(self.response)


def _serve(answer: dict[str, Any], pipe: Connection) -> None:
    completion = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 1,
        "model": "instant",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": json_format.dumps(answer)},
            }
        ],
        "usage": {"prompt_tokens": 900, "completion_tokens": 120, "total_tokens": 1020},
    }
    body = json_format.dumps(completion).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Instant(head + body), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def instant_server(answer: dict[str, Any]) -> Iterator[str]:
    """Run the server; yields its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(answer, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(120):
            raise ValueError("the server did not start within two minutes")
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


ANSWER = {"objects": [{"object": name, "descriptors": ["red", "small", "on the left"]} for name in "abcdefgh"]}


@dataclass
class Speed:
    """How fast requests of one kind are.

    Args:
        case: Name of the kind.
        requests: Number of requests.
        per_second: By the wall clock, so that load on the machine lowers it.
        cpu_ms: CPU milliseconds of this process for one request, which load changes little.
        sent_kb: Kilobytes of one image.
    """

    case: str
    requests: int
    per_second: float
    cpu_ms: float
    sent_kb: float


async def _send(endpoint: Endpoint, requests: Iterator[Request]) -> int:
    answered = 0
    async for answer in endpoint.answer(requests):
        if answer.content != ANSWER:
            raise ValueError(f"request {answer.key} failed: {answer.failure} {answer.detail}")
        answered += 1
    return answered


def measure(url: str, case: str, count: int, concurrency: int, images: tuple[Path, ...]) -> Speed:
    """Send ``count`` requests with these images each."""
    system, user = "Describe the objects of the image. " * 20, "The objects of the other image are these. " * 20
    endpoint = Endpoint(ChatModel("instant"), url, concurrency=concurrency)
    asyncio.run(_send(endpoint, (Request(str(n), system, user, OBJECTS, images, n) for n in range(count // 10))))
    start, used = time.perf_counter(), _cpu_seconds()
    answered = asyncio.run(_send(endpoint, (Request(str(n), system, user, OBJECTS, images, n) for n in range(count))))
    seconds, used = time.perf_counter() - start, _cpu_seconds() - used
    size = sum(path.stat().st_size for path in images) / 1000
    return Speed(case, answered, answered / seconds, 1000 * used / answered, size)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)  # all threads
    return usage.ru_utime + usage.ru_stime


def photograph(path: Path, side: int) -> Path:
    """Write a JPEG of about as many bytes as a photograph of this size."""
    coarse = np.random.default_rng(0).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def synthesis(requests: int = 2000, concurrency: int = 32, json: Path | None = None) -> None:
    """Measure requests a second, and the CPU time of one request.

    Args:
        requests: Of each case.
        concurrency: At once.
        json: File for the results.
    """
    output_file(json, "json")
    with tempfile.TemporaryDirectory() as folder, instant_server(ANSWER) as url:
        small = photograph(Path(folder) / "small.jpg", 256)
        large = photograph(Path(folder) / "large.jpg", 2048)
        cases = [("no image", ()), ("one small image", (small,)), ("two small images", (small, small))]
        speeds = [measure(url, case, requests, concurrency, images) for case, images in cases]
        fewer = max(20, requests // 20)
        speeds.append(measure(url, "one image of 2048 pixels, scaled to 1024", fewer, concurrency, (large,)))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {concurrency} at once")
    rows = [
        (each.case, f"{each.requests:,}", f"{each.per_second:.0f}", f"{each.cpu_ms:.2f}", f"{each.sent_kb:.0f}")
        for each in speeds
    ]
    print(table(("case", "requests", "requests/s", "CPU ms per request", "KB of images"), rows))
    if json is not None:
        write_json(json, [asdict(each) for each in speeds])


def main() -> None:
    """Parse the command line."""
    command(synthesis)


if __name__ == "__main__":
    main()
