"""A model server that answers at once and says the same to everybody, in a process of its own."""

import asyncio
import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any


class _Instant(asyncio.Protocol):
    """HTTP/1.1 as far as a client of ours speaks it: requests with a length, one after the other."""

    def __init__(self, response: bytes) -> None:
        self.response = response
        self.received = bytearray()
        self.wanted = 0  # bytes of the request that is coming, once its head is there

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
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": json.dumps(answer)}}
        ],
        "usage": {"prompt_tokens": 900, "completion_tokens": 120, "total_tokens": 1020},
    }
    body = json.dumps(completion).encode()
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
