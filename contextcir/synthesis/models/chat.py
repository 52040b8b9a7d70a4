"""Requests in the form of OpenAI's chat API, with images as data URLs, and answers with one round of correction."""

import io
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from contextcir.checks import not_negative, one_of, whole
from contextcir.errors import InputError
from contextcir.images import ImageFile, decode_image, header, image_bytes, named
from contextcir.synthesis.models.answers import LARGEST, NAMES, Dialect, Flaw, find_object, parse
from contextcir.synthesis.models.base import Answer, Prices, Request, Usage, add, no_usage
from contextcir.synthesis.models.client import printable, redacted

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png"}
CORRECTED = ("not JSON", "several objects", "not the schema", "unsafe text")  # flaws that are worth another request
QUOTED = 8000  # characters of a flawed answer that the model is shown again
SECRET = 8  # characters from which a text in `ChatModel.extra` may be a secret
THOUGHTS = ("reasoning_content", "reasoning")  # where servers put an answer that they take for thoughts


@dataclass(frozen=True)
class ImageLimits:
    """How images are sent: upright; unchanged where they are small JPEG or PNG files, else scaled down as JPEG.

    An image whose EXIF orientation is not 1 is always encoded anew, however small: servers differ in what they do with
    the orientation.

    Args:
        longest_side: Pixels; larger images are scaled down.
        largest_file: Bytes; larger files are encoded anew.
        quality: Of JPEG, where one is written.
        tokens: The most that one image of this size costs in tokens, for budgets and rate limits before the answer.
    """

    longest_side: int = 1024
    largest_file: int = 1_000_000
    quality: int = 90
    tokens: int = 2000

    def __post_init__(self) -> None:
        whole(self.longest_side, 1, "model.chat.images.longest_side")
        whole(self.largest_file, 1, "model.chat.images.largest_file")
        whole(self.quality, 1, "model.chat.images.quality", 95)
        whole(self.tokens, 0, "model.chat.images.tokens")

    def data_url(self, path: ImageFile) -> str:
        """Return an image file as a data URL.

        Raises:
            InputError: if it is no ordinary file, or no image that can be read.
        """
        content = image_bytes(path)
        try:
            head = header(io.BytesIO(content))
            small = len(content) <= self.largest_file and max(head.width, head.height) <= self.longest_side
            if small and head.orientation == 1 and head.format in MEDIA_TYPES:
                return _url(MEDIA_TYPES[head.format], content)
            return _url("image/jpeg", self._encode(content))
        except InputError as error:
            raise InputError(error.problem, file=named(path)) from None

    def _encode(self, content: bytes) -> bytes:
        image = decode_image(content, upright=True, side=self.longest_side, ground="white")
        image.thumbnail((self.longest_side, self.longest_side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def _url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(content).decode()}"


def decoded(url: str) -> Image.Image:
    """Return the image of a data URL that `ImageLimits` made."""
    return Image.open(io.BytesIO(b64decode(url.partition(",")[2]))).convert("RGB")


@dataclass(frozen=True)
class ChatModel:
    """Which model answers, and with which parameters.

    Args:
        model: Its name on the server.
        max_tokens: The longest answer.
        temperature: Of sampling; null for the server's.
        format: How JSON is requested at first: strict, json_schema, json_object or text. Where the server refuses it,
            the next one is tried, and kept.
        corrections: Requests that show the model what was wrong with its answer.
        images: How images are sent.
        prices: What the server charges.
        extra: More fields of each request, such as {"reasoning_effort": "low"}.
    """

    model: str
    max_tokens: int = 1024
    temperature: float | None = 0.7
    format: str = "strict"
    corrections: int = 1
    images: ImageLimits = ImageLimits()
    prices: Prices = Prices()  # noqa: RUF009
    extra: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold keys

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise InputError("a model needs a name, got none", setting="model.chat.model")
        whole(self.max_tokens, 1, "model.chat.max_tokens")
        if self.temperature is not None:
            not_negative(self.temperature, "model.chat.temperature")
        one_of(self.format, NAMES, "model.chat.format")
        whole(self.corrections, 0, "model.chat.corrections")
        try:
            json.dumps(self.extra, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError):
            problem = "expected fields with values of JSON, without NaN and infinity"
            raise InputError(problem, setting="model.chat.extra") from None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts in ``extra``, which are removed from the words of a server, as it may quote them."""
        return tuple(text for text in _texts(self.extra) if len(text) >= SECRET)


def _texts(value: Any) -> list[str]:
    inner = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] if isinstance(value, str) else [text for each in inner for text in _texts(each)]


class Exchange:
    """One request on its way: `body` is sent and `receive` takes the response, until that returns an answer.

    The keys of servers, if given, are removed from all of their words that are kept.
    """

    def __init__(self, request: Request, chat: ChatModel, keys: Sequence[str] = ()) -> None:
        self.request = request
        self.chat = chat
        self.keys = keys
        self.hidden = (*keys, *chat.secrets)
        self.usage: Usage = no_usage()
        self.corrections: list[tuple[str, Flaw]] = []
        self.model = chat.model
        self._content: list[dict[str, Any]] = []

    def load(self) -> None:
        """Read the images.

        Raises:
            Flaw: if one can't be read.
        """
        try:
            urls = [self.chat.images.data_url(path) for path in self.request.images]
        except ValueError as error:
            raise Flaw("unreadable image", str(error)) from None
        # images first, as most models were trained
        self._content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        self._content.append({"type": "text", "text": self.request.user})

    def unload(self) -> None:
        """Drop the images, of which many requests together do not fit into memory."""
        self._content = []

    def body(self, dialect: Dialect) -> dict[str, Any]:
        """Return the request in OpenAI's form."""
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": dialect.system(self.request.system, self.request.schema)},
            {"role": "user", "content": self._content},
        ]
        for text, flaw in self.corrections:
            messages.append({"role": "assistant", "content": text})
            repeat = "Answer again, with one JSON object that follows the schema."
            messages.append({"role": "user", "content": f"That is of no use: {flaw.reason}. {flaw.detail} {repeat}"})
        chat, schema = self.chat, self.request.schema
        parameters = dialect.parameters(schema, chat.max_tokens, chat.temperature, self.request.seed)
        return {"model": chat.model, "messages": messages, **parameters, **chat.extra}

    def most(self) -> Usage:
        """Return the most that the next request can cost: no text has more tokens than bytes."""
        texts = [self.request.system, self.request.user, json.dumps(self.request.schema)]
        texts += [part for text, flaw in self.corrections for part in (text, flaw.detail)]
        tokens = sum(len(text.encode(errors="replace")) for text in texts) + 64 * (2 + len(self.corrections))
        return self.chat.prices.usage(tokens + self.chat.images.tokens * len(self.request.images), self.chat.max_tokens)

    def receive(self, response: bytes, most: Usage) -> tuple[Usage, Answer | None]:
        """Take the response to a request; return its usage, and the answer, or None where `body` is to be sent again.

        Raises:
            Flaw: if it is no response of a chat model at all.
        """
        usage, text, flaw = self._read(response, most)
        add(self.usage, usage)
        return usage, self.check(text) if flaw is None else self.failed(flaw.reason, flaw.detail)

    def check(self, text: str) -> Answer | None:
        """Return the answer that a text holds; None: send `body` again, which now says what was wrong with it."""
        try:
            return self.answered(parse(text, self.request.schema))
        except Flaw as flaw:
            if flaw.reason not in CORRECTED or len(self.corrections) >= self.chat.corrections:
                return self.failed(flaw.reason, flaw.detail)
            quoted = text[:QUOTED].encode(errors="replace").decode()
            self.corrections.append((quoted, Flaw(flaw.reason, printable(flaw.detail, self.hidden, 200))))
            return None

    def answered(self, content: dict[str, Any]) -> Answer:
        """Return the answer with this content."""
        return Answer(self.request.key, content, model=self.model, usage=dict(self.usage))

    def failed(self, reason: str, detail: str) -> Answer:
        """Return the answer that says why there is no content."""
        detail = printable(detail, self.hidden)
        return Answer(self.request.key, None, reason, detail, self.model, dict(self.usage))

    def _read(self, response: bytes, most: Usage) -> tuple[Usage, str, Flaw | None]:
        try:
            completion = json.loads(redacted(response.decode(), self.keys))
            choice = completion["choices"][0]
            message = choice["message"]
            text, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
            model = completion.get("model")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise Flaw("no completion", "the response is not a chat completion in JSON") from None
        if isinstance(model, str) and model:
            self.model = printable(model, self.hidden, 100)
        usage = self._usage(completion, most)
        if refusal or finish == "content_filter":
            return usage, "", Flaw("refused", printable(str(refusal or "by the server's content filter"), self.hidden))
        text = _joined(text)
        if not text.strip():
            if finish == "length":
                return usage, "", Flaw("cut off", "all tokens went into thoughts: raise max_tokens")
            text = _answer_in_thoughts(message)
            if not text:
                return usage, "", Flaw("empty")
        if finish == "length":
            return usage, text, Flaw("cut off", f"the answer is longer than max_tokens ({self.chat.max_tokens})")
        if len(text) > LARGEST:
            return usage, "", Flaw("too large", f"{len(text):,} characters")
        return usage, text, None

    def _usage(self, completion: dict[str, Any], most: Usage) -> Usage:
        usage = completion.get("usage")
        given = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
        counts = [tokens for tokens in given if isinstance(tokens, int) and 0 <= tokens < 1e9]
        if len(counts) < 2:
            return most  # the server does not say: count the upper bound
        return self.chat.prices.usage(*counts)


def _joined(content: Any) -> str:
    """Return the text of a message's content, which some servers send in parts."""
    if isinstance(content, list):
        parts = [part.get("text", "") if isinstance(part, dict) else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _answer_in_thoughts(message: dict[str, Any]) -> str:
    """Return the thoughts of a message without content, if they hold an object: servers may take all for thoughts."""
    for name in THOUGHTS:
        text = _joined(message.get(name))
        if "{" in text and len(text) <= LARGEST:
            try:
                find_object(text)
            except Flaw as flaw:
                if flaw.reason != "several objects":
                    continue
            return text
    return ""
