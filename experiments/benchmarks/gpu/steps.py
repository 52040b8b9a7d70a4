"""Training steps of one model, each way that they can be faster or smaller."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch

from callbacks.compiled import CompileTowers
from contextcir.batch import TripletBatch
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.losses.contrastive import InfoNCE
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR, names_on_host
from contextcir.training.optim import AdamWWarmupCosine
from experiments.benchmarks.gpu.card import Card
from experiments.benchmarks.gpu.report import Budget, Report, number
from experiments.benchmarks.gpu.timeline import PARTS, Timeline, shares_of
from experiments.benchmarks.step import operations
from experiments.benchmarks.workload import (
    BASELINE,
    PUBLISHED,
    PublishedWay,
    Setting,
    name_of,
    random_triplets,
    recipes,
)

POOL = 64  # different pictures in a batch: what they show changes no time
COUNTED = 8  # triplets that operations are counted of
WARM_UP, STEPS = 3, 5
COLUMNS = ["model", "step", "batch", "ms", "triplets/s", "MFU", "peak GiB", "waits", *PARTS]


class Sizes(NamedTuple):
    """How large a step is: phrases of a caption, triplets of a cached batch, and whether bf16 is used."""

    phrases: int = 4
    cached: int = 4096
    low_precision: bool = True


class Bench:
    """One model on a device, its batch on the host and its optimizer; `Variant`s change it for a while."""

    def __init__(self, card: Card, name: str, batch: int, sizes: Sizes) -> None:
        self.card, self.name, self.sizes, self.usual = card, name, sizes, batch
        with card.device:
            backbone = OpenCLIPBackbone(name, "random")
        torch.manual_seed(0)
        model = ContextCIR(backbone, contrastive=InfoNCE(rows=64), concept=TextConceptConsistency())
        self.model = model.to(card.device).train()
        self.optimize(fused=None)
        self.resize(batch)

    def optimize(self, fused: bool | None) -> None:
        """Make a new optimizer; the memory of the one before is free."""
        self.optimizer: torch.optim.Optimizer | None = None
        self.optimizer, _ = AdamWWarmupCosine(fused=fused)(self.model.backbone, [self.model.fusion], total_steps=1000)

    def resize(self, batch: int) -> None:
        """Take a batch of another size."""
        side = self.model.backbone.image_size
        generator = torch.Generator().manual_seed(0)
        pool = torch.randint(0, 256, (POOL, 3, side, side), dtype=torch.uint8, generator=generator)
        drawn = random_triplets(batch, self.sizes.phrases, 1)
        images = [pool[torch.arange(batch) % POOL] for _ in range(2)]  # (B, 3, S, S), as kept pixels are
        if self.card.on_gpu:
            images = [one.pin_memory() for one in images]
        self.batch: TripletBatch = drawn._replace(query=drawn.query._replace(reference=images[0]), target=images[1])

    def step(self, timeline: Timeline | None = None) -> None:
        """Train on the batch once, its copy to the device among it."""
        mark = timeline.mark if timeline else str
        mark("copies")  # the first mark is the start
        model, device = self.model, self.card.device
        moved = names_on_host(model.encoding.move(self.batch, device), self.batch)
        mark("copies")
        with torch.autocast(device.type, torch.bfloat16, enabled=self.sizes.low_precision):
            loss = model.losses(moved)["loss"]
        mark("loss")
        loss.backward()
        mark("towers")
        assert self.optimizer is not None  # noqa: S101  (there is one except while another is made)
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark("optimizer")


class Variant(NamedTuple):
    """A way to train: its name, what is different while it is measured, the batch, and which operations count."""

    name: str
    change: Callable[[Bench], Iterator[None]]
    counted: str = name_of(TextConceptConsistency())
    batch: int | None = None  # None for the one that fits
    in_parts: bool = True  # whether its parts follow each other as marks have it


def unchanged(bench: Bench) -> Iterator[None]:
    """Change nothing."""
    yield


def compiled(bench: Bench) -> Iterator[None]:
    """Compile the blocks of both towers."""
    CompileTowers().setup(None, bench.model, "fit")  # type: ignore[arg-type]  # it reads the module alone
    yield
    bench.model.backbone.sizes = None
    for block in bench.model.backbone.blocks:
        block._compiled_call_impl = None
    torch.compiler.reset()


def fused(bench: Bench) -> Iterator[None]:
    """Update the weights by one kernel."""
    bench.optimize(fused=True)
    yield
    bench.optimize(fused=None)


def channels_last(bench: Bench) -> Iterator[None]:
    """Store the convolution of patches with its channels last."""
    convolution = bench.model.backbone.clip.visual.conv1
    convolution.to(memory_format=torch.channels_last)
    yield
    convolution.to(memory_format=torch.contiguous_format)


def all_three(bench: Bench) -> Iterator[None]:
    """Compile, update by one kernel, and store channels last."""
    with ExitStack() as stack:
        for change in (compiled, fused, channels_last):
            stack.enter_context(contextmanager(change)(bench))
        yield


def checkpointed(bench: Bench) -> Iterator[None]:
    """Keep the inputs of blocks only, and compute the rest again."""
    bench.model.backbone.clip.set_grad_checkpointing(True)
    yield
    bench.model.backbone.clip.set_grad_checkpointing(False)


def without_concept(bench: Bench) -> Iterator[None]:
    """Train without the Text-CC loss."""
    concept, bench.model.concept = bench.model.concept, None
    yield
    bench.model.concept = concept


def published(bench: Bench) -> Iterator[None]:
    """Compute the loss as the published code does, with the same weights."""
    model = bench.model
    bench.model = PublishedWay(model.backbone, lambda _: model.fusion, model.contrastive, model.concept)
    yield
    bench.model = model


def cached(bench: Bench) -> Iterator[None]:
    """Encode a large batch in chunks of half the size that fits, for a chunk has up to twice as many images."""
    usual = len(bench.batch.target)
    bench.model.encoding = GradientCache(max(1, usual // 2))
    bench.resize(bench.sizes.cached)
    yield
    bench.model.encoding = WholeBatch()
    bench.resize(usual)


VARIANTS = (
    Variant("eager", unchanged),
    Variant("compile", compiled),
    Variant("fused AdamW", fused),
    Variant("channels-last", channels_last),
    Variant("all three", all_three),
    Variant("without Text-CC", without_concept, BASELINE),
    Variant("published way", published, PUBLISHED, in_parts=False),
    Variant("gradient checkpointing", checkpointed),
    Variant("gradient caching", cached, in_parts=False),
)


def measure_model(card: Card, name: str, batch: int, sizes: Sizes, report: Report, budget: Budget) -> None:
    """Measure all variants of a model, as far as the time goes; the batch is halved until it fits."""
    counts = operations(Setting(name, COUNTED, sizes.phrases, "32"), recipes([TextConceptConsistency()]))
    bench = Bench(card, name, batch, sizes)
    while True:
        try:
            bench.step()
            break
        except torch.cuda.OutOfMemoryError:
            bench.optimizer.zero_grad()  # type: ignore[union-attr]
            card.empty()
            if len(bench.batch.target) == 1:
                report.note(f"{name}: not even one triplet fits.")
                return
            bench.resize(len(bench.batch.target) // 2)
    bench.usual = len(bench.batch.target)
    usual = card.seconds(bench.step)
    for variant in VARIANTS:
        rows = sizes.cached if variant.change is cached else len(bench.batch.target)
        needed = (WARM_UP + STEPS + 3) * usual * 1.5 * rows / len(bench.batch.target)
        needed += 60.0 if card.on_gpu and variant.change in (compiled, all_three) else 0.0
        if needed > budget.left:
            report.left_out(f"{name}, {variant.name}", budget.left, needed)
            continue
        try:
            with contextmanager(variant.change)(bench):
                report.row(*row_of(bench, variant, counts[variant.counted] / COUNTED))
        except (RuntimeError, torch.cuda.OutOfMemoryError) as error:  # torch.compile's among them
            report.note(f"{name}, {variant.name}: {str(error).splitlines()[0][:200]}")
            rows = bench.usual
            del bench, error
            card.empty()
            bench = Bench(card, name, rows, sizes)  # whatever state the failure left
        card.empty()


def row_of(bench: Bench, variant: Variant, operations_of_one: float) -> list[str]:
    """Measure a variant, and return its row."""
    card, few = bench.card, variant.change is cached
    for _ in range(1 if few else WARM_UP):
        bench.step()
    seconds = card.seconds(bench.step, 1 if few else STEPS)
    memory, waits = card.peak_memory(bench.step), None if few else card.waits(bench.step)
    shares = dict[str, float]()
    if variant.in_parts:
        shares = shares_of(card.device, bench.model, bench.step)
    batch = len(bench.batch.target)
    share = card.share_of_peak(operations_of_one * batch, seconds)
    figures = [f"{batch:,}", f"{1000 * seconds:,.0f}", f"{batch / seconds:,.0f}", number(share, ".1%")]
    figures += [number(memory, ".1f"), number(waits, "d")]
    return [bench.name, variant.name, *figures, *(number(shares.get(part), ".0%") for part in PARTS)]
