"""Calculate what training on many GPUs takes, from what is counted and measured here and from assumptions about them.

python -m experiments.benchmarks.plan --model ViT-H-14 --gpus "[8, 64]" --markdown plan.md


What one triplet and one image take, counted and measured on this machine: the ground that a plan stands on.
"""

import io
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
from experiments.command import command, processor, publish

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


FLOAT, ID = 4, 8  # bytes of a number, and of an image's id


@dataclass
class Machine:
    """What is assumed of the machines; nothing of it is measured.

    Args:
        teraflops: Of a GPU at its best, in 10^12 operations per second (H100 SXM, bfloat16, dense).
        utilisation: The share of it that training reaches.
        gpus_per_node: GPUs that reach each other without the network.
        node_link: 10^9 bytes per second and GPU between GPUs of a node, as a reduction gets them.
        network: The same between nodes.
        latency: Microseconds of a collective, for each GPU that takes part.
        cores: Processor cores for each GPU that load images.
    """

    teraflops: float = 989.0
    utilisation: float = 0.4
    gpus_per_node: int = 8
    node_link: float = 200.0
    network: float = 25.0
    latency: float = 10.0
    cores: int = 14

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"--machine.{name} must be positive, got {value}")


@dataclass
class Job:
    """What is trained and evaluated; defaults are CIRR's numbers.

    Args:
        batch: Triplets per GPU and step.
        chunk: Triplets that the gradient cache encodes at a time.
        rows: Rows of logits at a time.
        triplets: Of an epoch.
        gallery: Images of an evaluation.
        queries: Of an evaluation.
    """

    batch: int = 64
    chunk: int = 32
    rows: int = 64
    triplets: int = 28_225
    gallery: int = 2_297
    queries: int = 4_181

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"--job.{name} must be at least 1, got {value}")


def plan(counts: Counts, machine: Machine, job: Job, gpus: int) -> dict[str, str]:
    """Return the figures of a step, an epoch and an evaluation on some GPUs, by name."""
    speed = machine.teraflops * 1e12 * machine.utilisation
    link = 1e9 * (machine.node_link if gpus <= machine.gpus_per_node else machine.network)
    share, total = (gpus - 1) / gpus, gpus * job.batch
    latency = gpus * machine.latency * 1e-6 if gpus > 1 else 0.0
    compute = job.batch * counts.cached / speed
    gradients = FLOAT * counts.trained
    reduce = 2 * share * gradients / link + latency
    embeddings = total * (3 * counts.embed * FLOAT + 2 * ID)
    gather = share * (embeddings + 2 * total * 3 * counts.embed * FLOAT) / link + 3 * latency  # there, and back: a sum
    step = compute + reduce + gather
    needed, loaded = 2 * job.batch / step, machine.cores / counts.load
    step_with_loader = max(step, 2 * job.batch / loaded)
    images = job.gallery + job.queries
    evaluating = (job.gallery * counts.image + job.queries * counts.query) / speed / gpus
    loading = images * counts.load / machine.cores / gpus
    state = counts.parameters * FLOAT + counts.trained * 3 * FLOAT
    return {
        "batch of all GPUs": f"{total:,}",
        "operations of a step, per GPU, 10^12": f"{job.batch * counts.cached / 1e12:,.0f}",
        "of these more than without gradient cache": f"{100 * (counts.cached / counts.plain - 1):.0f} %",
        "computing, s": f"{compute:.2f}",
        "gradients reduced, 10^9 bytes": f"{gradients / 1e9:.2f}",
        "reduction, s": f"{reduce:.3f}",
        "embeddings gathered, 10^6 bytes": f"{embeddings / 1e6:.1f}",
        "gathering, with the way back, s": f"{gather:.4f}",
        "step, s": f"{step:.2f}",
        "of it communication": f"{100 * (reduce + gather) / step:.1f} %",
        "block of logits, 10^6 bytes": f"{job.rows * 3 * total * FLOAT / 1e6:.1f}",
        "weights, gradients and AdamW's state, per GPU, 10^9 bytes": f"{state / 1e9:.1f}",
        "images needed, per s and GPU": f"{needed:,.0f}",
        "images loaded, per s and GPU": f"{loaded:,.0f}",
        "cores needed, per GPU": f"{needed * counts.load:.1f}",
        "step with that loader, s": f"{step_with_loader:.2f}",
        "steps of an epoch": f"{job.triplets // total:,}",
        "epoch, min": f"{job.triplets // total * step_with_loader / 60:.2f}",
        "evaluation, computing, s": f"{evaluating:.2f}",
        "evaluation, loading images, s": f"{loading:.2f}",
    }


def as_markdown(model: str, counts: Counts, machine: Machine, job: Job, gpus: list[int]) -> str:
    """Return the plan as tables: what is counted and measured, what is assumed, and what follows."""
    plans = [plan(counts, machine, job, number) for number in gpus]
    lines = [
        f"**{model}**, everything trained; counted and measured on {processor()}, one core; torch {torch.__version__}, "
        f"Python {platform.python_version()}; {time.strftime('%Y-%m-%d')}",
        "",
        f"Counted: {counts.plain / 1e12:.2f} x 10^12 operations per triplet, {counts.cached / 1e12:.2f} with the "
        f"gradient cache; {counts.image / 1e12:.2f} to encode an image, {counts.query / 1e12:.2f} a query; "
        f"{counts.trained / 1e6:,.0f} of {counts.parameters / 1e6:,.0f} million parameters trained; "
        f"E = {counts.embed}.",
        f"Measured: {1 / counts.load:.0f} images per second and core (JPEG decoded and prepared).",
        f"Assumed: {', '.join(f'{name} {value:g}' for name, value in vars(machine).items())}.",
        f"Of the job: {', '.join(f'{name} {value:,}' for name, value in vars(job).items())}.",
        "",
        f"| GPUs | {' | '.join(map(str, gpus))} |",
        f"|---{'|---:' * len(gpus)}|",
    ]
    lines += [f"| {name} | {' | '.join(one[name] for one in plans)} |" for name in plans[0]]
    return "\n".join(lines) + "\n"


def calculate(
    model: str = "ViT-H-14",
    gpus: list[int] = [8, 64],  # noqa: B006
    phrases: int = 4,
    image_size: tuple[int, int] = (1024, 683),
    images: int = 20,
    machine: Machine = Machine(),  # noqa: B008
    job: Job = Job(),  # noqa: B008
    markdown: Path | None = None,
) -> None:
    """Calculate a plan. Nothing is run but the loading of images; communication is not hidden behind computing.

    Args:
        model: open_clip model.
        gpus: Numbers of GPUs.
        phrases: Noun phrases of each caption.
        image_size: Width and height of the images on disk.
        images: How many are loaded for the measurement.
        machine: Assumptions.
        job: What is trained.
        markdown: File for the tables.
    """
    if not gpus or min(*gpus, images, phrases, *image_size) < 1 or min(image_size) < 8:
        raise ValueError(
            "--gpus, --images and --phrases must be at least 1, and --image_size at least 8 by 8, "
            f"got {gpus}, {images}, {phrases} and {image_size}"
        )
    torch.set_num_threads(1)
    text = as_markdown(model, count(model, phrases, image_size, images), machine, job, gpus)
    publish(text, markdown)


def main() -> None:
    """Parse the command line."""
    command(calculate)


if __name__ == "__main__":
    main()
