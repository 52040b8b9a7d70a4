"""Requests to a model server in tests, and their answers by key."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contextcir.synthesis.models.base import Answer, Request, VisionLanguageModel
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.endpoint import Endpoint
from contextcir.synthesis.models.pacing import Retries

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"objects": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
    "required": ["objects"],
    "additionalProperties": False,
}
GOOD = {"objects": ["red ball"]}
QUICK = Retries(attempts=3, first=0.01, longest=0.02)


def request(key: str = "0", images: tuple[Path, ...] = (), **options: Any) -> Request:
    """Return a request whose text holds its key."""
    return Request(key, "Name what you see.", f"this is {key}.", SCHEMA, images, **options)


def requests(count: int) -> list[Request]:
    """Return requests with keys "0", "1", ..."""
    return [request(str(number)) for number in range(count)]


def ask(model: VisionLanguageModel, asked: Iterable[Request]) -> dict[str, Answer]:
    """Return all answers by key; each key must be answered once."""

    async def collect() -> list[Answer]:
        return [answer async for answer in model.answer(asked)]

    answers = asyncio.run(collect())
    found = {answer.key: answer for answer in answers}
    assert len(found) == len(answers)
    return found


def endpoint(url: str, *, chat: ChatModel | None = None, **options: Any) -> Endpoint:
    """Return an endpoint that is quick to try again."""
    return Endpoint(chat or ChatModel("m"), url, **{"retries": QUICK, "timeout": 20.0, "concurrency": 4, **options})
