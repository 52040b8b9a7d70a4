"""Requests to model servers that are no chats: an embedding of messages, and the probability of "yes".

They travel on the connection of the synthesis, with its retries, limits, servers and budget.
"""

import asyncio
import hashlib
import io
import json
import math
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from PIL import Image

from contextcir.embedders.forms import RequestForm, Sent
from contextcir.errors import InputError
from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Answer, Stopped, Usage, add
from contextcir.synthesis.models.base import Request as ChatRequest
from contextcir.synthesis.models.chat import Exchange, ImageLimits
from contextcir.synthesis.models.client import ServerError, redacted
from contextcir.synthesis.models.endpoint import Endpoint

Part = Image.Image | str  # of a message


@dataclass(frozen=True)
class MessageRequest(ChatRequest):
    """A request of parts, images among texts, in the order in which they are sent."""

    images: tuple[Any, ...] = ()  # those among the parts, still in memory
    parts: tuple[Part, ...] = ()


def message_request(key: str, system: str | None, parts: Sequence[Part]) -> MessageRequest:
    """Return a request; ``system``: the system message, None for none."""
    images = tuple(part for part in parts if not isinstance(part, str))
    return MessageRequest(key, system or "", "", {}, images=images, parts=tuple(parts))


def image_url(image: Image.Image, limits: ImageLimits) -> str:
    """Return an image as the data URL of a JPEG, scaled down to the limits."""
    side = limits.longest_side
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=limits.quality, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


class MessageExchange(Exchange):
    """One message with images and texts as they are given; nothing is asked for twice."""

    request: MessageRequest

    def load(self) -> None:
        """Encode the images."""
        self._content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": image_url(part, self.chat.images)}}
            for part in self.request.parts
        ]

    def messages(self) -> list[Sent]:
        """Return the messages."""
        system: list[Sent] = []
        if self.request.system:
            system = [{"role": "system", "content": [{"type": "text", "text": self.request.system}]}]
        return [*system, {"role": "user", "content": self._content}]

    def most(self) -> Usage:
        """Return the most that the request can cost: no text has more tokens than bytes."""
        texts = [self.request.system, *(part for part in self.request.parts if isinstance(part, str))]
        tokens = sum(len(text.encode(errors="replace")) for text in texts) + 64
        return self.chat.prices.usage(tokens + self.chat.images.tokens * len(self.request.images), self.answer_tokens)

    answer_tokens = 0

    def receive(self, response: bytes, most: Usage) -> tuple[Usage, Answer | None]:
        """Take the response; raises Flaw if it is none."""
        try:
            content = json.loads(redacted(response.decode(), self.keys))
            found = self.found(content)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise Flaw("no completion", f"the response holds no {self.wanted}") from None
        told = content.get("usage") or {}
        counts = [told.get("prompt_tokens"), told.get("completion_tokens", 0)]
        known = all(isinstance(count, int) and 0 <= count < 1e9 for count in counts)
        usage = self.chat.prices.usage(*counts) if known else most
        add(self.usage, usage)
        return usage, self.answered(found)

    wanted = ""

    def found(self, content: Sent) -> Sent:
        """Return what a response holds."""
        raise NotImplementedError


class EmbeddingExchange(MessageExchange):
    """``/v1/embeddings``, in a form that the server takes."""

    wanted = "embedding"

    def __init__(self, form: RequestForm, *rest: Any) -> None:
        super().__init__(*rest)
        self.form = form

    def body(self, dialect: Dialect) -> Sent:
        """Return the request."""
        parts = [
            ("text", part["text"]) if part["type"] == "text" else ("image", part["image_url"]["url"])
            for part in self._content
        ]
        content = self.form.body(self.request.system, parts)
        return {"model": self.chat.model, **content, "encoding_format": "float", **self.chat.extra}

    def found(self, content: Sent) -> Sent:
        """Return the embedding."""
        values = [float(value) for value in content["data"][0]["embedding"]]
        if not values or not all(map(math.isfinite, values)):
            raise ValueError("no numbers")
        return {"embedding": values}


class YesNoExchange(MessageExchange):
    """A chat completion of one token, with the log-probabilities of the likeliest ones."""

    wanted = "log-probabilities of yes and no"
    answer_tokens = 1

    def body(self, dialect: Dialect) -> Sent:
        """Return the request."""
        asked = {dialect.limit: 1, "logprobs": True, "top_logprobs": 20}
        if dialect.temperature:
            asked["temperature"] = 0
        return {"model": self.chat.model, "messages": self.messages(), **asked, **self.chat.extra}

    def found(self, content: Sent) -> Sent:
        """Return p(yes) / (p(yes) + p(no)), over all spellings; one that is not listed counts as 0.

        Raises:
            ValueError: if neither is listed.
        """
        listed = content["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        share = {"yes": 0.0, "no": 0.0}
        for one in listed:
            word = str(one["token"]).strip().strip("▁Ġ").lower()
            if word in share:
                share[word] += math.exp(min(0.0, float(one["logprob"])))
        total = share["yes"] + share["no"]
        if not total > 0:
            raise ValueError("neither yes nor no")
        return {"score": share["yes"] / total}


class Answering(Protocol):
    """What takes requests: an endpoint, or a model."""

    def answer(self, requests: Iterable[ChatRequest]) -> AsyncIterator[Answer]:
        """Yield an answer to each request, in any order."""


class EmbeddingEndpoint(Endpoint):
    """`Endpoint` for embeddings; ``form``: of the requests."""

    path = "/embeddings"

    def __init__(self, form: RequestForm, *rest: Any) -> None:
        super().__init__(*rest)
        self.exchange = partial(EmbeddingExchange, form)


class YesNoEndpoint(Endpoint):
    """`Endpoint` for yes or no."""

    exchange = YesNoExchange


def located(error: InputError, names: Mapping[str, str]) -> InputError:
    """Return an error of an endpoint with the owner's ``names`` of the settings ``model`` and ``model.chat``."""
    for old, new in names.items():
        error = error.relocate(old, new)
    return error


def ask_all(
    asked: Answering,
    names: Mapping[str, str],
    requests: Iterable[ChatRequest],
    receive: Callable[[Answer], None] | None = None,
) -> tuple[dict[str, Answer], Exception | None]:
    """Send requests; return the answers by key, and the error that stopped them in the middle, if one did.

    Args:
        asked: what answers.
        names: of settings in errors, as in `located`.
        requests: what is asked.
        receive: called with each answer as it comes, so that it can be kept before the next one.
    """
    answers: dict[str, Answer] = {}

    async def run() -> None:
        async for answer in asked.answer(requests):
            answers[answer.key] = answer
            if receive is not None:
                receive(answer)

    try:
        asyncio.run(run())
    except ServerError as error:
        return answers, located(error, names)
    except Stopped as stopped:
        return answers, stopped
    return answers, None


def first_failure(answers: Iterable[Answer], name: str) -> InputError | None:
    """Return the error of the first request that failed for good; None if none did."""
    for answer in answers:
        if answer.content is None:
            detail = f": {answer.detail}" if answer.detail else ""
            return InputError(f"{name}: request {answer.key} failed, {answer.failure}{detail}")
    return None


def unnamed(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request for a result: numbers as they are, of all else a digest, as it may be a key."""
    return {
        name: value
        if isinstance(value, bool | int | float)
        else f"sha256:{hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]}"
        for name, value in extra.items()
    }
