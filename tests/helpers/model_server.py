"""A stand-in for an OpenAI-compatible model server: real HTTP on a local port, with a script of faults.

    with ModelServer(answer) as server:            # answer(body) -> dict or str; default: the smallest valid one
        server.script = [limited(0.1), None, cut()]   # one per chat request as they come; None, and the end: answered
        ... server.url ...                         # "http://127.0.0.1:PORT/v1"; any process of this machine may ask
    server.asked     # every chat body, in order, with `line.headers`; of a batch file, when it is run
    server.paid      # Counter: digest of messages -> how often it was charged
    server.paid_twice()                            # texts of what was charged more than once

``script`` may be a function of (number from 0, body) instead. ``server.busiest`` is the largest number of requests
that were being answered at once. `tests.helpers.model_batches` runs batch files with it, without HTTP.
Faults are in `tests.helpers.model_faults`.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from tests.helpers.model_faults import Json, Reply, error, sample

Script = Sequence[Reply | None] | Callable[[int, Json], Reply | None]


@dataclass(frozen=True)
class Asked:
    """One chat request as it came."""

    body: Json
    headers: Mapping[str, str]

    @property
    def texts(self) -> list[str]:
        """All texts of the messages."""
        return texts(self.body)

    @property
    def images(self) -> list[str]:
        """The data URLs of the images."""
        contents = [message["content"] for message in self.body["messages"] if isinstance(message["content"], list)]
        return [part["image_url"]["url"] for parts in contents for part in parts if part["type"] == "image_url"]


class ModelServer:
    """The server, in a thread of its own; a context manager. ``path``: the only one that it answers."""

    path = "/v1/chat/completions"

    def __init__(self, answer: Callable[[Json], Json | str] | None = None, script: Script = ()) -> None:
        self.answer = answer or smallest
        self.script = script
        self.asked: list[Asked] = []
        self.paid: Counter[str] = Counter()
        self.paid_texts: dict[str, list[str]] = {}
        self.busy = self.busiest = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "ModelServer":
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26, backlog=1000)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(30)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def paid_twice(self) -> list[list[str]]:
        """Return the texts of what was charged for more than once."""
        return [self.paid_texts[digest] for digest, times in self.paid.items() if times > 1]

    def chat(self, body: Json, headers: Mapping[str, str]) -> Reply:
        """Note a chat request, charge for it, and return what the script, or else the model, says."""
        number = len(self.asked)
        self.asked.append(Asked(body, headers))
        if callable(self.script):
            reply = self.script(number, body)
        else:
            reply = self.script[number] if number < len(self.script) else None
        reply = reply or Reply()
        if reply.paid:
            digest = blake2b(json.dumps(body["messages"]).encode(), digest_size=8).hexdigest()
            self.paid[digest] += 1
            self.paid_texts[digest] = texts(body)
        return reply

    def complete(self, reply: Reply, body: Json) -> bytes:
        """Return the body of the response to a chat request."""
        if reply.body is not None:
            return reply.body
        content = reply.content
        if content is None and reply.refusal is None:
            said = self.answer(body)
            content = said if isinstance(said, str) else json.dumps(said)
        message = {"role": "assistant", "content": content, "refusal": reply.refusal}
        completion = {
            "id": reply.id or f"chatcmpl-{len(self.asked)}",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": None}],
        }
        if reply.usage:
            prompt = len(" ".join(texts(body))) // 4
            output = len(content or "") // 4
            completion["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
            }
        return json.dumps(completion).encode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _read(reader):
                if not await self._respond(writer, *request):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled at the end, where asyncio's streams would print a traceback
        finally:
            writer.close()

    async def _respond(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], content: bytes
    ) -> bool:
        if path != self.path:
            reply = error(404, f"no {method} {path}", "not_found")
            return await _write(writer, reply, reply.body or b"")
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        try:
            body = json.loads(content)
            reply = self.chat(body, headers)
            await asyncio.sleep(reply.wait)
            return await _write(writer, reply, self.complete(reply, body))
        finally:
            self.busy -= 1

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def texts(body: Json) -> list[str]:
    """Return all texts of the messages of a chat request."""
    contents = [message["content"] for message in body["messages"]]
    parts = [[{"type": "text", "text": one}] if isinstance(one, str) else one for one in contents]
    return [part["text"] for content in parts for part in content if part["type"] == "text"]


def smallest(body: Json) -> Any:
    """Return the smallest answer that follows the schema asked for."""
    chosen = body.get("response_format") or {}
    return sample(chosen["json_schema"]["schema"]) if "json_schema" in chosen else {}


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return method, path, headers, await _content(reader, headers)


async def _content(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    content = b""
    while size := int(await reader.readline(), 16):
        content += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return content


async def _write(writer: asyncio.StreamWriter, reply: Reply, content: bytes) -> bool:
    headers = {"content-type": "application/json", "content-length": str(len(content)), **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    response = "\r\n".join([*lines, "", ""]).encode() + content
    writer.write(response if reply.cut is None else response[: reply.cut])
    await writer.drain()
    return reply.cut is None
