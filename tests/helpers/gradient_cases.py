"""A model and batches to compare the gradients of a whole batch with those of its chunks."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from contextcir.batch import Clauses, Phrases, QueryBatch, TripletBatch
from contextcir.fusion import ConceptAttentionFusion, ConceptComposer, CrossAttentionFusion, Fusion, Sum
from contextcir.losses.composed import Additivity, ClauseConsistency
from contextcir.losses.contrastive import InfoNCE, LearnedTemperatureInfoNCE
from contextcir.losses.text_cc import ConceptLoss, SpatialConsistency, TextConceptConsistency
from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from experiments.benchmarks.workload import random_triplets
from tests.helpers import tiny


def two_layers(widths: object) -> Fusion:
    return CrossAttentionFusion(widths, layers=2)


def dropping(widths: object) -> Fusion:
    return CrossAttentionFusion(widths, layers=2, dropout=0.3)


def concepts(widths: object) -> Fusion:
    return ConceptAttentionFusion(widths, layers=2)


Parts = tuple[Callable[..., Fusion], ConceptLoss | None, Callable[[], InfoNCE]]
MODELS: dict[str, Parts] = {
    "Text-CC": (two_layers, TextConceptConsistency(), InfoNCE),
    "Text-CC and a learned temperature": (two_layers, TextConceptConsistency(), LearnedTemperatureInfoNCE),
    "spatial consistency": (two_layers, SpatialConsistency(), InfoNCE),
    "concept attention": (concepts, TextConceptConsistency(), InfoNCE),
    "clause consistency": (two_layers, ClauseConsistency(), InfoNCE),
    "additivity": (ConceptComposer, Additivity(), InfoNCE),
    "clause by clause": (ConceptComposer, TextConceptConsistency(), InfoNCE),
    "no concept loss": (two_layers, None, InfoNCE),
    "sum of embeddings": (Sum, None, InfoNCE),
}


def new_model(
    name: str, encoding: WholeBatch, precision: torch.dtype, frozen: str = "nothing", dropout: bool = False
) -> ContextCIR:
    """The same weights for the same name. ``frozen``: nothing, image, or towers."""
    fusion, concept, contrastive = MODELS[name]
    torch.manual_seed(0)
    backbone = tiny.backbone()
    if frozen != "nothing":
        (backbone.clip.visual if frozen == "image" else backbone.clip).requires_grad_(False)
    fusion = dropping if dropout else fusion
    model = ContextCIR(backbone, fusion, contrastive(), concept, encoding=encoding)
    with torch.no_grad():  # at its zero initialisation, the fusion ignores the text
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(precision)


def new_batch(size: int, precision: torch.dtype, phrases: int = 2, seed: int = 0) -> TripletBatch:
    """Triplets of which some share their images, with captions of many lengths, each with up to so many phrases."""
    choose = random.Random(seed)
    drawn = random_triplets(size, max(1, phrases), 32, seed)
    pixels = torch.cat([drawn.query.reference, drawn.target]).to(precision)
    names = torch.tensor([[choose.randrange(size), choose.randrange(2 * size)] for _ in range(size)])
    query, owner = drawn.query, drawn.query.phrases.owner
    kept = torch.tensor([choose.randrange(3) < phrases for _ in owner], dtype=torch.bool)
    kept &= owner != size // 2  # a caption without any
    phrases_kept = Phrases(*(part[kept] for part in query.phrases))
    reference, target = names.T.contiguous()
    query = query._replace(
        reference=pixels[reference], phrases=phrases_kept, clauses=in_two(query.captions, choose.randrange(size))
    )
    return TripletBatch(query, pixels[target], reference, target)


def in_two(captions: list[str], whole: int) -> Clauses:
    """Every caption but one as two clauses, divided at the blank after its first 8 letters."""
    places = [
        (row, *span)
        for row, caption in enumerate(captions)
        if row != whole
        for middle in [caption.index(" ", 8)]
        for span in ((0, middle), (middle + 1, len(caption)))
    ]
    table = torch.tensor(places).reshape(-1, 3)  # (C, 3)
    return Clauses(table[:, 0], table[:, 1:])


def rows_of(batch: TripletBatch, start: int, end: int) -> TripletBatch:
    """Some consecutive rows of a batch."""
    here = (batch.query.phrases.owner >= start) & (batch.query.phrases.owner < end)
    owner, spans, boxes = (part[here] for part in batch.query.phrases)
    index, reference, captions, _, clauses = batch.query[:5]
    phrases = Phrases(owner - start, spans, boxes)
    inside = (clauses.owner >= start) & (clauses.owner < end)
    clauses = Clauses(clauses.owner[inside] - start, clauses.spans[inside])
    query = QueryBatch(index[start:end], reference[start:end], captions[start:end], phrases, clauses)
    return TripletBatch(query, *(part[start:end] for part in batch[1:4]))


def gradients(model: ContextCIR, batch: TripletBatch) -> dict[str, Tensor]:
    """Losses, and the gradient of everything that trains."""
    model.zero_grad()
    losses = model.losses(batch)
    losses["loss"].backward()
    trained = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**{f"({name})": value.detach() for name, value in losses.items()}, **trained}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every gradient equal, to a tolerance relative to the largest number in it (and in any, for those of rounding)."""
    assert found.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        scale = max(value.abs().max().item(), 1e-3 * largest)
        assert (found[name] - value).abs().max().item() <= tolerance * scale, name


CACHE = GradientCache(chunk=3)
