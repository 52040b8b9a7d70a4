"""Attention to phrases with known properties, given alike to every concept loss."""

import torch
from torch import Tensor

from contextcir.losses.grounded import GroundedConsistency
from contextcir.losses.maps import ConceptMaps, phrase_maps, shares
from contextcir.losses.text_cc import ConceptLoss, SpatialConsistency, TextConceptConsistency

LAYERS, HEADS, VISION, TEXT, ALONE, PHRASES = 2, 3, 6, 7, 4, 6
LOSSES = {
    "published": TextConceptConsistency(),
    "spatial": SpatialConsistency(),
    "grounded": GroundedConsistency(),
}


def value(loss: ConceptLoss, maps: ConceptMaps) -> Tensor:
    """The loss of maps; GroundedConsistency, which compares with places on the image, gets the map alone for places."""
    if not isinstance(loss, GroundedConsistency):
        return loss.from_maps(maps)
    counted = maps.context_tokens.any(dim=1)
    context = phrase_maps(maps.context, maps.owner[counted], maps.context_tokens[counted])
    if not counted.any():
        return loss.consistency(context, context)
    rows = maps.alone[counted]
    return loss.consistency(context, shares(phrase_maps(maps.isolated, rows, maps.isolated_tokens[rows])))


def attention(rows: int, tokens: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Random maps of all layers (rows, H, V, tokens) that sum to 1, fairly peaked."""
    scores = (2 * torch.randn(rows, HEADS, VISION, tokens, generator=generator).double() for _ in range(LAYERS))
    return tuple(layer.softmax(dim=-1).requires_grad_() for layer in scores)


def maps(owner: list[int], batch: int = 3) -> ConceptMaps:
    """Attention of `batch` captions and of phrases with these owners; phrase p is the same one in every call."""
    generator = torch.Generator().manual_seed(0)
    context, isolated = attention(batch, TEXT, generator), attention(PHRASES, ALONE, generator)
    context_tokens = torch.rand(PHRASES, TEXT, generator=generator) < 0.5
    context_tokens[:, 2] = True
    isolated_tokens = torch.rand(PHRASES, ALONE, generator=generator) < 0.5
    isolated_tokens[:, 1] = True
    count = len(owner)
    return ConceptMaps(
        context,
        tuple(layer[:count].detach().requires_grad_() for layer in isolated),
        torch.tensor(owner, dtype=torch.long),
        torch.arange(count),
        context_tokens[:count],
        isolated_tokens[:count],
    )


def equal_maps(owner: list[int], batch: int = 3) -> ConceptMaps:
    """Phrases that are attended to alone just as they are in their captions."""
    given = maps(owner, batch)
    alone = tuple(layer[given.owner].detach() for layer in given.context)
    return given._replace(isolated=alone, isolated_tokens=given.context_tokens)


def gradient(loss: Tensor, given: ConceptMaps) -> Tensor:
    """Gradient for the attention in context, flat."""
    return torch.cat([layer.flatten() for layer in torch.autograd.grad(loss, given.context)])
