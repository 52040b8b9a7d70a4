"""Measure how much faster a training step is with stored features of a frozen image tower: data, model and optimizer.

python -m experiments.benchmarks.features --root datasets/scenes --threads 1
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import DataLoader

from contextcir.batch import TripletBatch
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.frozen import StoredImages
from contextcir.fusion import CrossAttentionFusion
from contextcir.losses.contrastive import InfoNCE
from contextcir.losses.text_cc import ConceptLoss
from contextcir.training.module import ContextCIR
from data_modules.benchmarks import Scenes
from data_modules.loading.rows import ImageRows, TripletRows
from data_modules.loading.sampling import GroupedByReference
from data_modules.loading.triplets import collate_triplets
from experiments.benchmarks.measure import measured_on, require_at_least
from experiments.benchmarks.workload import FusionClass, Seconds
from experiments.command import command, publish, table
from experiments.outputs import output_file

PIXELS, ROWS = "pixels", "stored features"


def batches(loader: DataLoader) -> Iterator[TripletBatch]:
    """Yield batches for ever."""
    while True:
        yield from loader


def with_rows(loader: DataLoader, rows: ImageRows) -> DataLoader:
    """Return a loader of the same triplets with rows in the place of pixels."""
    dataset = TripletRows(loader.dataset.queries.records, rows)
    return DataLoader(dataset, loader.batch_size, sampler=loader.sampler, collate_fn=collate_triplets, drop_last=True)


def trainer_of(model: ContextCIR, precision: torch.dtype | None) -> Callable[[TripletBatch], None]:
    """Return a function that trains a model by a batch, as a run of the scenes experiment does."""
    optimizer, schedule = model.optimizer(model.backbone, [model.fusion, model.contrastive], 1000)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def train(batch: TripletBatch) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision is not None):
            loss = model.losses(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()

    return train


def timed(action: Callable[[], object]) -> Seconds:
    """Return how long an action takes."""
    start, cpu = time.perf_counter(), time.process_time()
    action()
    return Seconds(time.perf_counter() - start, time.process_time() - cpu)


def features(
    root: Path = Path("datasets/scenes"),
    model: str = "scenes-vit",
    text_blocks: int = 4,
    fusion: FusionClass = CrossAttentionFusion,
    concept: ConceptLoss | None = None,
    batch: int = 128,
    steps: int = 15,
    threads: int = 1,
    markdown: Path | None = None,
) -> None:
    """Train one model by pixels and by stored features in turn, loading the batches in the same process.

    Rows of the features that a step reads for the first time are compared with their checksums, as in any first epoch.

    Args:
        root: Scenes; draw them by `python -m experiments.run fit --config scenes --data.draw=true`.
        model: open_clip model; its image tower is frozen.
        text_blocks: Blocks of the text tower that are trained.
        fusion: The fusion.
        concept: A Text-CC loss; none by default.
        batch: Triplets of a step.
        steps: Measured steps of each kind.
        threads: CPU threads.
        markdown: File for the table.
    """
    output_file(markdown, "markdown")
    require_at_least(1, batch=batch, steps=steps, threads=threads, text_blocks=text_blocks)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pretrained = None if model == "scenes-vit" or ":" in model else "random"
    backbone = OpenCLIPBackbone(model, pretrained, trainable_image_blocks=0, trainable_text_blocks=text_blocks)
    whole = ContextCIR(backbone, fusion, InfoNCE(0.03), concept)
    data = Scenes(root, batch_size=batch, num_workers=0, preprocess=backbone.preprocess, order=GroupedByReference(0))
    loader = data.train_dataloader()
    with TemporaryDirectory() as folder:
        backbone.stored = StoredImages(folder)
        rows = ImageRows(loader.dataset.queries.images, backbone.preprocess, backbone.stored)
        count = len(rows.images)
        filling = timed(lambda: backbone.stored.table(backbone, 0))
        sources = {PIXELS: batches(loader), ROWS: batches(with_rows(loader, rows))}
        train = trainer_of(whole, None)
        loads: dict[str, list[Seconds]] = {kind: [] for kind in sources}
        trains: dict[str, list[Seconds]] = {kind: [] for kind in sources}
        for step in range(steps + 1):
            for kind, source in sources.items():
                taken: list[TripletBatch] = []
                load = timed(lambda source=source, taken=taken: taken.append(next(source)))
                work = timed(lambda taken=taken: train(taken[0]))
                if step:  # the first one starts threads and allocates memory
                    loads[kind].append(load)
                    trains[kind].append(work)
        size = sum(file.stat().st_blocks for file in Path(folder).rglob("*.bin")) * 512
    lines = []
    for kind in sources:
        pairs = list(zip(loads[kind], trains[kind], strict=True))
        load, work = (statistics.median(part.clock for part in parts[kind]) for parts in (loads, trains))
        clock, cpu = (statistics.median(getattr(a, of) + getattr(b, of) for a, b in pairs) for of in ("clock", "cpu"))
        numbers = [1e3 * load, 1e3 * work, batch / clock, batch / cpu]
        lines.append([kind, *(f"{number:,.0f}" for number in numbers)])
    text = table(["", "loading, ms", "training, ms", "triplets/s", "triplets a second of CPU time"], lines)
    spent = f"{filling.clock:,.0f} s ({filling.cpu:,.0f} of CPU time)"
    filled = f"{count:,} images encoded in {spent}, {size / 1e6:,.0f} MB"
    publish(f"**{model}**, batch {batch}; {measured_on(torch.device('cpu'), threads)}\n\n{text}\n{filled}\n", markdown)


if __name__ == "__main__":
    command(features)
