"""Measure how many requests a second the code that asks model servers can do, against one that answers at once.

python -m experiments.benchmarks.synthesis --requests 2000 --json synthesis.json
"""

import asyncio
import json as json_format
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contextcir.synthesis.models.base import Request
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.endpoint import Endpoint
from experiments.benchmarks.command import command
from experiments.benchmarks.instant_server import instant_server

OBJECT = {
    "type": "object",
    "properties": {"object": {"type": "string"}, "descriptors": {"type": "array", "items": {"type": "string"}}},
    "required": ["object", "descriptors"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"objects": {"type": "array", "items": OBJECT, "minItems": 1}},
    "required": ["objects"],
    "additionalProperties": False,
}
ANSWER = {"objects": [{"object": name, "descriptors": ["red", "small", "on the left"]} for name in "abcdefgh"]}


@dataclass
class Speed:
    """How fast requests of one kind are.

    Args:
        case: What is sent.
        requests: How many.
        per_second: By the clock; other programs on the machine make it smaller.
        cpu_ms: Milliseconds of processor time of this process for one request, which they change little.
        sent_kb: Kilobytes of one image.
    """

    case: str
    requests: int
    per_second: float
    cpu_ms: float
    sent_kb: float


async def _ask(endpoint: Endpoint, requests: Iterator[Request]) -> int:
    answered = 0
    async for answer in endpoint.answer(requests):
        if answer.content != ANSWER:
            raise ValueError(f"request {answer.key} failed: {answer.failure} {answer.detail}")
        answered += 1
    return answered


def measure(url: str, case: str, count: int, concurrency: int, images: tuple[Path, ...]) -> Speed:
    """Ask ``count`` requests with these images each."""
    system, user = "Describe the objects of the image. " * 20, "The objects of the other image are these. " * 20
    endpoint = Endpoint(ChatModel("instant"), url, concurrency=concurrency)
    asyncio.run(_ask(endpoint, (Request(str(n), system, user, SCHEMA, images, n) for n in range(count // 10))))
    start, used = time.perf_counter(), _cpu_seconds()
    answered = asyncio.run(_ask(endpoint, (Request(str(n), system, user, SCHEMA, images, n) for n in range(count))))
    seconds, used = time.perf_counter() - start, _cpu_seconds() - used
    size = sum(path.stat().st_size for path in images) / 1000
    return Speed(case, answered, answered / seconds, 1000 * used / answered, size)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)  # all threads
    return usage.ru_utime + usage.ru_stime


def _photograph(path: Path, side: int) -> Path:
    """Write a JPEG with the bytes of a photograph of this size, more or less."""
    coarse = np.random.default_rng(0).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def synthesis(requests: int = 2000, concurrency: int = 32, json: Path | None = None) -> None:
    """Measure requests a second, and processor time of one.

    Args:
        requests: Of each case.
        concurrency: At once.
        json: File for the results.
    """
    with tempfile.TemporaryDirectory() as folder, instant_server(ANSWER) as url:
        small = _photograph(Path(folder) / "small.jpg", 256)
        large = _photograph(Path(folder) / "large.jpg", 2048)
        cases = [("no image", ()), ("one small image", (small,)), ("two small images", (small, small))]
        found = [measure(url, case, requests, concurrency, images) for case, images in cases]
        fewer = max(20, requests // 20)
        found.append(measure(url, "one image of 2048 pixels, scaled to 1024", fewer, concurrency, (large,)))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {concurrency} at once")
    print("| case | requests | requests/s | CPU ms per request | KB of images |\n| --- | ---: | ---: | ---: | ---: |")
    for one in found:
        print(f"| {one.case} | {one.requests:,} | {one.per_second:.0f} | {one.cpu_ms:.2f} | {one.sent_kb:.0f} |")
    if json is not None:
        json.write_text(json_format.dumps([asdict(one) for one in found], indent=1), encoding="utf-8")


def main() -> None:
    """Parse the command line."""
    command(synthesis)


if __name__ == "__main__":
    main()
