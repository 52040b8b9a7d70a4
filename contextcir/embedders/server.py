"""Embeddings of a model server, or of several that share the work."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contextcir.checks import whole
from contextcir.embedders.base import Embedder, Unfinished, check_embeddings, check_queries, check_template
from contextcir.embedders.exchanges import (
    EmbeddingEndpoint,
    Part,
    ask_all,
    first_failure,
    located,
    message_request,
    unnamed,
)
from contextcir.embedders.forms import ChatMessages, RequestForm
from contextcir.errors import InputError
from contextcir.synthesis.models.base import Budget, Prices
from contextcir.synthesis.models.chat import ChatModel, ImageLimits
from contextcir.synthesis.models.pacing import Pace, Retries

NAMES = {"model.chat": "embedder", "model": "embedder"}  # of settings, in errors
DEFAULT_IMAGES = ImageLimits(longest_side=1344, quality=95)


class ServerEmbedder(Embedder):
    """``/v1/embeddings`` with images: vLLM with ``--runner pooling``, SGLang, and whoever takes the same.

    A query is image and text, in this order, after the instruction; a candidate is its image, after the
    ``document_instruction``. The model's chat template makes the prompt, and the server pools. Images are sent as JPEG,
    at most ``images.longest_side`` pixels long.

    Args:
        model: its name on the server.
        url: address of the server, with /v1; or a list of several, among which requests are shared.
        revision: of the model, for the result: the server does not say it. Stored embeddings are told apart by it.
        licence: of the model, for the result.
        instruction: of queries; null for no system message.
        document_instruction: of candidates.
        template: the text of a query with ``{text}`` in it.
        form: of the requests: ChatMessages (vLLM) or InputList (SGLang).
        dimension: of an embedding; null to ask the server, with one request.
        key_variable: name of the environment variable with the key; null where the server needs none.
        concurrency: requests at once, over all servers.
        timeout: seconds for one request.
        images: how images are sent.
        prices: what the server charges.
        pace: rate limits.
        retries: when a request is sent again.
        budget: what may be spent, with all restarts.
        lost_after: requests in a row that fail because of the server until the evaluation stops.
        extra: more fields of each request, such as {"dimensions": 1024}.

    Raises (from `embed_query` and `embed_image`):
        Unfinished: if the budget is spent or the servers are gone.
        InputError: if a request fails for good.
    """

    def __init__(
        self,
        model: str,
        url: list[str] | str = "http://localhost:8000/v1",
        revision: str | None = None,
        licence: str | None = None,
        instruction: str | None = None,
        document_instruction: str | None = None,
        template: str = "{text}",
        form: RequestForm = ChatMessages(),  # noqa: B008  (it is not changed)
        dimension: int | None = None,
        key_variable: list[str | None] | str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        images: ImageLimits = DEFAULT_IMAGES,
        prices: Prices = Prices(),  # noqa: B008  (immutable, as the next three)
        pace: Pace = Pace(),  # noqa: B008
        retries: Retries = Retries(),  # noqa: B008
        budget: Budget = Budget(),  # noqa: B008
        lost_after: int = 20,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.revision, self.licence = model, revision, licence
        self.instruction, self.document_instruction = instruction, document_instruction
        self.template = check_template(template, "embedder.template")
        self.form = form
        form.check((instruction, document_instruction))
        self._dimension = None if dimension is None else whole(dimension, 1, "embedder.dimension")
        try:
            chat = ChatModel(model, images=images, prices=prices, extra=dict(extra or {}))
            self.endpoint = EmbeddingEndpoint(
                form, chat, url, key_variable, concurrency, timeout, pace, retries, budget, lost_after
            )
        except InputError as error:
            raise located(error, NAMES) from None
        self.batch = 2 * concurrency

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        if self._dimension is None:
            answers, cause = ask_all(self.endpoint, NAMES, [message_request("0", self.instruction, ["a text"])])
            cause = cause or first_failure(answers.values(), self.name)
            if cause is not None:
                raise cause
            self._dimension = len(answers["0"].content["embedding"])  # type: ignore[index]
        return self._dimension

    def settings(self) -> dict[str, Any]:
        """Return what else changes embeddings."""
        images = self.endpoint.chat.images
        sent = {"longest_side": images.longest_side, "quality": images.quality}
        return {**self.form.settings(), "images": sent, "extra": unnamed(self.endpoint.chat.extra)}

    def embed_query(self, images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> Tensor:
        """Return the embeddings (B, E) of queries."""
        check_queries(images, texts)
        given = zip(images, self.query_texts(texts), strict=True)
        return self._embed([[part for part in parts if part is not None] for parts in given], self.instruction)

    def embed_image(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the embeddings (B, E) of candidates."""
        return self._embed([[image] for image in images], self.document_instruction)

    def spent(self) -> dict[str, float]:
        """Return what was used so far."""
        return dict(self.endpoint.account.spent)

    def count_earlier(self, usages: Iterable[Mapping[str, float]]) -> None:
        """Count what earlier processes used."""
        self.endpoint.count_earlier(usages)

    def _embed(self, contents: Sequence[Sequence[Part]], instruction: str | None) -> Tensor:
        dimension = self.dimension
        requests = [message_request(str(place), instruction, parts) for place, parts in enumerate(contents)]
        answers, cause = ask_all(self.endpoint, NAMES, requests)
        ordered = [answers[request.key] for request in requests if request.key in answers]
        done = [answer for answer in ordered if answer.content is not None]
        values = torch.tensor([answer.content["embedding"] for answer in done if answer.content])
        cause = cause or first_failure(ordered, self.name)
        if cause is None or done:
            values = check_embeddings(values, len(done), dimension, self.name)
        if cause is not None:
            raise Unfinished([int(answer.key) for answer in done], values, cause)
        return values
