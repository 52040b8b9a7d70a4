"""A model behind an OpenAI-compatible server: vLLM, SGLang, Ollama, or a vendor."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from random import Random
from typing import Any

from contextcir.errors import InputError
from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Account, Answer, Budget, PaidModel, Request, add
from contextcir.synthesis.models.chat import ChatModel, Exchange
from contextcir.synthesis.models.client import RequestFailure, ServerError, check_url, classify, connect
from contextcir.synthesis.models.pacing import Pace, Pacer, Retries, in_parallel

log = logging.getLogger(__name__)


class Endpoint(PaidModel):
    """Sends requests to a server, many at once.

    A request that fails for good is an answer with its reason: timed out, connection, rate limited, server error, bad
    request, unreadable image, refused, empty, cut off, no completion, not JSON, several objects, not the schema, unsafe
    text, too deep, too large. A server that takes no request at all stops the run, and no request counts as failed.

    Args:
        chat: Which model answers, and with which parameters.
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
            raise InputError(
                "concurrency and lost_after must be at least 1, and timeout above 0, got "
                f"{concurrency}, {lost_after} and {timeout}",
                setting="model",
            )
        budget.check(chat.prices)
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
            sender = _Sender(self, client, key)
            held: list[Answer] = []  # failures that count only if the server answers again
            async with aclosing(in_parallel(requests, sender.answer, self.concurrency)) as answers:
                async for answer, lost in answers:
                    if lost:
                        held.append(answer)
                        if len(held) >= self.lost_after:
                            raise self._gone(held)
                        continue
                    for one in (*held, answer):
                        yield one
                    held = []
            if held and not sender.reached:
                raise self._gone(held)
            for one in held:
                yield one

    def _gone(self, held: list[Answer]) -> ServerError:
        last = held[-1]
        return ServerError(
            f"{self.url} failed {len(held)} requests in a row, after all retries ({last.failure} {last.detail}): is "
            "the server running? These requests do not count as failed; the same command sends them again",
            setting="model.url",
        )


class _Sender:
    """Sends the requests of one `Endpoint.answer`."""

    def __init__(self, endpoint: Endpoint, client: Any, key: str) -> None:
        self.endpoint = endpoint
        self.client = client
        self.key = key
        self.pacer = Pacer(endpoint.pace)
        self.random = Random()  # noqa: S311  (spreads retries in time, no secret)
        self.reached = False

    async def answer(self, request: Request) -> tuple[Answer, bool]:
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
                raise sent.fatal
            if sent.dialect and self._adapted(dialect, sent.detail):
                continue
            failed += 1
            wait = self.endpoint.retries.wait(failed, sent.retry_after, self.random) if sent.retry else None
            if wait is None:
                return exchange.failed(sent.reason, sent.detail), sent.lost
            if sent.reason == "rate limited" and sent.retry_after:
                self.pacer.pause(sent.retry_after)
            await asyncio.sleep(wait)

    async def _send(self, exchange: Exchange, dialect: Dialect) -> Answer | RequestFailure | None:
        """Send a request once; return its answer, or why there is none, or None where a correction is to be sent."""
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
                failure = classify(error, self.endpoint.url, self.key, self.endpoint.key_variable)
                used = most if failure.paid else used  # unknown: count the upper bound
                add(exchange.usage, used)
                self.reached |= not failure.lost
                return failure
            try:
                used, answer = exchange.receive(content, most)
            except Flaw as flaw:  # a proxy's page, or half of a response
                used = most
                add(exchange.usage, used)
                return RequestFailure(flaw.reason, flaw.detail, retry=True, paid=True, lost=True)
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
        """Tell whether to send the request again in another dialect, which all later requests use too."""
        if self.endpoint.dialect != dialect:
            return True  # another request has changed it already
        changed = dialect.after(complaint)
        if changed is None:
            return False
        log.warning("%s refuses %s (%s): continuing with %s", self.endpoint.url, dialect, complaint, changed)
        self.endpoint.dialect = changed
        return True
