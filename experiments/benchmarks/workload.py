"""What a benchmark of training steps runs: variants of one model, with the same weights on the same batch."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer

from contextcir.batch import TripletBatch
from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.fusion.cross_attention import CrossAttentionFusion, Fusion
from contextcir.losses.text_cc import ConceptLoss, TextConceptConsistency
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine
from experiments.benchmarks.published import PublishedWay
from experiments.benchmarks.queries import random_triplets

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
