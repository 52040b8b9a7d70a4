"""The lines of batches: each is one request, and what came back says whether there is an answer or another line."""

import json
from hashlib import blake2b
from typing import Any

from contextcir.synthesis.accounting import Usage
from contextcir.synthesis.dialects import Dialect
from contextcir.synthesis.exchange import ChatModel, Exchange
from contextcir.synthesis.models import Answer, Request
from contextcir.synthesis.structured import Flaw

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
