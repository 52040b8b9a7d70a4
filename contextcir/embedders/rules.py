"""Zero-shot rules: how the embeddings of an image and a text become a query without any training."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torch.nn import functional

from contextcir.checks import between


class CompositionRule(ABC):
    """Composes a query from the embeddings of its two parts."""

    @abstractmethod
    def __call__(self, image: Tensor, text: Tensor) -> Tensor:
        """Return the queries (B, E) of images and texts (B, E)."""

    def settings(self) -> dict[str, Any]:
        """Return the name of the rule and its numbers, as plain JSON."""
        return {"rule": type(self).__name__, **vars(self)}


class NormalisedSum(CompositionRule):
    """q = (1 - s) n(i) + s n(t), n for L2-normalised; with s = 1/2 the usual sum of CLIP's two embeddings.

    Args:
        text_share: s, from 0 (the image alone) to 1 (the text alone).

    Raises:
        InputError: if it is outside.
    """

    def __init__(self, text_share: float = 0.5) -> None:
        self.text_share = between(text_share, 0, 1, "embedder.rule.text_share")

    def __call__(self, image: Tensor, text: Tensor) -> Tensor:
        """Return the weighted sum (B, E)."""
        share = self.text_share
        return (1 - share) * functional.normalize(image, dim=-1) + share * functional.normalize(text, dim=-1)
