"""What one triplet and one image take, counted and measured on this machine: the ground that a plan stands on."""

import io
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from experiments.benchmarks.flops import NoModules, ShapesOnly, count_flops
from experiments.benchmarks.workload import Recipe, Setting, build

BATCH = 8  # triplets that are counted at a time


class Counts(NamedTuple):
    """Of a model: operations (a multiplication and an addition are 2), numbers and seconds.

    ``plain`` and ``cached``: operations of a training step, per triplet. ``image`` and ``query``: those of evaluating
    one. ``parameters``: all, ``trained``: those with gradients. ``embed``: width E. ``load``: seconds in which one core
    decodes and prepares an image.
    """

    plain: float
    cached: float
    image: float
    query: float
    parameters: int
    trained: int
    embed: int
    load: float


def count(model: str, phrases: int, size: tuple[int, int], images: int) -> Counts:
    """Count a model's operations without doing them, and time the loading of noise JPEGs of a size (width, height)."""
    setting, wanted = Setting(model, BATCH, phrases, "32"), {}
    for name, encoding in (("plain", WholeBatch()), ("cached", GradientCache(BATCH))):
        whole = partial(ContextCIR, encoding=encoding)
        wanted[name] = Recipe(CrossAttentionFusion, TextConceptConsistency(), whole)
    work = build(setting, wanted, torch.device("cpu"), weights=False)
    net, query = work.variants["plain"], work.batch.query
    trained = [p for p in net.parameters() if p.requires_grad]
    per_step = [count_flops(lambda name=name: work.loss(name), trained) / BATCH for name in wanted]
    return Counts(
        *per_step,
        forward_flops(lambda: net.backbone.encode_image(query.reference)) / BATCH,
        forward_flops(lambda: net.encode_query(query)) / BATCH,
        sum(p.numel() for p in net.parameters()),
        sum(p.numel() for p in trained),
        net.backbone.widths.embed,
        seconds_per_image(net.backbone, size, images),
    )


def forward_flops(function: Callable[[], object]) -> int:
    """Return the operations of a pass without gradients, without doing them."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with torch.no_grad(), ShapesOnly(), counter:
        function()
    return counter.get_total_flops()


def seconds_per_image(backbone: OpenCLIPBackbone, size: tuple[int, int], images: int) -> float:
    """Return the processor's seconds for decoding a JPEG from memory and preparing it for the image tower."""
    small = torch.randint(0, 256, (size[1] // 8, size[0] // 8, 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(small.to(torch.uint8).numpy()).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    start = time.process_time()
    for _ in range(images):
        with Image.open(io.BytesIO(file.getvalue())) as opened:
            backbone.preprocess(opened.convert("RGB"))
    return (time.process_time() - start) / images
