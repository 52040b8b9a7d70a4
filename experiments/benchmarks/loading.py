"""Measure how many triplets a second a loader gives: from files each time, and from kept pixels.

python -m experiments.benchmarks.loading --workers 2 --markdown loading.md
"""

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from contextcir.encoders.pixels import divide
from contextcir.files import write_json
from contextcir.training.encoding import image_tensors
from data_modules.benchmarks import Manifest
from data_modules.loading.sampling import Shuffled
from experiments.benchmarks.measure import measured_on, require_at_least
from experiments.command import command, publish, table
from experiments.outputs import output_file

SIZE = (800, 600)  # width and height of the files
QUALITY = 90
FILES, PUBLISHED, FIRST, LATER, NORMALISED, CROPS, CROPS_OF_COPIES = (
    "decoded each time",
    "decoded each time, Hugging Face's processor as in the published code",
    "kept pixels, first epoch",
    "kept pixels, later epochs",
    "kept pixels, later epochs, normalised on the CPU",
    "random crops of files",
    "random crops of kept copies, later epochs",
)


class Processor:
    """Preprocess as the published code does: by the image processor of transformers for CLIP."""

    def __init__(self, side: int) -> None:
        from transformers import CLIPImageProcessor  # here: it is optional

        self.processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.as_tensor(self.processor(images=image, return_tensors="pt")["pixel_values"][0])


def photo(generator: np.random.Generator) -> Image.Image:
    """Return smooth noise with grain, whose JPEG is about as large as that of a photograph."""
    smooth = Image.fromarray(generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)).resize(SIZE)
    grain = generator.integers(-12, 13, (SIZE[1], SIZE[0], 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))


def write_photos(folder: Path, images: int, triplets: int) -> None:
    """Write JPEGs of smooth noise with grain, about as large as files of photographs, and triplets of them."""
    generator = np.random.default_rng(0)
    names = [f"{number:05}.jpg" for number in range(images)]
    for name in names:
        photo(generator).save(folder / name, quality=QUALITY)
    pairs = [generator.choice(images, 2, replace=False) for _ in range(triplets)]
    records = [{"reference": names[one], "target": names[other], "caption": "other"} for one, other in pairs]
    write_json(folder / "train.json", records)


def epoch_rate(loader: DataLoader, then: Callable[[Tensor], object] = id) -> float:
    """Return the triplets a second of an epoch, from asking for it on; ``then`` is done to all images of a batch."""
    start, count = time.perf_counter(), 0
    for batch in loader:
        for images in image_tensors(batch) if batch.query.images is None else batch.query.images[:1]:
            then(images)
        count += len(batch.target)
    return count / (time.perf_counter() - start)


def loading(
    images: int = 600,
    triplets: int = 1200,
    batch: int = 64,
    side: int = 224,
    workers: int = 2,
    repeats: int = 5,
    published: bool = True,
    reduced: int = 448,
    markdown: Path | None = None,
) -> None:
    """Measure, each way in turn, so that background load affects all of them equally.

    Args:
        images: JPEGs of 800 x 600 pixels.
        triplets: Of an epoch.
        batch: Triplets of a batch.
        side: Pixels of the model's images.
        workers: Processes that load.
        repeats: Epochs of each way.
        published: Measure the published code's processor too, which needs the extra `local`.
        reduced: Side of the square that has as many pixels as a copy has at most, for random crops; 0 for no crops.
        markdown: File to write the table to.
    """
    require_at_least(1, side=side, repeats=repeats)
    require_at_least(0, workers=workers, reduced=reduced)
    require_at_least(2, images=images, batch=batch)
    require_at_least(2 * batch, triplets=triplets)
    output_file(markdown, "markdown")
    from open_clip.transform import PreprocessCfg, image_transform_v2  # here: it takes seconds to import

    torch.set_num_threads(1)
    preprocess = image_transform_v2(PreprocessCfg(size=side), is_train=False)
    crops = image_transform_v2(PreprocessCfg(size=side), is_train=True)
    _, normalise = divide(preprocess)
    rates: dict[str, list[float]] = {}
    with TemporaryDirectory() as place:
        folder, kept = Path(place), Path(place) / "kept"
        write_photos(folder, images, triplets)

        def loader(
            cache: Path | None, process: Callable[[Image.Image], Tensor] = preprocess, **further: object
        ) -> DataLoader:
            options = {"batch_size": batch, "num_workers": workers, "order": Shuffled(0), **further}
            data = Manifest(folder, preprocess=process, cache=cache and str(cache), val_splits=(), **options)
            data.setup("fit")
            return data.train_dataloader()

        for _ in range(repeats):
            shutil.rmtree(kept, ignore_errors=True)
            of_files, of_pixels = loader(None), loader(kept)
            found = {FILES: epoch_rate(of_files)}
            if published:
                found[PUBLISHED] = epoch_rate(loader(None, Processor(side)))
            found[FIRST] = epoch_rate(of_pixels)
            found[LATER] = epoch_rate(of_pixels)
            found[NORMALISED] = epoch_rate(of_pixels, normalise)
            if reduced:
                found[CROPS] = epoch_rate(loader(None, augmentation=crops))
                of_copies = loader(kept, augmentation=crops, reduced=reduced)
                epoch_rate(of_copies)
                found[CROPS_OF_COPIES] = epoch_rate(of_copies)
            for name, rate in found.items():
                rates.setdefault(name, []).append(rate)
    base = statistics.median(rates[FILES])
    rows = []
    for name, of_epochs in rates.items():
        low, middle, high = np.quantile(of_epochs, (0.25, 0.5, 0.75)).tolist()
        rows.append([name, f"{middle:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{middle / base:.1f}"])
    told = f"{images:,} JPEGs of {SIZE[0]} x {SIZE[1]}, {triplets:,} triplets, batches of {batch}, {side} pixels, "
    told += f"{workers} processes, {repeats} epochs each; {measured_on(torch.device('cpu'), 1)}"
    publish(f"{told}\n\n{table(['loader', 'triplets/s', 'quartiles', 'ratio'], rows)}", markdown)


if __name__ == "__main__":
    command(loading)
