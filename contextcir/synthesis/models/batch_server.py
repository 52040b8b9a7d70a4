"""The calls of a batch API, each repeated where that may help and costs nothing twice."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, NamedTuple, TypeVar

from contextcir.synthesis.models.batch_folder import Batch
from contextcir.synthesis.models.client import LARGEST_FILE, ServerError, allowing, printable, trouble_of
from contextcir.synthesis.models.pacing import Retries

Result = TypeVar("Result")
WAITING = ("validating", "in_progress", "finalizing", "cancelling")
ENDED = ("completed", "expired", "cancelled")
FULL = ("token_limit_exceeded", "request_limit_exceeded")  # of what waits on the server


class Ended(NamedTuple):
    """How a batch ended: its ``results``, or why the server took none of it, and whether it is only ``full``."""

    results: bytes = b""
    refused: str | None = None
    full: bool = False


class BatchServer:
    """A server with a batch API."""

    def __init__(self, client: Any, key: str, url: str, key_variable: str | None, retries: Retries) -> None:
        self.client = client
        self.key = key
        self.url = url
        self.key_variable = key_variable
        self.retries = retries
        self.random = Random()

    async def upload(self, content: bytes, name: str) -> str:
        """Send the lines of a batch, which costs nothing; return the id of the file."""
        file = (f"{name}.jsonl", content, "application/jsonl")
        made = await self._call(lambda: self.client.files.create(file=file, purpose="batch"))
        return self._id(made)

    async def create(self, batch: Batch) -> str:
        """Start a batch and return its id; where a reply was lost, it is looked for before another is started."""
        lost = False

        async def start() -> str:
            nonlocal lost
            if lost and (found := await self.find(batch)) is not None:
                return found
            lost = True
            made = await self.client.batches.create(
                input_file_id=batch.file,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"synthesis": batch.name},
            )
            return self._id(made)

        return await self._call(start)

    async def find(self, batch: Batch) -> str | None:
        """Return the id of a batch of which only our name for it is known."""

        async def search() -> str | None:
            async for one in self.client.batches.list(limit=100):
                if (one.metadata or {}).get("synthesis") == batch.name:
                    return self._id(one)
                if one.created_at < batch.made - 86_400:
                    break  # the newest come first
            return None

        return await self._call(search)

    async def look(self, batch: str) -> Ended | None:
        """Return how a batch ended; None: it has not."""
        found = await self._call(lambda: self._retrieve(batch))
        if found.status in WAITING:
            return None
        files = [one for one in (found.output_file_id, found.error_file_id) if one]
        if found.status == "failed" or not (files or found.status in ENDED):
            errors = list((found.errors and found.errors.data) or [])
            told = printable(
                "; ".join(f"{one.code}: {one.message}" for one in errors[:3]) or f"status {found.status}", self.key
            )
            return Ended(refused=told, full=any(one.code in FULL for one in errors))
        return Ended(b"".join([await self._download(one) for one in files]))

    async def _retrieve(self, batch: str) -> Any:
        import openai

        try:
            return await self.client.batches.retrieve(batch)
        except openai.NotFoundError:
            raise ServerError(
                f"{self.url} does not know batch {printable(batch)} (404): set url and key back, or, if it is gone, "
                f"remove the .state.json that names it in the folder of the batches, and its requests are asked, and "
                f"paid, again"
            ) from None

    async def _download(self, name: str) -> bytes:
        async def get() -> bytes:
            with allowing(LARGEST_FILE):
                content = (await self.client.files.content(name)).content
            return content if content.endswith(b"\n") or not content else content + b"\n"

        return await self._call(get)

    async def _call(self, call: Callable[[], Awaitable[Result]]) -> Result:
        failed = 0
        while True:
            try:
                return await call()
            except ServerError:
                raise
            except Exception as error:
                trouble = trouble_of(error, self.url, self.key, self.key_variable)
            failed += 1
            wait = self.retries.wait(failed, trouble.wait, self.random) if trouble.again else None
            if wait is None:
                told = trouble.fatal or f"{self.url} does not take batches: {trouble.reason} {trouble.detail}"
                raise ServerError(f"{told}; what was sent is remembered: start again to go on")
            await asyncio.sleep(wait)

    def _id(self, made: Any) -> str:
        if not isinstance(made.id, str) or not made.id:
            raise ServerError(f"{self.url} gives no id for what was sent: it has no batch API")
        return made.id
