"""A model behind OpenAI-compatible servers, one or several: vLLM, SGLang, Ollama, or a vendor."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from enum import Enum
from random import Random
from typing import Any

from contextcir.checks import positive, whole
from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Account, Answer, Budget, PaidModel, Request, add
from contextcir.synthesis.models.chat import ChatModel, Exchange
from contextcir.synthesis.models.client import WORDS, RequestFailure, ServerError, classify, connect, libraries
from contextcir.synthesis.models.pacing import Pace, Pacer, Retries, in_parallel
from contextcir.synthesis.models.servers import Server, Servers, keys, make_servers

log = logging.getLogger(__name__)


class Refusal(Enum):
    """A request that is sent again because of how it was put, not as a retry."""

    OF_DIALECT = "dialect"


class Endpoint(PaidModel):
    """Sends requests to a server, or shares them among several, many at once.

    A request that fails for good is an answer with its reason: timed out, connection, rate limited, server error, bad
    request, unreadable image, refused, empty, cut off, no completion, not JSON, several objects, not the schema, unsafe
    text, too deep, too large. A server that takes no request at all stops the run, and no request counts as failed.
    Of several servers, the least busy one is next; the requests of one that is gone go to the others. Concurrency,
    pace, budget and the count of lost requests are those of all servers together.

    Args:
        chat: Which model answers, and with which parameters.
        url: Address of the server, with /v1; or a list of several, among which requests are shared.
        key_variable: Name of the environment variable with the key; null where the server needs none. Of several
            servers: one name for all of them, or a list with one for each.
        one_each: Send the requests of a shard (a task of a job array) to one of the servers alone, each shard to the
            next one; else all shards share all servers.
        concurrency: Requests at once, over all servers.
        timeout: Seconds for one request, from sending it to its last byte.
        pace: Rate limits.
        retries: When a request is sent again.
        budget: What may be spent.
        lost_after: Requests in a row that fail because of the server until the run stops.

    Raises (from `answer`):
        BudgetSpent: after all that was in flight is answered.
        ServerError: if the server takes no request as it is set up, or is gone.
    """

    path = "/chat/completions"
    exchange: Callable[..., Exchange] = Exchange  # what is sent there, and how the response is read

    def __init__(
        self,
        chat: ChatModel,
        url: list[str] | str = "http://localhost:8000/v1",
        key_variable: list[str | None] | str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        pace: Pace = Pace(),  # noqa: B008
        retries: Retries = Retries(),  # noqa: B008
        budget: Budget = Budget(),  # noqa: B008
        lost_after: int = 20,
        one_each: bool = False,
    ) -> None:
        whole(concurrency, 1, "model.concurrency")
        positive(timeout, "model.timeout")
        whole(lost_after, 1, "model.lost_after")
        budget.check(chat.prices)
        self.chat = chat
        self.name = chat.model
        self.servers = make_servers(url, key_variable, Dialect(chat.format))
        self.key_variable = key_variable
        self.one_each = one_each
        self.concurrency = concurrency
        self.timeout = timeout
        self.pace = pace
        self.retries = retries
        self.lost_after = lost_after
        self.account = Account(budget)
        self._own = self.servers

    @property
    def url(self) -> str:
        """The addresses of the servers."""
        return ", ".join(server.url for server in self.servers)

    def begin(self, index: int, count: int) -> None:
        """Choose the servers of a part, and look for their keys; raises InputError if one is missing."""
        if self.one_each:
            self._own = [self.servers[index % len(self.servers)]]
        libraries()
        keys(self._own)

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        """Yield an answer for every request."""
        async with AsyncExitStack() as opened:
            for server in self._own:
                server.client, server.key = connect(server.url, server.variable, self.timeout, self.concurrency)
                await opened.enter_async_context(server.client)
            sender = _Sender(self, Servers(self._own, self.retries))
            held: list[Answer] = []  # failures that count only if the server answers again
            async with aclosing(in_parallel(requests, sender.answer, self.concurrency)) as answers:
                async for answer, lost in answers:
                    if lost:
                        held.append(answer)
                        if len(held) >= self.lost_after:
                            raise self._gone(held, sender.servers)
                        continue
                    for one in (*held, answer):
                        yield one
                    held = []
            if held and not sender.reached:
                raise self._gone(held, sender.servers)
            for one in held:
                yield one

    def _gone(self, held: list[Answer], servers: Servers) -> ServerError:
        last = held[-1]
        return ServerError(
            f"{servers} failed {len(held)} requests in a row ({last.failure} {last.detail[:WORDS]}): is the server "
            "running? They do not count as failed; the same command sends them again",
            setting="model.url",
        )


class _Sender:
    """Sends the requests of one `Endpoint.answer`."""

    def __init__(self, endpoint: Endpoint, servers: Servers) -> None:
        self.endpoint = endpoint
        self.servers = servers
        self.keys = [server.key for server in servers.servers]
        self.pacer = Pacer(endpoint.pace)
        self.random = Random()  # noqa: S311  (spreads retries in time, no secret)
        self.reached = False

    async def answer(self, request: Request) -> tuple[Answer, bool]:
        """Return the answer to a request, and whether it is missing because the server may be gone."""
        exchange = self.endpoint.exchange(request, self.endpoint.chat, self.keys)
        try:
            await asyncio.to_thread(exchange.load) if request.images else exchange.load()
        except Flaw as flaw:
            return exchange.failed(flaw.reason, flaw.detail), False
        failed = 0
        while True:
            sent = await self._send(exchange)
            if isinstance(sent, Answer):
                return sent, False
            if sent is None:
                failed = 0
                continue
            if isinstance(sent, Refusal):
                continue
            if sent.fatal is not None:
                raise sent.fatal
            failed += 1
            others = self.servers.awake  # they need not wait for what another server demands
            wait = self.endpoint.retries.wait(failed, None if others else sent.retry_after, self.random)
            if wait is None or not sent.retry:
                return exchange.failed(sent.reason, sent.detail), sent.lost
            if others:
                continue
            if sent.reason == "rate limited" and sent.retry_after:
                self.pacer.pause(self.servers.sleep)
            await asyncio.sleep(wait)

    async def _send(self, exchange: Exchange) -> Answer | RequestFailure | Refusal | None:
        """Send a request once; return its answer, or why there is none, or None where a correction is to be sent."""
        most = exchange.most()
        estimated = most["input_tokens"] + most["output_tokens"]
        await self.pacer.turn(estimated)
        account = self.endpoint.account
        await account.admit(most)
        server = self.servers.take()
        dialect = server.dialect
        used = {"requests": 1.0}
        try:
            try:
                async with asyncio.timeout(self.endpoint.timeout):
                    content = await self._post(server, exchange.body(dialect))
            except Exception as error:
                failure = classify(error, server.url, exchange.hidden, server.variable)
                used = most if failure.paid else used  # unknown: count the upper bound
                add(exchange.usage, used)
                self._note(server, failure)
                if failure.dialect and self._adapted(server, dialect, failure.detail):
                    return Refusal.OF_DIALECT
                return failure
            try:
                used, answer = exchange.receive(content, most)
            except Flaw as flaw:  # a proxy's page, or half of a response
                used = most
                add(exchange.usage, used)
                failure = RequestFailure(flaw.reason, flaw.detail, retry=True, paid=True, lost=True)
                self._note(server, failure)
                return failure
            self.reached = True
            self.servers.answered(server)
            self.pacer.used(estimated, used["input_tokens"] + used["output_tokens"])
            return answer
        except asyncio.CancelledError:
            used = most
            raise
        finally:
            self.servers.give_back(server)
            account.settle(most, used)

    def _note(self, server: Server, failure: RequestFailure) -> None:
        """Note whether a server is there, and when it wants to be asked again."""
        if failure.lost:
            self.servers.failed(server, failure.reason)
        else:
            self.reached = True
            self.servers.answered(server)
        if failure.retry and (failure.retry_after or not failure.lost):
            server.rest(failure.retry_after or self.endpoint.retries.first)

    async def _post(self, server: Server, body: dict[str, Any]) -> bytes:
        import httpx2

        response = await server.client.post(self.endpoint.path, body=body, cast_to=httpx2.Response)
        return response.content

    def _adapted(self, server: Server, dialect: Dialect, complaint: str) -> bool:
        """Tell whether to send the request again in another dialect, which all later requests of a server use too."""
        if server.dialect != dialect:
            return True  # another request has changed it already
        changed = dialect.after(complaint)
        if changed is None:
            return False
        log.warning("%s refuses %s (%s): continuing with %s", server.url, dialect, complaint, changed)
        server.dialect = changed
        return True
