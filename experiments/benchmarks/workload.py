"""What a benchmark of training steps runs: variants of one model, with the same weights on the same batch.

The way of the published code, in our words: the same loss at about twice the cost, as a yardstick.


Random training triplets with noun phrases, of the lengths that real ones have.
"""

import random
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal, NamedTuple

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from contextcir.batch import QueryBatch, TripletBatch, phrases_of
from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.features import ImageFeatures, TextFeatures, TokenBatch
from contextcir.fusion import CrossAttentionFusion, Fusion
from contextcir.losses.maps import ConceptMaps
from contextcir.losses.text_cc import ConceptLoss, TextConceptConsistency
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine

CHUNK = 32  # phrases that are read at a time


class PublishedWay(ContextCIR):
    """`ContextCIR` with `TextConceptConsistency`, computed as in column cc07007 of paper section 1.2.

    All texts are padded to the model's context length. For every phrase, also where it was met before, its image is
    encoded again, the phrase alone is encoded, and both are composed to the end, of which only the maps are read.
    """

    def losses(self, batch: TripletBatch) -> dict[str, Tensor]:
        """As those of `ContextCIR`; every image that the batch names twice is encoded twice."""
        images = self.backbone.encode_image(torch.cat([batch.query.reference, batch.target]))
        reference, target = images.embedding.chunk(2)  # (B, E)
        tokens = images.tokens.chunk(2)[0]  # (B, V, D)
        fused = self.fusion(ImageFeatures(tokens, reference), self.encode_padded(batch.query.captions))
        contrastive = self.contrastive(fused.embedding, target, reference, batch.target_id, batch.reference_id)
        concept = self.concept.from_maps(self.maps(batch, fused.attention))
        return {"loss": contrastive + self.concept.weight * concept, "contrastive": contrastive, "concept": concept}

    def maps(self, batch: TripletBatch, context: tuple[Tensor, ...]) -> ConceptMaps:
        """Attention in context, which is there already, and a whole second pass for the phrases alone."""
        query, tokenizer = batch.query, self.backbone.tokenizer
        owner, spans, _ = query.phrases
        texts = tokenizer.isolated(query.captions, owner, spans)
        chunks = [
            self.alone(query.reference[owner[start : start + CHUNK]], texts[start : start + CHUNK])
            for start in range(0, len(texts), CHUNK)
        ]
        isolated = tuple(torch.cat(layer) for layer in zip(*chunks, strict=True))  # L times (P, H, V, 77)
        of_phrase = functional.pad(tokenizer.content(tokenizer(texts)), (0, self.missing(texts)))  # (P, 77)
        in_caption = tokenizer.span_tokens(query.captions, owner, spans)
        in_caption = functional.pad(in_caption, (0, self.missing(query.captions)))  # (P, 77)
        row = torch.arange(len(texts), device=owner.device)
        return ConceptMaps(context, isolated, owner, row, in_caption, of_phrase.to(owner.device))

    @torch.no_grad()
    def alone(self, images: Tensor, texts: list[str]) -> tuple[Tensor, ...]:
        """L maps (P, H, V, 77) of P phrases, each over its own image (P, 3, S, S)."""
        return self.fusion(self.backbone.encode_image(images), self.encode_padded(texts)).attention

    def encode_padded(self, texts: list[str]) -> TextFeatures:
        """Texts at the model's context length: tokens (B, 77, Dt)."""
        ids, valid = self.backbone.tokenizer(texts)
        padding = (0, self.missing(texts))
        return self.backbone.encode_text(TokenBatch(functional.pad(ids, padding), functional.pad(valid, padding)))

    def missing(self, texts: list[str]) -> int:
        """How many tokens the longest of these texts falls short of the context length."""
        return self.backbone.tokenizer.context_length - self.backbone.tokenizer(texts).ids.shape[1]


BASELINE, PUBLISHED = "lambda = 0", "published way"
FusionClass = Callable[[Widths], Fusion]


@dataclass
class Setting:
    """Of what model a step is measured, and on how much.

    Args:
        model: open_clip model; its weights are random.
        batch: Triplets of a step.
        phrases: Noun phrases of each caption.
        precision: bf16: forward passes in bfloat16, as mixed precision has it.
    """

    model: str
    batch: int
    phrases: int
    precision: Literal["32", "bf16"]


class Recipe(NamedTuple):
    """A variant: its fusion, its loss, and the class of the whole."""

    fusion: FusionClass
    concept: ConceptLoss | None
    whole: type[ContextCIR] = ContextCIR


def recipes(losses: list[ConceptLoss], fusion: FusionClass | None = None) -> dict[str, Recipe]:
    """Return lambda = 0 and every loss, also of another fusion, and the published way, by name."""
    named = {name_of(loss): loss for loss in losses}
    if len(named) < len(losses):
        raise ValueError(f"each of --losses needs a name of its own, got {', '.join(map(name_of, losses))}")
    found = {BASELINE: Recipe(CrossAttentionFusion, None)}
    found |= {name: Recipe(CrossAttentionFusion, loss) for name, loss in named.items()}
    if fusion is not None:
        other = type(fusion(Widths(64, 64, 64))).__name__  # the command line gives a function that makes one
        found[f"{other}, {BASELINE}"] = Recipe(fusion, None)
        found |= {f"{other}, {name}": Recipe(fusion, loss) for name, loss in named.items()}
    return found | {PUBLISHED: Recipe(CrossAttentionFusion, TextConceptConsistency(), PublishedWay)}


def name_of(loss: ConceptLoss) -> str:
    """Return what a loss is called."""
    return type(loss).__name__


class Seconds(NamedTuple):
    """What a step took by the ``clock``, and of all processors together (``cpu``)."""

    clock: float
    cpu: float


class Workload(NamedTuple):
    """Variants that share their weights, the optimizer of all of these, and the batch that they train on."""

    variants: dict[str, ContextCIR]
    optimizer: Optimizer
    batch: TripletBatch
    precision: str

    def loss(self, name: str) -> Tensor:
        """Return the loss of a variant."""
        with torch.autocast(self.batch.target.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.variants[name].losses(self.batch)["loss"]

    def step(self, name: str) -> Seconds:
        """Train a variant for one step."""
        wait = torch.cuda.synchronize if self.batch.target.is_cuda else lambda: None
        wait()
        start, cpu = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        self.loss(name).backward()
        self.optimizer.step()
        wait()
        return Seconds(time.perf_counter() - start, time.process_time() - cpu)


def build(setting: Setting, wanted: Mapping[str, Recipe], device: torch.device, weights: bool = True) -> Workload:
    """Build variants; without weights they are memory that nobody has written to."""
    with device if weights else torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*from a non-meta parameter", UserWarning)  # weights of a folder go nowhere
        backbone = OpenCLIPBackbone(setting.model)
        fusions = {recipe.fusion: recipe.fusion(backbone.widths) for recipe in wanted.values()}
    shared = nn.ModuleList([backbone, *fusions.values()])
    if not weights:
        shared.to_empty(device=device)
    variants = {}
    for name, recipe in wanted.items():
        fusion = fusions[recipe.fusion]
        variants[name] = recipe.whole(backbone, lambda _, fusion=fusion: fusion, concept=recipe.concept).to(device)
    optimizer, _ = AdamWWarmupCosine()(backbone, list(fusions.values()), total_steps=1000)
    batch = random_triplets(setting.batch, setting.phrases, backbone.image_size)
    return Workload(variants, optimizer, move_data_to_device(batch, device), setting.precision)


NOUNS = """
dog cat ball chair table lamp horse car boat house tree bird hat shirt cup plate book phone clock door wall sofa bench
road river train bus bike kite flag box bag shoe glove ring spoon fork knife bed rug
"""
ADJECTIVES = "small large old new red blue green white black brown round long short tall thin dark wet"
GLUE = ("make", " look like", ", and put", " next to")
ENDINGS = (" and keep the rest", ", seen from above", " with more light", " in the snow")


def random_triplets(batch: int, phrases: int, image_size: int, seed: int = 0) -> TripletBatch:
    """Return triplets of 2B different noise images, each caption with so many noun phrases.

    A phrase has 4 to 6 tokens with start and end of text; a caption with four phrases has 21 to 31, and 25 on average.
    """
    choose = random.Random(seed)
    captions, spans = [], []
    for _ in range(batch):
        caption, found, glue = "", [], chain(GLUE, repeat(" and"))
        for _ in range(phrases):
            words = [choose.choice(("the", "a")), *choose.sample(ADJECTIVES.split(), choose.randint(0, 2))]
            phrase = " ".join([*words, choose.choice(NOUNS.split())])
            caption += f"{next(glue)} {phrase}"
            found.append((len(caption) - len(phrase), len(caption)))
        captions.append(caption + choose.choice(ENDINGS))
        spans.append(found)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2 * batch, 3, image_size, image_size, generator=generator)  # (2B, 3, S, S)
    reference, target = images.chunk(2)
    row = torch.arange(batch)
    return TripletBatch(QueryBatch(row, reference, captions, phrases_of(spans)), target, row, batch + row)
