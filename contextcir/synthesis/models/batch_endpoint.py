"""A model behind a server with a batch API (OpenAI's /v1/files and /v1/batches): slower, and cheaper."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Account, Answer, Budget, BudgetSpent, PaidModel, Request, Usage
from contextcir.synthesis.models.batch_folder import Batch, BatchFolder, Json, Line
from contextcir.synthesis.models.batch_server import BatchServer, Ended
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.client import ServerError, check_url, connect
from contextcir.synthesis.models.pacing import Retries


class BatchEndpoint(PaidModel):
    """Asks a server in batches, which it answers within a day.

    What was sent is remembered in a folder before and after it is sent: a process that was killed goes on waiting for
    its batches, and sends nothing twice. Lines that expired, were lost, or met an error of the server go into another
    batch; failures are those of `Endpoint`, and "batch expired", "batch cancelled" and "no result".

    Args:
        chat: Which model is asked, and how; its prices are those of batches.
        folder: What is known of the batches; one for each process.
        url: Address of the server, with /v1.
        key_variable: Name of the environment variable with the key; null where the server needs none.
        lines: Requests in a batch, at most.
        largest_file: Bytes of a batch, at most.
        at_once: Batches under way.
        poll: Seconds between two looks at a batch.
        timeout: Seconds for one call of the server.
        retries: When a call is made again, and how often a line is sent.
        budget: What may be spent.

    Raises (from `answer`):
        BudgetSpent: after all that was sent is answered.
        ServerError: if the server refuses the batches, after all that it took is answered.
    """

    def __init__(
        self,
        chat: ChatModel,
        folder: Path,
        url: str = "https://api.openai.com/v1",
        key_variable: str | None = "OPENAI_API_KEY",
        lines: int = 5000,
        largest_file: int = 150_000_000,
        at_once: int = 4,
        poll: float = 60.0,
        timeout: float = 600.0,
        retries: Retries = Retries(attempts=3),  # noqa: B008
        budget: Budget = Budget(),  # noqa: B008
    ) -> None:
        if not 1 <= lines <= 50_000 or at_once < 1 or not poll > 0 or not timeout > 0 or largest_file < 1:
            raise ValueError("lines must be from 1 to 50000, at_once at least 1, poll, timeout, largest_file above 0")
        if budget.cost is not None and chat.prices.input == chat.prices.output == 0:
            raise ValueError("budget.cost needs prices: set prices.input and prices.output, per million tokens")
        self.chat = chat
        self.name = chat.model
        self.folder = folder
        self.url = check_url(url)
        self.key_variable = key_variable
        self.lines = lines
        self.largest_file = largest_file
        self.at_once = at_once
        self.poll = poll
        self.timeout = timeout
        self.retries = retries
        self.account = Account(budget)

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        """Yield an answer for every request."""
        client, key = connect(self.url, self.key_variable, self.timeout, 4)
        async with client:
            server = BatchServer(client, key, self.url, self.key_variable, self.retries)
            asking = _Asking(self, BatchFolder(self.folder), server, key)
            try:
                async for answer in asking.answers(iter(requests)):
                    yield answer
            finally:
                asking.release()


class _Asking:
    """Requests that are under way: ``waiting`` for a batch, or ``sent`` in one, by the id of their line."""

    def __init__(self, endpoint: BatchEndpoint, folder: BatchFolder, server: BatchServer, key: str) -> None:
        self.endpoint = endpoint
        self.folder = folder
        self.server = server
        self.key = key
        self.waiting: list[Line] = []
        self.sent: dict[str, tuple[Line, Usage]] = {}
        self.dialect = Dialect(endpoint.chat.format)
        self.known: set[str] = set()
        self.refusals = 0  # in a row
        self.stop: BudgetSpent | ServerError | None = None

    async def answers(self, requests: Iterator[Request]) -> AsyncIterator[Answer]:
        left, room = True, self.endpoint.lines * self.endpoint.at_once
        while left or self.waiting or self.sent:
            while left and self.stop is None and len(self.waiting) + len(self.sent) < room:
                request = next(requests, None)
                if request is None:
                    left = False
                elif (answer := self._begin(request)) is not None:
                    yield answer
            under_way = self._under_way()
            enough = len(self.waiting) >= self.endpoint.lines or not left or not under_way
            before = len(self.sent)
            if self.waiting and self.stop is None and len(under_way) < self.endpoint.at_once and enough:
                for answer in await self._submit(not under_way):
                    yield answer
            if self.stop is not None and not self.sent:
                raise self.stop
            if (self.sent or self.waiting) and len(self.sent) == before:
                await asyncio.sleep(self.endpoint.poll)
            for batch in self._under_way():
                for answer in await self._look(batch):
                    yield answer

    def release(self) -> None:
        """Hold no budget for what nobody waits for any more."""
        for _, most in self.sent.values():
            self.endpoint.account.settle(most, {})
        self.sent = {}

    def _under_way(self) -> list[Batch]:
        return [batch for batch in self.folder.open() if any(line in self.sent for line in batch.ids)]

    def _begin(self, request: Request) -> Answer | None:
        line = Line(request, self.endpoint.chat, self.dialect, self.key)
        if line.base in self.known:
            raise ValueError(f"request {request.key!r} is asked twice")
        self.known.add(line.base)
        line.failed_before = self.folder.given_up[line.base]
        return self._place(line)

    def _place(self, line: Line) -> Answer | None:
        """Let a request take the results that are there; return its answer, or None where it waits."""
        while (result := self.folder.result(line.id)) is not None or self.folder.has_ended(line.id):
            most = line.exchange.most()
            self.endpoint.account.hold(most)
            answer = self._advance(line, result, most)
            if answer is not None:
                return answer
        if self.folder.holder(line.id) is None:
            self.waiting.append(line)
        else:  # of an earlier run
            most = line.exchange.most()
            self.endpoint.account.hold(most)
            self.sent[line.id] = (line, most)
        return None

    def _advance(self, line: Line, result: Json | None, most: Usage) -> Answer | None:
        before = line.dialect
        used, answer = line.advance(result, most, self.endpoint.retries.attempts)
        self.endpoint.account.settle(most, used)
        if line.dialect != before == self.dialect:
            self.dialect = line.dialect  # requests from now on are asked in this way at once
        return None if answer is None else self._final(line, answer)

    def _final(self, line: Line, answer: Answer) -> Answer:
        self.known.discard(line.base)
        if answer.content is None:
            self.folder.give_up(line.base)
        return answer

    async def _submit(self, nothing_sent: bool) -> list[Answer]:
        """Send a batch of what waits, as far as size and budget allow; return the failures among it."""
        account, failures, chosen = self.endpoint.account, [], []
        content = bytearray()
        while self.waiting and len(chosen) < self.endpoint.lines:
            line = self.waiting[0]
            try:
                encoded = await asyncio.to_thread(line.encoded)
            except Flaw as flaw:
                failures.append(self._final(self.waiting.pop(0), line.exchange.failed(flaw.reason, flaw.detail)))
                continue
            if chosen and len(content) + len(encoded) > self.endpoint.largest_file:
                break
            most = line.exchange.most()
            if not account.reserve(most):
                if not chosen and nothing_sent and not account.in_flight:
                    self.stop = account.used_up(most)
                break
            content += encoded
            chosen.append((self.waiting.pop(0), most))
        if chosen:
            batch = self.folder.new([line.id for line, _ in chosen])
            for line, most in chosen:
                self.sent[line.id] = (line, most)
            batch.file = await self.server.upload(bytes(content), batch.name)
            self.folder.save(batch)
            batch.batch = await self.server.create(batch)
            self.folder.save(batch)
        return failures

    async def _look(self, batch: Batch) -> list[Answer]:
        """Look at a batch; return the answers if it has ended."""
        if batch.batch is None:  # the process was killed on the way: it may be there
            batch.batch = await self.server.find(batch)
            if batch.batch is None:
                return self._again(batch)
            self.folder.save(batch)
        found = await self.server.look(batch.batch)
        if found is None:
            return []
        if found.refused is not None:
            return await self._refused(batch, found)
        self.refusals = 0
        self.folder.keep(batch, found.results)
        answers = []
        for line_id in batch.ids:
            line, most = self.sent.pop(line_id, (None, None))
            if line is None or most is None:
                continue  # answered in an earlier run
            answer = self._advance(line, self.folder.result(line_id), most) or self._place(line)
            if answer is not None:
                answers.append(answer)
        return answers

    def _again(self, batch: Batch) -> list[Answer]:
        """Let the requests of a batch that the server does not have wait for another one."""
        self.folder.forget(batch)
        for line_id in batch.ids:
            line, most = self.sent.pop(line_id, (None, None))
            if line is not None and most is not None:
                self.endpoint.account.settle(most, {})
                self.waiting.append(line)
        return []

    async def _refused(self, batch: Batch, found: Ended) -> list[Answer]:
        self._again(batch)
        self.refusals += 1
        waits_for_others = found.full and self._under_way()
        if self.refusals < self.endpoint.retries.attempts or waits_for_others:
            await asyncio.sleep(self.endpoint.poll)
        else:
            self.stop = ServerError(
                f"{self.endpoint.url} refuses the batch: {found.refused}; its requests count as not asked"
            )
        return []
