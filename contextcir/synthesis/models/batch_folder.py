"""What is known of batches, on disk: which were sent, what they hold, and what came back.

The lines of batches: each is one request, and what came back says whether there is an answer or another line.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Answer, Request, Usage
from contextcir.synthesis.models.chat import ChatModel, Exchange

Json = dict[str, Any]


@dataclass
class Batch:
    """A batch on the server, or on its way there.

    ``name``: ours, also in the batch's metadata on the server, so that it is found there if its id was lost. ``ids``:
    of its lines. ``file``, ``batch``: ids on the server. ``ended``: whether its results are on this disk.
    """

    name: str
    ids: list[str]
    made: float = field(default_factory=time.time)
    file: str | None = None
    batch: str | None = None
    ended: bool = False


class Place(NamedTuple):
    """Where the result of a line is."""

    path: Path
    offset: int


class BatchFolder:
    """The batches of one process, one after the other; a process that was killed is gone on with.

    Raises:
        ValueError: if a file in it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.batches = {batch.name: batch for batch in map(self._load, sorted(path.glob("*.state.json")))}
        self.results: dict[str, Place] = {}
        self._ended: set[str] = set()
        self._holders: dict[str, Batch] = {}
        for batch in self.batches.values():
            if batch.ended:
                self._index(batch)
            else:
                self._holders.update(dict.fromkeys(batch.ids, batch))
        self.given_up = Counter(self._given_up.read_text().split() if self._given_up.exists() else ())

    def holder(self, line: str) -> Batch | None:
        """Return the batch on its way that holds a line."""
        return self._holders.get(line)

    def open(self) -> list[Batch]:
        """Return the batches whose results are not here."""
        return [batch for batch in self.batches.values() if not batch.ended]

    def new(self, ids: Sequence[str]) -> Batch:
        """Return a batch of these lines, which is on disk before anything is sent."""
        batch = Batch(blake2b("\n".join(ids).encode(), digest_size=16).hexdigest(), list(ids))
        self.batches[batch.name] = batch
        self._holders.update(dict.fromkeys(batch.ids, batch))
        self.save(batch)
        return batch

    def save(self, batch: Batch) -> None:
        """Bring a batch to the disk."""
        self._replace(self.path / f"{batch.name}.state.json", json.dumps(asdict(batch)).encode())

    def forget(self, batch: Batch) -> None:
        """Drop a batch that the server took none of."""
        (self.path / f"{batch.name}.state.json").unlink(missing_ok=True)
        self.batches.pop(batch.name, None)
        self._release(batch)

    def keep(self, batch: Batch, results: bytes) -> None:
        """Bring the results of a batch to the disk: its output lines, then its errors."""
        self._replace(self._results(batch), results)
        batch.ended = True
        self.save(batch)
        self._release(batch)
        self._index(batch)

    def result(self, line: str) -> Json | None:
        """Return the result of a line, if there is one."""
        place = self.results.get(line)
        if place is None:
            return None
        with place.path.open("rb") as file:
            file.seek(place.offset)
            return json.loads(file.readline())

    def has_ended(self, line: str) -> bool:
        """Whether a line was in a batch that has ended, with or without a result."""
        return line in self._ended

    def give_up(self, base: str) -> None:
        """Note that a request failed for good: asked again by a later run, it is really asked again."""
        with self._given_up.open("a") as file:
            file.write(f"{base}\n")

    @property
    def _given_up(self) -> Path:
        return self.path / "failed.txt"

    def _results(self, batch: Batch) -> Path:
        return self.path / f"{batch.name}.results.jsonl"

    def _release(self, batch: Batch) -> None:
        for line in batch.ids:
            self._holders.pop(line, None)

    def _load(self, path: Path) -> Batch:
        try:
            return Batch(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged: remove it, and what it holds is asked, and paid, again") from None

    def _index(self, batch: Batch) -> None:
        for line, place in self._lines(self._results(batch)):
            self.results.setdefault(line, place)  # a line that comes twice counts once
        self._ended.update(batch.ids)

    def _lines(self, path: Path) -> Iterator[tuple[str, Place]]:
        offset = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    found = json.loads(line)["custom_id"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    found = None  # as if it were not there: its request is asked again
                if isinstance(found, str):
                    yield found, Place(path, offset)
                offset += len(line)

    def _replace(self, path: Path, content: bytes) -> None:
        new = path.with_name(f"{path.name}.new")
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)


class Line:
    """A request on its way through batches.

    Its id says what is asked and how many lines there were before: the same request has the same ids after a restart,
    so that what was paid is found again. ``failed_before``: how often it failed for good in earlier runs.
    """

    def __init__(self, request: Request, chat: ChatModel, dialect: Dialect, key: str) -> None:
        self.exchange = Exchange(request, chat, key)
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
        """Return the line; raises Flaw where an image cannot be read."""
        self.exchange.load()
        body = self.exchange.body(self.dialect)
        self.exchange.unload()
        line = {"custom_id": self.id, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"

    def advance(self, result: dict[str, Any] | None, most: Usage, attempts: int) -> tuple[Usage, Answer | None]:
        """Take the result of a line (None: there is none), and return what it cost and the answer.

        None for an answer: the request goes on with another line, of another `id`.
        """
        self._turn += 1
        status, body, code = _outcome(result)
        if status == 200:
            try:
                return self.exchange.receive(json.dumps(body).encode(), most)
            except Flaw as flaw:
                return most, self.exchange.failed(flaw.reason, flaw.detail)
        nothing: Usage = {}
        said = _message(body) or code
        if status in (400, 422, 501) and (changed := self.dialect.after(said)) is not None:
            self.dialect = changed
            return nothing, None
        if (status is None or status in AGAIN) and self._errors + 1 < attempts:
            self._errors += 1
            return nothing, None
        if status is None:
            return nothing, self.exchange.failed(code.replace("_", " ") or "no result", said)
        reason = "server error" if status in AGAIN else "bad request"
        return nothing, self.exchange.failed(reason, f"{status}: {said}")


def _outcome(result: dict[str, Any] | None) -> tuple[int | None, Any, str]:
    """Return status and body of a line's response, or the code of why there is none."""
    response = (result or {}).get("response")
    if isinstance(response, dict) and isinstance(response.get("status_code"), int):
        return response["status_code"], response.get("body"), ""
    error = (result or {}).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return None, None, str(code or "no result")[:60]


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:1000] if message else ""


def _digest(*values: Any) -> str:
    return blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()
