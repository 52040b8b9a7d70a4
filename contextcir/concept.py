"""Text Concept-Consistency: a phrase should be attended to in its caption as it is on its own (paper section 1.2)."""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from contextcir.contrastive import world_size

# A phrase that is all of its caption is attended to alike both times, up to rounding. Such a difference, however small,
# would have a gradient as long as any other, in a direction of rounding's choice.
ROUNDING = 1e-6


class ConceptMaps(NamedTuple):
    """Attention of P phrases in the context of their captions, and alone.

    ``context`` L maps (B, H, V, T) of the captions; ``isolated`` L maps (I, H, V, Tp) of the I different phrases as
    texts of their own, over the image of their caption: the same words on the same image are there once. ``owner``
    (P,) row of the caption, ``alone`` (P,) row of the isolated phrase. ``context_tokens`` (P, T) bool and
    ``isolated_tokens`` (I, Tp) bool: the tokens of the phrase, without start and end of text. V begins with CLS.
    """

    context: tuple[Tensor, ...]
    isolated: tuple[Tensor, ...]
    owner: Tensor
    alone: Tensor
    context_tokens: Tensor
    isolated_tokens: Tensor


class DistinctPhrases:
    """What differs among P phrases, given the number of each one's image and its words.

    ``texts``: every wording once. `rows` tells which phrases share their isolated maps.
    """

    def __init__(self, images: list[int], texts: list[str]) -> None:
        self._pairs = list(zip(images, texts, strict=True))
        self.texts = list(dict.fromkeys(texts))

    def rows(self) -> tuple[list[int], list[int], list[int]]:
        """Return, for each of the I pairs of image and words, a phrase with it (I,) and the row of its text (I,);
        and for each phrase the row of its pair (P,)."""
        first: dict[tuple[int, str], int] = {}
        for position, pair in enumerate(self._pairs):
            first.setdefault(pair, position)
        number = {pair: row for row, pair in enumerate(first)}
        text_row = {text: row for row, text in enumerate(self.texts)}
        return list(first.values()), [text_row[text] for _, text in first], [number[pair] for pair in self._pairs]


class TextConceptConsistency(nn.Module):
    """ReLU(|in context - alone| - epsilon), averaged, as published in 2026 (paper section 1.2, column cc07007).

    ``weight``: the factor of this loss in the total, which the caller applies. ``epsilon``: tolerated difference.
    """

    detaches_isolated = True  # callers may compute the isolated maps without a graph

    def __init__(self, weight: float = 0.08, epsilon: float = 0.0) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, maps: ConceptMaps) -> Tensor:
        """The loss without its weight: mean over patches, then over the phrases of all ranks.

        Phrases without a token in their (cut) caption are left out. Without any phrase it is 0, with zero gradients;
        every rank has to call it all the same, and ``isolated`` may then be empty.
        """
        found = maps.context_tokens.any(dim=1) & maps.isolated_tokens.any(dim=1)[maps.alone]  # (P,)
        context = phrase_maps(maps.context, maps.owner[found], maps.context_tokens[found])  # (F, V - 1)
        isolated = context.detach()  # (F, V - 1)
        if found.any():  # else there may not have been an isolated pass
            rows = maps.alone[found]  # (F,)
            isolated = phrase_maps(maps.isolated, rows, maps.isolated_tokens[rows]).detach()
        excess = (F.threshold((context - isolated).abs(), ROUNDING, 0.0) - self.epsilon).relu()
        count = found.sum()
        if world_size() > 1:
            dist.all_reduce(count)  # in place; the ranks' mean of the gradients becomes that of all their phrases
        return excess.mean(dim=1).sum() * world_size() / count.clamp(min=1)


def phrase_maps(maps: tuple[Tensor, ...], rows: Tensor, tokens: Tensor) -> Tensor:
    """Attention of every patch to each phrase, (P, V - 1): mean over layers, heads and the phrase's tokens; no CLS.

    ``maps`` L times (B, H, V, T), ``rows`` (P,) which of them each phrase uses, ``tokens`` (P, T) bool.
    """
    mean = torch.stack([layer[:, :, 1:].mean(dim=1) for layer in maps]).mean(dim=0)  # (B, V - 1, T)
    share = tokens.to(mean.dtype) / tokens.sum(dim=1, keepdim=True)  # (P, T)
    return (mean[rows] * share[:, None, :]).sum(dim=-1)  # (P, V - 1); autocast would round a matrix product
