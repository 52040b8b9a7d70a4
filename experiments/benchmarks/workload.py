"""The training step that benchmarks measure: variants of one model, with the same weights, on the same random batch.

One variant computes the loss as the published code does, for comparison: the same value at about twice the cost.
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

from contextcir import errors
from contextcir.batch import QueryBatch, TripletBatch, phrases_of
from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.features import ImageFeatures, TextFeatures, TokenBatch
from contextcir.fusion import CrossAttentionFusion, Fusion
from contextcir.losses.maps import ConceptMaps
from contextcir.losses.text_cc import ConceptLoss, TextConceptConsistency
from contextcir.training.module import ContextCIR, names_on_host
from contextcir.training.optim import AdamWWarmupCosine

BASELINE, PUBLISHED = "lambda = 0", "published way"
FusionClass = Callable[[Widths], Fusion]
CHUNK = 32  # phrases that `PublishedWay` encodes at a time
NOUNS = """
dog cat ball chair table lamp horse car boat house tree bird hat shirt cup plate book phone clock door wall sofa bench
road river train bus bike kite flag box bag shoe glove ring spoon fork knife bed rug
"""
ADJECTIVES = "small large old new red blue green white black brown round long short tall thin dark wet"
GLUE = ("make", " look like", ", and put", " next to")
ENDINGS = (" and keep the rest", ", seen from above", " with more light", " in the snow")


class PublishedWay(ContextCIR):
    """`ContextCIR` with `TextConceptConsistency`, computed as in column cc07007 of paper section 1.2.

    All texts are padded to the model's context length. For every phrase, also a repeated one, its image is encoded
    again, the isolated phrase is encoded, and both go through all of the fusion, of which only the maps are used.
    """

    def losses(self, batch: TripletBatch) -> dict[str, Tensor]:
        """Return the losses of `ContextCIR`; an image that occurs twice in the batch is encoded twice."""
        self.fusion.maps_at_once = True
        batch = move_data_to_device(batch, self.backbone._device)  # places of phrases too
        images = self.backbone.encode_image(torch.cat([batch.query.reference, batch.target]))
        reference, target = images.embedding.chunk(2)  # (B, E)
        tokens = images.tokens.chunk(2)[0]  # (B, V, D)
        fused = self.fusion(ImageFeatures(tokens, reference), self.encode_padded(batch.query.captions))
        contrastive = self.contrastive(fused.embedding, target, reference, batch.target_id, batch.reference_id)
        concept = self.concept.from_maps(self.maps(batch, fused.attention))
        return {"loss": contrastive + self.concept.weight * concept, "contrastive": contrastive, "concept": concept}

    def maps(self, batch: TripletBatch, context: tuple[Tensor, ...]) -> ConceptMaps:
        """Return the given attention in context, and that of a complete second pass for the isolated phrases."""
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
        """Return L maps (P, H, V, 77) of P isolated phrases, each over its own image (P, 3, S, S)."""
        return self.fusion(self.backbone.encode_image(images), self.encode_padded(texts)).attention

    def encode_padded(self, texts: list[str]) -> TextFeatures:
        """Encode texts padded to the model's context length: tokens (B, 77, Dt)."""
        ids, valid = self.backbone.tokenizer(texts)
        padding = (0, self.missing(texts))
        padded = TokenBatch(functional.pad(ids, padding), functional.pad(valid, padding))
        return self.backbone.encode_equally_long(*padded)  # `encode_text` would cut the padding off again

    def missing(self, texts: list[str]) -> int:
        """Return by how many tokens the longest text is shorter than the context length."""
        return self.backbone.tokenizer.context_length - self.backbone.tokenizer(texts).ids.shape[1]


@dataclass
class Setting:
    """The model and size of a step.

    Args:
        model: open_clip model; its weights are random.
        batch: Triplets of a step.
        phrases: Noun phrases of each caption.
        precision: 32, or bf16 for mixed precision.
    """

    model: str
    batch: int
    phrases: int
    precision: Literal["32", "bf16"]


class Recipe(NamedTuple):
    """A variant: its fusion, its loss, and the class of the model."""

    fusion: FusionClass
    concept: ConceptLoss | None
    whole: type[ContextCIR] = ContextCIR


def recipes(losses: list[ConceptLoss], fusion: FusionClass | None = None) -> dict[str, Recipe]:
    """Return the variants by name: lambda = 0 and every loss, both also with another fusion, and the published way.

    Raises:
        InputError: if two losses are of the same class.
    """
    named = {name_of(loss): loss for loss in losses}
    if len(named) < len(losses):
        names = ", ".join(map(name_of, losses))
        raise errors.InputError(f"each loss needs a class of its own, got {names}", setting="losses")
    variants = {BASELINE: Recipe(CrossAttentionFusion, None)}
    variants |= {name: Recipe(CrossAttentionFusion, loss) for name, loss in named.items()}
    if fusion is not None:
        other = type(fusion(Widths(64, 64, 64))).__name__  # the command line gives a function that builds one
        variants[f"{other}, {BASELINE}"] = Recipe(fusion, None)
        variants |= {f"{other}, {name}": Recipe(fusion, loss) for name, loss in named.items()}
    return variants | {PUBLISHED: Recipe(CrossAttentionFusion, TextConceptConsistency(), PublishedWay)}


def name_of(loss: ConceptLoss) -> str:
    """Return the name of a loss in tables."""
    return type(loss).__name__


class Seconds(NamedTuple):
    """Wall-clock time of a step, and CPU time of all its threads."""

    clock: float
    cpu: float


class Workload(NamedTuple):
    """Variants that share their weights, the optimizer of these, and the batch to train on."""

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
    """Build variants; without ``weights`` their memory is allocated, but not initialised."""
    with device if weights else torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*from a non-meta parameter", UserWarning)  # weights of a folder are dropped
        backbone = OpenCLIPBackbone(setting.model, "random")
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
    moved = names_on_host(move_data_to_device(batch, device), batch)  # as a Trainer has it
    return Workload(variants, optimizer, moved, setting.precision)


def random_triplets(batch: int, phrases: int, image_size: int, seed: int = 0) -> TripletBatch:
    """Return triplets of 2B different noise images, with ``phrases`` noun phrases in each caption.

    Lengths are those of real data: with start and end of text, a phrase has 4 to 6 tokens, and a caption with four
    phrases has 21 to 31, 25 on average.
    """
    choose = random.Random(seed)  # noqa: S311  (draws of an experiment, no secret)
    captions, spans = [], []
    for _ in range(batch):
        caption, places, glue = "", [], chain(GLUE, repeat(" and"))
        for _ in range(phrases):
            words = [choose.choice(("the", "a")), *choose.sample(ADJECTIVES.split(), choose.randint(0, 2))]
            phrase = " ".join([*words, choose.choice(NOUNS.split())])
            caption += f"{next(glue)} {phrase}"
            places.append((len(caption) - len(phrase), len(caption)))
        captions.append(caption + choose.choice(ENDINGS))
        spans.append(places)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2 * batch, 3, image_size, image_size, generator=generator)  # (2B, 3, S, S)
    reference, target = images.chunk(2)
    row = torch.arange(batch)
    return TripletBatch(QueryBatch(row, reference, captions, phrases_of(spans)), target, row, batch + row)
