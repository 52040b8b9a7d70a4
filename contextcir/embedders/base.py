"""The interface of a model that embeds queries and images, and what a result has to say of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contextcir.errors import InputError, shown

PLACE = "{text}"  # where a template has the text of a query
IMAGE, TEXT = "image", "text"


class EmbeddingSource:
    """Where the embeddings of a benchmark come from, with everything about them that belongs into a result.

    ``name`` and ``revision`` of the model, its ``licence``; ``instruction`` of queries and ``document_instruction`` of
    images, as the model was given them; ``template``: how the text of a query is put to it. None: not known, or none.
    """

    name: str
    revision: str | None = None
    licence: str | None = None
    instruction: str | None = None
    document_instruction: str | None = None
    template: str = PLACE

    @property
    def dimension(self) -> int:
        """The length E of an embedding."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return further settings that change embeddings, as plain JSON."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return all of this for a result, as plain JSON."""
        return {
            "kind": type(self).__name__,
            "name": self.name,
            "revision": self.revision,
            "licence": self.licence,
            "instruction": self.instruction,
            "document_instruction": self.document_instruction,
            "template": self.template,
            "dimension": self.dimension,
            **self.settings(),
        }


class Embedder(EmbeddingSource, ABC):
    """A model that is at hand: queries of an image, a text or both, and images, become vectors of one space.

    ``batch``: how many items a caller that keeps the results hands over at a time; as many may be lost when the process
    is killed. ``parts``: of ``image`` and ``text`` those that can be a query alone.
    """

    batch: int = 64
    parts: tuple[str, ...] = (IMAGE, TEXT)

    @abstractmethod
    def embed_query(self, images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> Tensor:
        """Return the embeddings (B, E) of queries, on the CPU, normalised or not.

        ``images``: RGB, None for a query of text alone. ``texts``: None for a query of an image alone.

        Raises:
            Unfinished: if only a part of them could be had.
            InputError: if a query can't be embedded.
        """

    @abstractmethod
    def embed_image(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the embeddings (B, E) of candidates, on the CPU; images and errors as of `embed_query`."""

    def spent(self) -> dict[str, float] | None:
        """Return what this process has used so far (`contextcir.synthesis.models.base.Usage`); None if it is free."""
        return None

    def count_earlier(self, usages: Iterable[Mapping[str, float]]) -> None:
        """Count what earlier processes used against the budget; only the first call counts."""

    def query_texts(self, texts: Sequence[str | None]) -> list[str | None]:
        """Return texts as the template puts them."""
        return [None if text is None else self.template.replace(PLACE, text) for text in texts]


class Unfinished(Exception):
    """The work stopped in its middle: ``embeddings`` (R, E) of the ``rows`` (R,) that were done, and the ``cause``."""

    def __init__(self, rows: Sequence[int], embeddings: Tensor, cause: Exception) -> None:
        super().__init__(str(cause))
        self.rows, self.embeddings, self.cause = list(rows), embeddings, cause


def check_template(template: str, setting: str) -> str:
    """Return a template; raises InputError unless it has the place of the text once."""
    if not isinstance(template, str) or template.count(PLACE) != 1:
        raise InputError(f"expected a text with {PLACE} in it once, got {shown(template)}", setting=setting)
    return template


def check_queries(images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> None:
    """Raise InputError unless there are as many images as texts, and each query has one of the two."""
    if isinstance(texts, str) or len(images) != len(texts):
        raise InputError(f"expected a text for each image or None, got {len(images)} images, {len(texts)} texts")
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        if image is None and text is None:
            raise InputError(f"query {place} has neither image nor text")


def check_embeddings(embeddings: Tensor, count: int, dimension: int, name: str) -> Tensor:
    """Return embeddings as float32 on the CPU.

    Raises:
        InputError: unless they are ``count`` rows of ``dimension`` finite numbers, not all of them 0.
    """
    if tuple(embeddings.shape) != (count, dimension):
        told = " x ".join(map(str, embeddings.shape))
        raise InputError(f"{name}: expected {count} embeddings of {dimension} numbers, got {told}", setting="embedder")
    plain = embeddings.detach().to("cpu", torch.float32)
    if not bool(plain.isfinite().all()) or not bool(plain.any(1).all()):
        raise InputError(
            f"{name}: an embedding is not finite, or all zeros: check its precision and inputs", setting="embedder"
        )
    return plain
