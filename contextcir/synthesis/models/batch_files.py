"""Requests as batch files: written for `vllm run-batch` or a vendor's batch API, and their answers read from files.

Both sides have OpenAI's batch format, one JSON object a line: a request has ``custom_id``, ``method``, ``url`` and
``body``; an answer has ``custom_id``, ``response`` (``status_code``, ``body``) and ``error``.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.checks import whole
from contextcir.errors import InputError, printable
from contextcir.files import ordinary_file, parse_json, read_text, whole_file
from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Account, Answer, AnswersAwaited, Budget, PaidModel, Request, Stopped, Usage
from contextcir.synthesis.models.chat import ChatModel, Exchange

TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # HTTP status codes after which a retry may help
WRITTEN = re.compile(rb'\{"custom_id": "([0-9a-f]{32})"')  # how the lines that `Line.encoded` makes begin
Json = dict[str, Any]


class BatchFiles(PaidModel):
    """Writes requests to files, and reads the answers that somebody put beside them.

    The first run writes ``requests-*.jsonl`` and stops. Answer files go into the same folder under any other name that
    ends in ``.jsonl``: several, with lines in any order, of some requests only, or with errors in place of answers.
    The same command then continues: it yields the answers, and writes files again for requests that need another try
    (an error that may pass, an answer that does not follow the schema). Requests that stay without an answer are
    written once more if their file is removed. Several processes (shards) may share the folder.

    Args:
        chat: Which model answers, and with which parameters; its prices are those of batches.
        folder: Of the files.
        requests: In a file, at most.
        largest_file: Bytes of a file, at most.
        attempts: How often a request is written at most when it meets errors.
        budget: What may be spent.

    Raises (from `answer`):
        AnswersAwaited: after all answers that are there, if requests are without one.
        BudgetSpent: likewise, if none waits and the budget does not allow the next request.
    """

    def __init__(
        self,
        chat: ChatModel,
        folder: Path,
        requests: int = 5000,
        largest_file: int = 150_000_000,
        attempts: int = 3,
        budget: Budget = Budget(),  # noqa: B008
    ) -> None:
        whole(requests, 1, "model.requests", 50_000)
        whole(largest_file, 1, "model.largest_file", 200_000_000)
        whole(attempts, 1, "model.attempts")
        budget.check(chat.prices)
        self.chat = chat
        self.name = chat.model
        self.folder = Path(folder).expanduser()
        self.requests = requests
        self.largest_file = largest_file
        self.attempts = attempts
        self.account = Account(budget)

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        """Yield an answer for every request that has one."""
        batch = _Batch(self)
        try:
            for request in requests:
                if (answer := batch.begin(request)) is not None:
                    yield answer
            for failure in batch.write():
                await asyncio.sleep(0)  # reading images blocks: let the caller write its answers meanwhile
                if failure is not None:
                    yield failure
        finally:
            batch.release()
        if (stop := batch.stop()) is not None:
            raise stop


class _Batch:
    """The requests of one `BatchFiles.answer`: those to be written, and those that wait for an answer."""

    def __init__(self, model: BatchFiles) -> None:
        self.model = model
        self.folder = _Folder(model.folder)
        self.dialect = Dialect(model.chat.format)
        self.unwritten: list[Line] = []
        self.reserved: list[Usage] = []  # of requests that wait for an answer
        self.files: list[Path] = []  # written by this process
        self.refused: Stopped | None = None  # by the budget

    def begin(self, request: Request) -> Answer | None:
        """Take the answers that are there; return the final one, or None where the request waits."""
        line = Line(request, self.model.chat, self.dialect)
        line.failed_before = self.folder.failed[line.base]
        while (result := self.folder.result(line.id)) is not None:
            most = line.exchange.most()
            self.model.account.hold(most)
            usage, answer = line.advance(result, most, self.model.attempts)
            self.model.account.settle(most, usage)
            self.dialect = line.dialect  # what the server refuses is not written again
            if answer is not None:
                if answer.content is None:
                    self.folder.note_failure(line.base)
                return answer
        if line.id in self.folder.written:
            self._hold(line.exchange.most())
        else:
            self.unwritten.append(line)
        return None

    def write(self) -> Iterator[Answer | None]:
        """Write files of what is unwritten, as far as the budget allows; yield failures, and None for each other."""
        lines: list[tuple[str, bytes]] = []
        size = 0
        for line in self.unwritten:
            line.dialect = self.dialect
            most = line.exchange.most()
            if self.model.account.exceeded(most) is not None:
                self.refused = self.model.account.used_up(most)
                break
            try:
                content = line.encoded()
            except Flaw as flaw:
                self.folder.note_failure(line.base)
                yield line.exchange.failed(flaw.reason, flaw.detail)
                continue
            if lines and (len(lines) == self.model.requests or size + len(content) > self.model.largest_file):
                self._write(lines)
                lines, size = [], 0
            lines.append((line.id, content))
            size += len(content)
            self._hold(most)
            yield None
        if lines:
            self._write(lines)

    def release(self) -> None:
        """Reserve no budget for requests that this process no longer waits for."""
        for most in self.reserved:
            self.model.account.settle(most, {})

    def stop(self) -> Stopped | None:
        """Return the error that says what to do next; None if all requests are answered."""
        if not self.reserved:
            return self.refused
        folder, waiting = self.model.folder, len(self.reserved)
        if self.files:
            files = self.files[0].name + (", ..." if len(self.files) > 1 else "")
            text = f"{folder} has {len(self.files):,} new request files ({files})"
        else:
            text = f"{folder} has no answer to some requests (remove the file of a request to have it written again)"
        text += "" if self.refused is None else ", and the budget allows no more of them for now"
        text += f" ({self.folder.damage})" if self.folder.damage else ""
        return AnswersAwaited(
            f"{text}; {waiting:,} requests wait: run them (vllm run-batch -i requests-ID.jsonl -o answers-ID.jsonl "
            f"--model {self.model.name}), put the answers beside them, and start again"
        )

    def _hold(self, most: Usage) -> None:
        self.model.account.hold(most)
        self.reserved.append(most)

    def _write(self, lines: Sequence[tuple[str, bytes]]) -> None:
        self.files.append(self.folder.write([line for line, _ in lines], b"".join(content for _, content in lines)))


class _Place(NamedTuple):
    """Where an answer is, and whether it is one (200) or an error."""

    path: Path
    offset: int
    good: bool


class _Folder:
    """Files of requests and answers, and ``failed.txt``: which requests failed for good, to be really sent again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.damage = ""  # where answers can't be read
        self.written: set[str] = set()
        self._results: dict[str, _Place] = {}
        self._failures = path / "failed.txt"
        self.failed = Counter(read_text(self._failures).split() if self._failures.exists() else ())
        for file in sorted(path.glob("*.jsonl")):
            if file.name.startswith("requests-"):
                self._read_requests(file)
            else:
                self._read_answers(file)

    def result(self, line: str) -> Json | None:
        """Return the answer line of a request, if there is one."""
        place = self._results.get(line)
        if place is None:
            return None
        with place.path.open("rb") as file:
            file.seek(place.offset)
            return parse_json(file.readline().decode(), place.path)

    def write(self, ids: Sequence[str], content: bytes) -> Path:
        """Write a file of requests, whole or not at all; its name follows from the requests."""
        path = self.path / f"requests-{_digest(ids)[:12]}.jsonl"
        with whole_file(path) as file:
            file.write(content)
        return path

    def note_failure(self, base: str) -> None:
        """Note that a request failed for good: if a later run repeats it, the old answer must not count."""
        with self._failures.open("a") as file:
            file.write(f"{base}\n")

    def _read_requests(self, path: Path) -> None:
        with ordinary_file(path, "model.folder").open("rb") as file:
            for line in file:
                if match := WRITTEN.match(line):  # without parsing the images
                    self.written.add(match[1].decode())

    def _read_answers(self, path: Path) -> None:
        offset, good_lines = 0, 0
        damaged: list[int] = []
        with ordinary_file(path, "model.folder").open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    result = parse_json(line.decode())
                    name, good = result["custom_id"], _outcome(result)[0] == 200
                    if not isinstance(name, str):
                        raise TypeError
                except (ValueError, KeyError, TypeError, AttributeError):
                    damaged += [number] if line.strip() else []  # its request stays without an answer
                else:
                    good_lines += 1
                    known = self._results.get(name)
                    if known is None or (good and not known.good):
                        self._results[name] = _Place(path, offset, good)  # of equal ids, the first good one counts
                offset += len(line)
        if damaged and not good_lines:
            problem = "no line of it is an answer: expected an object with custom_id and response on each"
            raise InputError(problem, file=path, setting="model.folder")
        if damaged and not self.damage:
            self.damage = f"{len(damaged):,} lines of {printable(path.name)} are no answers, the first is {damaged[0]}"


class Line:
    """A request on its way through batch files.

    Its id depends on the request and on the number of lines before: the same request has the same ids after a restart,
    so that answers which are paid for are found again. ``failed_before``: how often it failed for good in earlier runs.
    """

    def __init__(self, request: Request, chat: ChatModel, dialect: Dialect) -> None:
        self.exchange = Exchange(request, chat)
        self.dialect = dialect
        self.failed_before = 0
        self._turn = 0
        self._errors = 0
        self.base = _digest(
            [request.key, request.system, request.user, request.schema, request.seed, chat.model, chat.max_tokens],
            [chat.temperature, chat.extra, [path.name for path in request.images]],
        )

    @property
    def id(self) -> str:
        """The ``custom_id`` of its next line."""
        return _digest(self.base, self.failed_before, self._turn)

    def encoded(self) -> bytes:
        """Return the line; raises Flaw where an image can't be read."""
        self.exchange.load()
        body = self.exchange.body(self.dialect)
        self.exchange.unload()
        line = {"custom_id": self.id, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"

    def advance(self, result: Json, most: Usage, attempts: int) -> tuple[Usage, Answer | None]:
        """Take an answer line; return its usage and the answer, or None where a line of another `id` follows."""
        self._turn += 1
        status, body, message = _outcome(result)
        if status == 200:
            try:
                return self.exchange.receive(json.dumps(body).encode(), most)
            except Flaw as flaw:
                return most, self.exchange.failed(flaw.reason, flaw.detail)
        nothing: Usage = {}
        if status in (400, 422, 501) and (changed := self.dialect.after(message)) is not None:
            self.dialect = changed
            return nothing, None
        if (status is None or status in TRANSIENT) and self._errors + 1 < attempts:
            self._errors += 1
            return nothing, None
        if status is None:
            return nothing, self.exchange.failed(_code(result).replace("_", " "), message)
        reason = "server error" if status in TRANSIENT else "bad request"
        return nothing, self.exchange.failed(reason, f"{status}: {message}")


def _outcome(result: Json) -> tuple[int | None, Any, str]:
    """Return status and body of a response, and the error message; the status is None where there is no response."""
    response, error = result.get("response"), result.get("error")
    if isinstance(response, dict) and isinstance(response.get("status_code"), int):
        body = response.get("body")
        return response["status_code"], body, _message(body) or _message(error)  # vLLM has the message beside
    return None, None, _message(error) or _code(result)


def _code(result: Json) -> str:
    error = result.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return str(code or "no result")[:60]


def _message(error: Any) -> str:
    while isinstance(error, dict):
        error = error.get("error") or error.get("message")
    return str(error)[:1000] if error else ""


def _digest(*values: Any) -> str:
    return blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()
