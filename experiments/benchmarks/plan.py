"""Estimate training on many GPUs: operations counted and loading measured on this machine, and assumptions on theirs.

python -m experiments.benchmarks.plan --model ViT-H-14 --gpus "[8, 64, 512]" --markdown plan.md
"""

import io
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from contextcir.checks import positive
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.errors import InputError
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from experiments.benchmarks.flops import count_flops, forward_flops
from experiments.benchmarks.measure import require_at_least, versions
from experiments.benchmarks.workload import Recipe, Setting, build
from experiments.command import command, processor, publish, table
from experiments.outputs import output_file

BATCH = 8  # triplets that are counted at a time
FLOAT, ID = 4, 8  # bytes of a float32 number, and of an image's id


class Counts(NamedTuple):
    """The cost of one triplet and one image of a model; a multiply-add counts as 2 operations."""

    plain: float  # operations of a training step per triplet
    cached: float  # the same with gradient caching
    image: float  # operations to encode an image
    query: float  # operations to encode a query
    parameters: int
    trained: int  # parameters with gradients
    embed: int  # width E of embeddings
    load: float  # seconds in which one core decodes and preprocesses an image


def count(model: str, phrases: int, size: tuple[int, int], images: int, decoded: float | None = None) -> Counts:
    """Count a model's operations without executing them, and time loading noise JPEGs of a size (width, height).

    ``decoded``: images a second and core, where they are known already.
    """
    setting, variants = Setting(model, BATCH, phrases, "32"), {}
    for name, encoding in (("plain", WholeBatch()), ("cached", GradientCache(BATCH))):
        whole = partial(ContextCIR, encoding=encoding)
        variants[name] = Recipe(CrossAttentionFusion, TextConceptConsistency(), whole)
    work = build(setting, variants, torch.device("cpu"), weights=False)
    net, query = work.variants["plain"], work.batch.query
    trained = [p for p in net.parameters() if p.requires_grad]
    per_step = [count_flops(lambda name=name: work.loss(name), trained) / BATCH for name in variants]
    return Counts(
        *per_step,
        forward_flops(lambda: net.backbone.encode_image(query.reference)) / BATCH,
        forward_flops(lambda: net.encode_query(query)) / BATCH,
        sum(p.numel() for p in net.parameters()),
        sum(p.numel() for p in trained),
        net.backbone.widths.embed,
        1 / decoded if decoded else seconds_per_image(net.backbone, size, images),
    )


def seconds_per_image(backbone: OpenCLIPBackbone, size: tuple[int, int], images: int) -> float:
    """Return the CPU seconds to decode a JPEG from memory and preprocess it for the image tower."""
    small = torch.randint(0, 256, (size[1] // 8, size[0] // 8, 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(small.to(torch.uint8).numpy()).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    start = time.process_time()
    for _ in range(images):
        with Image.open(io.BytesIO(file.getvalue())) as opened:
            backbone.preprocess(opened.convert("RGB"))
    return (time.process_time() - start) / images


@dataclass
class Machine:
    """Assumptions about the machines; none of them is measured.

    Args:
        teraflops: Peak rate of a GPU in 10^12 operations per second (H100 SXM, bfloat16, dense).
        utilisation: Share of the peak rate that training reaches.
        gpus_per_node: GPUs connected without the network.
        node_link: Bandwidth of a reduction between GPUs of a node, in 10^9 bytes per second and GPU.
        network: The same between nodes.
        latency: Microseconds of a collective per participating GPU.
        cores: CPU cores per GPU that load images.
        kept: Images that a core loads in a second from kept pixels (`experiments.benchmarks.loading`).
    """

    teraflops: float = 989.0
    utilisation: float = 0.4
    gpus_per_node: int = 8
    node_link: float = 200.0
    network: float = 25.0
    latency: float = 10.0
    cores: int = 14
    kept: float = 2_390.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise InputError(f"must be positive, got {value}", setting=f"machine.{name}")


@dataclass
class Job:
    """What is trained and evaluated; defaults are CIRR's numbers.

    Args:
        batch: Triplets per GPU and step.
        chunk: Triplets that the gradient cache encodes at a time.
        rows: Rows of logits at a time.
        triplets: Triplets of an epoch.
        gallery: Gallery images of an evaluation.
        queries: Queries of an evaluation.
    """

    batch: int = 64
    chunk: int = 32
    rows: int = 64
    triplets: int = 28_225
    gallery: int = 2_297
    queries: int = 4_181

    def __post_init__(self) -> None:
        require_at_least(1, **{f"job.{name}": value for name, value in vars(self).items()})


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
    gather = (
        share * (embeddings + 2 * total * 3 * counts.embed * FLOAT) / link + 3 * latency
    )  # embeddings, and gradients back, which are summed
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
        "from kept pixels: images loaded, per s and GPU": f"{machine.cores * machine.kept:,.0f}",
        "from kept pixels: cores needed, per GPU": f"{needed / machine.kept:.2f}",
        **in_shards(counts, machine, job, gpus, compute, gather),
        "evaluation, computing, s": f"{evaluating:.2f}",
        "evaluation, loading images, s": f"{loading:.2f}",
    }


def in_shards(counts: Counts, machine: Machine, job: Job, gpus: int, compute: float, gather: float) -> dict[str, str]:
    """Return the figures of FSDP2's HYBRID_SHARD with gradient caching: shards in a node, copies between nodes.

    A block is gathered three times for each chunk: twice forward, once backward. Until the last chunk, each GPU holds
    the gradients of all weights. Then they are reduced to shards in the node, and the shards between the nodes.
    """
    shards = min(gpus, machine.gpus_per_node)
    nodes = -(-gpus // shards)
    link, network = 1e9 * machine.node_link, 1e9 * machine.network
    share, gradients = (shards - 1) / shards, FLOAT * counts.trained
    gathered = 3 * -(-job.batch // job.chunk) * share * FLOAT * counts.parameters
    reduced = share * gradients / link + 2 * (nodes - 1) / nodes * gradients / shards / network
    step = compute + gathered / link + reduced + gather
    state = (counts.parameters * FLOAT + counts.trained * 3 * FLOAT) / shards + gradients
    return {
        "in shards of a node: weights, gradients and AdamW's state, per GPU, 10^9 bytes": f"{state / 1e9:.1f}",
        "in shards of a node: weights gathered in a step, 10^9 bytes": f"{gathered / 1e9:.1f}",
        "in shards of a node: step, nothing of it hidden, s": f"{step:.2f}",
    }


def as_markdown(model: str, counts: Counts, machine: Machine, job: Job, gpus: list[int]) -> str:
    """Return the plan in Markdown: what is counted and measured, what is assumed, and what follows."""
    plans = [plan(counts, machine, job, number) for number in gpus]
    rows = [[name, *(one[name] for one in plans)] for name in plans[0]]
    return (
        f"**{model}**, everything trained; counted and measured on {processor()}, one core; {versions()}\n\n"
        f"Counted: {counts.plain / 1e12:.2f} x 10^12 operations per triplet, {counts.cached / 1e12:.2f} with the "
        f"gradient cache; {counts.image / 1e12:.2f} to encode an image, {counts.query / 1e12:.2f} a query; "
        f"{counts.trained / 1e6:,.0f} of {counts.parameters / 1e6:,.0f} million parameters trained; "
        f"E = {counts.embed}.\n"
        f"Loading: {1 / counts.load:.0f} images per second and core (JPEG decoded and prepared).\n"
        f"Assumed: {', '.join(f'{name} {value:g}' for name, value in vars(machine).items())}.\n"
        f"Job: {', '.join(f'{name} {value:,}' for name, value in vars(job).items())}.\n\n"
        f"{table(['GPUs', *map(str, gpus)], rows)}"
    )


def calculate(
    model: str = "ViT-H-14",
    gpus: list[int] = [8, 64, 512],  # noqa: B006
    phrases: int = 4,
    image_size: tuple[int, int] = (1024, 683),
    images: int = 20,
    decoded: float | None = None,
    machine: Machine = Machine(),  # noqa: B008
    job: Job = Job(),  # noqa: B008
    markdown: Path | None = None,
) -> None:
    """Estimate training on many GPUs. Only loading of images is run; communication does not overlap with computation.

    Args:
        model: open_clip model.
        gpus: Numbers of GPUs.
        phrases: Noun phrases of each caption.
        image_size: Width and height of the images on disk.
        images: How many are loaded for the measurement.
        decoded: Images that a core decodes and prepares in a second, where that was measured before; none are loaded.
        machine: Assumptions.
        job: What is trained.
        markdown: File for the tables.
    """
    output_file(markdown, "markdown")
    require_at_least(1, gpus=gpus, images=images, phrases=phrases)
    require_at_least(8, image_size=image_size)
    if decoded is not None:
        positive(decoded, "decoded")
    torch.set_num_threads(1)
    counts = count(model, phrases, image_size, images, decoded)
    publish(as_markdown(model, counts, machine, job, gpus), markdown)


if __name__ == "__main__":
    command(calculate)
