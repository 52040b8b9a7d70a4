"""Rerankers: models that look at a query and one candidate together."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contextcir.embedders.base import PLACE, check_template
from contextcir.embedders.exchanges import (
    Part,
    YesNoEndpoint,
    ask_all,
    first_failure,
    located,
    message_request,
    unnamed,
)
from contextcir.embedders.kept_answers import KeptAnswers
from contextcir.errors import InputError
from contextcir.synthesis.models.base import Answer, Budget, Prices
from contextcir.synthesis.models.chat import ChatModel, ImageLimits
from contextcir.synthesis.models.pacing import Pace, Retries

SYSTEM = (
    "You judge the results of an image search. Whoever searched has given a first image, and has said in words how the "
    "image that they want differs from it. Answer with one word, yes or no."
)
QUESTION = "The wanted difference: {text}\nIs the second image what they want?"
NAMES = {"model.chat": "reranking.reranker", "model": "reranking.reranker"}  # of settings, in errors
IMAGES = ImageLimits(longest_side=672, quality=90)


class Reranker(ABC):
    """Scores pairs of a query and a candidate."""

    name: str

    @abstractmethod
    def scores(self, image: Image.Image | None, text: str, candidates: Sequence[Image.Image]) -> Tensor:
        """Return how well each of n images answers a query, (n,); higher is better.

        Raises:
            InputError: if a pair can't be scored.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that decides scores, as plain JSON."""

    def spent(self) -> dict[str, float] | None:
        """Return what this process has used so far; None if it is free."""
        return None

    def count_earlier(self, usages: Iterable[Mapping[str, float]]) -> None:  # noqa: B027  (most have no budget)
        """Count what earlier processes used against the budget."""


class ChatReranker(Reranker):
    """A vision-language model behind a chat server, which is asked for yes or no: p(yes) / (p(yes) + p(no)).

    The server has to give log-probabilities (``logprobs`` of vLLM, SGLang, OpenAI). Answers are kept in a file, and a
    pair is never asked for twice.

    Args:
        model: its name on the server.
        url: address of the server, with /v1; or a list of several, among which requests are shared.
        revision: of the model, for the result and the file of answers.
        system: what the model is told first.
        question: the text after the two images, with ``{text}`` in it.
        answers: file of answers, JSON lines; null to keep none.
        key_variable: name of the environment variable with the key; null where the server needs none.
        concurrency: requests at once, over all servers.
        timeout: seconds for one request.
        images: how images are sent.
        prices: what the server charges.
        pace: rate limits.
        retries: when a request is sent again.
        budget: what may be spent, with all restarts.
        extra: more fields of each request.

    Raises (from `scores`):
        InputError: if a pair can't be scored.
        Stopped: if the budget is spent.
    """

    def __init__(
        self,
        model: str,
        url: list[str] | str = "http://localhost:8000/v1",
        revision: str | None = None,
        system: str = SYSTEM,
        question: str = QUESTION,
        answers: Path | None = None,
        key_variable: list[str | None] | str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        images: ImageLimits = IMAGES,
        prices: Prices = Prices(),  # noqa: B008  (immutable, as the next three)
        pace: Pace = Pace(),  # noqa: B008
        retries: Retries = Retries(),  # noqa: B008
        budget: Budget = Budget(),  # noqa: B008
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.revision, self.system = model, revision, system
        self.question = check_template(question, "reranking.reranker.question")
        self.answers = KeptAnswers(answers, "score", float)
        try:
            chat = ChatModel(model, images=images, prices=prices, extra=dict(extra or {}))
            self.endpoint = YesNoEndpoint(chat, url, key_variable, concurrency, timeout, pace, retries, budget)
        except InputError as error:
            raise located(error, NAMES) from None

    def describe(self) -> dict[str, Any]:
        """Return model, words and images."""
        sent = {"longest_side": self.endpoint.chat.images.longest_side, "quality": self.endpoint.chat.images.quality}
        words = {"system": self.system, "question": self.question, "images": sent}
        return {"reranker": self.name, "revision": self.revision, **words, "extra": unnamed(self.endpoint.chat.extra)}

    def scores(self, image: Image.Image | None, text: str, candidates: Sequence[Image.Image]) -> Tensor:
        """Return the probabilities (n,) of yes."""
        first: list[Part] = [] if image is None else [image]
        question = self.question.replace(PLACE, text)
        keys = [self._key([*first, candidate, question]) for candidate in candidates]
        known = self.answers.known()
        wanted = {key: place for place, key in reversed(list(enumerate(keys))) if key not in known}
        requests = [message_request(k, self.system, [*first, candidates[p], question]) for k, p in wanted.items()]
        if requests:
            answers, cause = ask_all(self.endpoint, NAMES, requests, self._keep)
            error = cause or first_failure(answers.values(), self.name)
            if error is not None:
                raise error
        return torch.tensor([known[key] for key in keys], dtype=torch.float64)

    def spent(self) -> dict[str, float]:
        """Return what was used so far."""
        return dict(self.endpoint.account.spent)

    def count_earlier(self, usages: Iterable[Mapping[str, float]]) -> None:
        """Count what earlier processes used."""
        self.endpoint.count_earlier(usages)

    def _keep(self, answer: Answer) -> None:
        if answer.content:
            self.answers.keep({answer.key: answer.content["score"]})

    def _key(self, parts: Sequence[Part]) -> str:
        """Return a name for a pair that changes with all that decides its answer."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode())
        for part in parts:
            content = part.encode() if isinstance(part, str) else f"{part.size}{part.mode}".encode() + part.tobytes()
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()[:32]
