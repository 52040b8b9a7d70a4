"""A model behind an OpenAI-compatible server: vLLM, SGLang, Ollama, or a vendor."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from random import Random
from typing import Any

from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Account, Answer, Budget, PaidModel, Request, add
from contextcir.synthesis.models.chat import ChatModel, Exchange
from contextcir.synthesis.models.client import ServerError, Trouble, check_url, connect, trouble_of
from contextcir.synthesis.models.pacing import Pace, Pacer, Retries, in_parallel

log = logging.getLogger(__name__)


class Endpoint(PaidModel):
    """Asks a server, many requests at once.

    A request that fails for good is an answer with its reason: timed out, connection, rate limited, server error, bad
    request, unreadable image, refused, empty, cut off, no completion, not JSON, several objects, not the schema, unsafe
    text, too deep, too large. A server that takes no request at all stops the run: its failures are nobody's.

    Args:
        chat: Which model is asked, and how.
        url: Address of the server, with /v1.
        key_variable: Name of the environment variable with the key; null where the server needs none.
        concurrency: Requests at once.
        timeout: Seconds for one request, from sending it to its last byte.
        pace: Rate limits.
        retries: When a request is sent again.
        budget: What may be spent.
        lost_after: Requests in a row that fail because of the server until the run stops.

    Raises (from `answer`):
        BudgetSpent: after all that was in flight is answered.
        ServerError: if the server takes no request as it is set up, or is gone.
    """

    def __init__(
        self,
        chat: ChatModel,
        url: str = "http://localhost:8000/v1",
        key_variable: str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        pace: Pace = Pace(),  # noqa: B008
        retries: Retries = Retries(),  # noqa: B008
        budget: Budget = Budget(),  # noqa: B008
        lost_after: int = 20,
    ) -> None:
        if concurrency < 1 or not timeout > 0 or lost_after < 1:
            raise ValueError("concurrency and lost_after must be at least 1, and timeout above 0")
        if budget.cost is not None and chat.prices.input == chat.prices.output == 0:
            raise ValueError("budget.cost needs prices: set prices.input and prices.output, per million tokens")
        self.chat = chat
        self.name = chat.model
        self.url = check_url(url)
        self.key_variable = key_variable
        self.concurrency = concurrency
        self.timeout = timeout
        self.pace = pace
        self.retries = retries
        self.lost_after = lost_after
        self.account = Account(budget)
        self.dialect = Dialect(chat.format)

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        """Yield an answer for every request."""
        client, key = connect(self.url, self.key_variable, self.timeout, self.concurrency)
        async with client:
            asking = _Asking(self, client, key)
            held: list[Answer] = []
            async with aclosing(in_parallel(requests, asking.ask, self.concurrency)) as answers:
                async for answer, lost in answers:
                    if lost:
                        held.append(answer)
                        if len(held) >= self.lost_after:
                            raise self._gone(held)
                        continue
                    for one in (*held, answer):
                        yield one
                    held = []
            if held and not asking.reached:
                raise self._gone(held)
            for one in held:
                yield one

    def _gone(self, held: list[Answer]) -> ServerError:
        last = held[-1]
        return ServerError(
            f"{self.url} failed {len(held)} requests in a row, after all retries ({last.failure} {last.detail}): is "
            f"the server running? They count as not asked; start again to go on"
        )


class _Asking:
    """The requests to a server that are under way."""

    def __init__(self, endpoint: Endpoint, client: Any, key: str) -> None:
        self.endpoint = endpoint
        self.client = client
        self.key = key
        self.pacer = Pacer(endpoint.pace)
        self.random = Random()
        self.reached = False

    async def ask(self, request: Request) -> tuple[Answer, bool]:
        """Return the answer to a request, and whether it is missing because the server may be gone."""
        exchange = Exchange(request, self.endpoint.chat, self.key)
        try:
            await asyncio.to_thread(exchange.load) if request.images else exchange.load()
        except Flaw as flaw:
            return exchange.failed(flaw.reason, flaw.detail), False
        failed = 0
        while True:
            dialect = self.endpoint.dialect
            sent = await self._send(exchange, dialect)
            if isinstance(sent, Answer):
                return sent, False
            if sent is None:
                failed = 0
                continue
            if sent.fatal is not None:
                raise ServerError(sent.fatal)
            if sent.dialect and self._adapted(dialect, sent.detail):
                continue
            failed += 1
            wait = self.endpoint.retries.wait(failed, sent.wait, self.random) if sent.again else None
            if wait is None:
                return exchange.failed(sent.reason, sent.detail), sent.lost
            if sent.reason == "rate limited" and sent.wait:
                self.pacer.pause(sent.wait)
            await asyncio.sleep(wait)

    async def _send(self, exchange: Exchange, dialect: Dialect) -> Answer | Trouble | None:
        """Send a request once; return its answer, or what went wrong, or None where a correction is to be sent."""
        most = exchange.most()
        estimated = most["input_tokens"] + most["output_tokens"]
        await self.pacer.turn(estimated)
        account = self.endpoint.account
        await account.admit(most)
        used = {"requests": 1.0}
        try:
            try:
                async with asyncio.timeout(self.endpoint.timeout):
                    content = await self._post(exchange.body(dialect))
            except Exception as error:
                trouble = trouble_of(error, self.endpoint.url, self.key, self.endpoint.key_variable)
                used = most if trouble.paid else used  # nobody knows: the most that it may be
                add(exchange.usage, used)
                self.reached |= not trouble.lost
                return trouble
            try:
                used, answer = exchange.receive(content, most)
            except Flaw as flaw:  # a proxy's page, or half of a response
                used = most
                add(exchange.usage, used)
                return Trouble(flaw.reason, flaw.detail, again=True, paid=True, lost=True)
            self.reached = True
            self.pacer.used(estimated, used["input_tokens"] + used["output_tokens"])
            return answer
        except asyncio.CancelledError:
            used = most
            raise
        finally:
            account.settle(most, used)

    async def _post(self, body: dict[str, Any]) -> bytes:
        import httpx2

        response = await self.client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        return response.content

    def _adapted(self, dialect: Dialect, complaint: str) -> bool:
        """Whether the server is to be asked in another way; all requests after this one are."""
        if self.endpoint.dialect != dialect:
            return True  # another request found out
        changed = dialect.after(complaint)
        if changed is None:
            return False
        log.warning("%s refuses %s (%s): goes on with %s", self.endpoint.url, dialect, complaint, changed)
        self.endpoint.dialect = changed
        return True
