"""A vision-language model of Hugging Face in this process: for small jobs, and where there is no server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from contextcir.checks import whole
from contextcir.errors import InputError, printable
from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Answer, Prices, Request, Usage, VisionLanguageModel, add
from contextcir.synthesis.models.chat import ChatModel, Exchange, ImageLimits, decoded

log = logging.getLogger(__name__)
Pipeline = Callable[..., list[Any]]
TEXT = Dialect("text", seed=False, temperature=False)


class LocalModel(VisionLanguageModel):
    """Runs a model of the `image-text-to-text` pipeline of transformers, a batch at a time, in another thread.

    Only the prompt makes its answers follow the schema: small models fail more often than behind a server. The model
    is loaded when the first request comes.

    Args:
        model: Name on the Hugging Face hub, or a folder.
        batch_size: Requests at once.
        max_tokens: The longest answer.
        device: Such as cuda:0 or cpu; null for a GPU where there is one.
        precision: Name of torch's type of the weights; auto for that of the files.
        sampling: More arguments of generation, such as {"do_sample": true, "temperature": 0.7}.
        corrections: Requests that show the model what was wrong with its answer.
        images: How large images are at most.

    Raises (from `answer`):
        ValueError: if transformers is not installed, or the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        batch_size: int = 4,
        max_tokens: int = 512,
        device: str | None = None,
        precision: str = "auto",
        sampling: dict[str, Any] | None = None,
        corrections: int = 1,
        images: ImageLimits = ImageLimits(),  # noqa: B008
    ) -> None:
        whole(batch_size, 1, "model.batch_size")
        if not model.strip():
            raise InputError("expected the name of a model or a folder, got none", setting="model.model")
        self.model = model
        self.name = Path(model).name if Path(model).is_dir() else model  # a path is no part of what is published
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.sampling = dict(sampling or {})
        try:
            self.chat = ChatModel(self.name, max_tokens, format="text", corrections=corrections, images=images)
        except InputError as error:
            raise error.relocate("model.chat", "model") from None
        self._pipeline: Pipeline | None = None

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        """Yield an answer for every request."""
        waiting = iter(requests)
        again: list[Exchange] = []  # with a correction
        while True:
            fresh = islice(waiting, max(0, self.batch_size - len(again)))
            batch = [*again, *(Exchange(request, self.chat) for request in fresh)]
            if not batch:
                return
            batch, again = batch[: self.batch_size], batch[self.batch_size :]
            for exchange, answer in await asyncio.to_thread(self._answer, batch):
                if answer is None:
                    again.append(exchange)
                else:
                    yield answer

    def _answer(self, batch: Sequence[Exchange]) -> list[tuple[Exchange, Answer | None]]:
        answers: list[tuple[Exchange, Answer | None]] = []
        loaded = []
        for exchange in batch:
            try:
                exchange.load()
                loaded.append(exchange)
            except Flaw as flaw:
                answers.append((exchange, exchange.failed(flaw.reason, flaw.detail)))
        pipeline = self._loaded() if loaded else None
        for exchange, text in zip(loaded, self._generate(pipeline, loaded), strict=True):
            exchange.unload()
            if isinstance(text, Flaw):
                answers.append((exchange, exchange.failed(text.reason, text.detail)))
            else:
                answers.append((exchange, self._receive(exchange, text)))
        return answers

    def _generate(self, pipeline: Pipeline | None, batch: Sequence[Exchange]) -> list[str | Flaw]:
        """Return the text for each; where a batch fails (memory, a strange image), each is run by itself."""
        if pipeline is None:
            return []
        chats = [pictured(exchange.body(TEXT)["messages"]) for exchange in batch]
        try:
            outputs = pipeline(
                text=chats,
                batch_size=len(chats),
                max_new_tokens=self.chat.max_tokens,
                return_full_text=False,
                **({"generate_kwargs": self.sampling} if self.sampling else {}),
            )
        except Exception as error:
            if len(batch) > 1:
                kind = type(error).__name__
                log.warning("a batch of %d failed (%s): running its requests one by one", len(batch), kind)
                return [text for exchange in batch for text in self._generate(pipeline, [exchange])]
            return [Flaw("model error", f"{type(error).__name__}: {error}")]
        return [generated_text(output) for output in outputs]

    def _receive(self, exchange: Exchange, text: str) -> Answer | None:
        add(exchange.usage, self._usage(exchange, text))
        return exchange.check(text)

    def _usage(self, exchange: Exchange, text: str) -> Usage:
        tokenizer = getattr(self._pipeline, "tokenizer", None)
        if tokenizer is None:
            return Prices().usage(0, 0)
        prompt = f"{exchange.request.system} {exchange.request.user}"
        return Prices().usage(*(len(tokenizer(part)["input_ids"]) for part in (prompt, text)))

    def _loaded(self) -> Pipeline:
        if self._pipeline is None:
            try:
                from transformers import pipeline  # of the extra `local`; imports torch
            except ImportError:
                raise InputError("local models need the extra `local`: pip install -e '.[local]'") from None
            try:
                self._pipeline = pipeline(
                    "image-text-to-text", model=self.model, device=self.device, dtype=self.precision
                )
            except (OSError, ValueError, KeyError) as error:
                message = str(error).strip().partition("\n")[0]
                raise InputError(
                    f"{self.model} is no model that image-text-to-text can load: {printable(message)[:150]}",
                    setting="model.model",
                ) from None
        return self._pipeline


def pictured(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages of OpenAI's form in that of transformers: each content a list of texts and images."""
    return [{"role": message["role"], "content": _parts(message["content"])} for message in messages]


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {"type": "image", "image": decoded(part["image_url"]["url"])} if part["type"] == "image_url" else dict(part)
        for part in content
    ]


def generated_text(output: Any) -> str | Flaw:
    """Return the text in the pipeline's output for one chat."""
    one = output[0] if isinstance(output, list) and output else output
    text = one.get("generated_text") if isinstance(one, dict) else None
    if isinstance(text, list) and text:  # the whole chat, with the answer as its last message
        text = text[-1].get("content")
    return text if isinstance(text, str) and text.strip() else Flaw("empty")
