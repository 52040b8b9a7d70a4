"""Measure the first reading of JPEGs: decoders, whether their pixels are equal, and what resizing takes after them.

python -m experiments.benchmarks.decoding --markdown decoding.md

Ways alternate image by image, so that background load affects all of them equally; times are CPU time of one thread.
With another build of Pillow (Pillow-SIMD) installed, the digest over ``--photos`` tells whether its pixels are equal.
"""

import hashlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, features

from contextcir.encoders.pixels import divide
from contextcir.errors import InputError
from contextcir.images import decode_image, image_bytes
from experiments.benchmarks.loading import photo
from experiments.benchmarks.measure import measured_on, require_at_least
from experiments.command import command, publish, table
from experiments.outputs import output_file

PILLOW, TORCHVISION, DRAFT = "Pillow", "torchvision", "Pillow, draft scaling (other pixels)"
KINDS = {
    "4:2:0": {"subsampling": 2},
    "4:4:4": {"subsampling": 0},
    "4:2:0, progressive": {"subsampling": 2, "progressive": True},
    "grey": {"mode": "L"},
}
Decoder = Callable[[bytes], Image.Image]


def with_torchvision(content: bytes) -> Image.Image:
    """Decode a JPEG by torchvision, into the image that the preprocessing resizes."""
    from torchvision.io import ImageReadMode, decode_jpeg  # here: torchvision takes a second to import

    warnings.filterwarnings("ignore", "The image decoding and encoding capabilities", DeprecationWarning)
    given = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return Image.fromarray(decode_jpeg(given, ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy())


def decoders(side: int) -> dict[str, Decoder]:
    """Return the ways of decoding, the one that is in use first; ``side``: of the model's images."""
    return {
        PILLOW: lambda content: decode_image(content, upright=False),
        TORCHVISION: with_torchvision,
        DRAFT: lambda content: decode_image(content, upright=False, side=side),
    }


def made(images: int) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of made JPEGs of each kind."""
    generator = np.random.default_rng(0)
    for _ in range(images):
        picture = photo(generator)
        for kind, options in KINDS.items():
            file, settings = io.BytesIO(), {name: value for name, value in options.items() if name != "mode"}
            picture.convert(str(options.get("mode", "RGB"))).save(file, "JPEG", quality=90, **settings)
            yield kind, file.getvalue()


def found_in(folder: Path, images: int) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of the first so many JPEGs of a folder.

    Raises:
        InputError: if there is none.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:images]
    if not files:
        raise InputError("expected a folder of JPEGs, found none", file=folder, setting="photos")
    yield from (("files", image_bytes(path)) for path in files)


def decoding(images: int = 60, side: int = 224, photos: Path | None = None, markdown: Path | None = None) -> None:
    """Measure how long each decoder takes, alone and with the preprocessing after it.

    Args:
        images: JPEGs of each kind.
        side: Pixels of the model's images.
        photos: Folder of JPEGs, in the place of made ones of 800 x 600 pixels.
        markdown: File to write the table to.
    """
    require_at_least(1, images=images, side=side)
    output_file(markdown, "markdown")
    from open_clip.transform import PreprocessCfg, image_transform_v2  # here: it takes seconds to import

    torch.set_num_threads(1)
    pixels, _ = divide(image_transform_v2(PreprocessCfg(size=side), is_train=False))
    ways, taken, compared = decoders(side), {}, {}
    digest = hashlib.sha256()
    for kind, content in made(images) if photos is None else found_in(photos, images):
        usual = None
        for name, decode in ways.items():
            start = time.process_time()
            image = decode(content)
            middle = time.process_time()
            prepared = pixels(image)
            end = time.process_time()
            taken.setdefault((kind, name), []).append((middle - start, end - start))
            if usual is None:
                usual = np.asarray(image), prepared.int()
                digest.update(usual[0].tobytes() + prepared.numpy().tobytes())
            equal = image.size == usual[0].shape[1::-1] and np.array_equal(np.asarray(image), usual[0])
            gap = int((prepared.int() - usual[1]).abs().max())
            compared.setdefault((kind, name), []).append((equal, gap))
    rows = []
    for kind, name in taken:
        alone, whole = np.median(1000 * np.array(taken[kind, name]), axis=0)
        base = np.median(1000 * np.array(taken[kind, PILLOW])[:, 1])
        equal, gaps = zip(*compared[kind, name], strict=True)
        same = "yes" if all(equal) else f"{sum(equal)} of {len(equal)}"
        rows.append([kind, name, f"{alone:.2f}", f"{whole:.2f}", f"{base / whole:.2f}", same, str(max(gaps))])
    told = f"Pillow {PIL.__version__}, libjpeg-turbo {features.version_feature('libjpeg_turbo')}; {side} pixels, "
    told += f"{images} JPEGs of each kind, medians; digest of Pillow's pixels {digest.hexdigest()[:16]}; "
    told += measured_on(torch.device("cpu"), 1)
    head = [
        "JPEG",
        "decoder",
        "decoding, ms",
        "with resizing, ms",
        "times as fast",
        "equal pixels",
        "largest difference",
    ]
    publish(f"{told}\n\n{table(head, rows)}", markdown)


if __name__ == "__main__":
    command(decoding)
