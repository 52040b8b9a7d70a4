"""Small copies of images for a page, as data URIs: the page can be passed on as one file."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from callbacks.retrieved import Head, Picture
from contextcir.errors import InputError
from contextcir.images import read_image

QUALITY = 78
MAP_SIDE = 112  # pixels of an attention map


class Thumbnails:
    """The images of a split, made smaller. One that is not there is none, and counted.

    Args:
        head: names the images and their folder; None for no images at all.
        side: pixels of the longer side.
        root: folder of the benchmark, if it has moved since.
    """

    def __init__(self, head: Head | None, side: int, root: Path | None = None) -> None:
        self.pictures: Mapping[str, Picture] = {} if head is None else head.pictures
        self.root = root or (Path() if head is None else Path(head.root))
        self.side = side
        self.missing: dict[str, str] = {}  # why, by name
        self.wanted: set[str] = set()
        self._addresses: dict[str, str] = {}

    def address(self, name: str) -> str:
        """Return the ``src`` of an image, "" where there is no such file."""
        if name not in self._addresses:
            image = self.image(name)
            self._addresses[name] = "" if image is None else data_address(image)
        return self._addresses[name]

    def image(self, name: str, side: int | None = None) -> Image.Image | None:
        """Return the image, as it is on disk, with its longer side reduced; None where there is no such file."""
        self.wanted.add(name)
        picture = self.pictures.get(name)
        if picture is None:
            self.missing[name] = "no path in the run's folder"
            return None
        try:
            path = self.root / picture.path  # an absolute path stays what it is
            image = read_image(path, upright=False, side=None if picture.box else side or self.side)
        except InputError as error:
            self.missing[name] = error.describe()
            return None
        if picture.box is not None:
            from data_modules.genecis import Crop, cut

            image = cut(image, Crop(*picture.box)) or image
        image.thumbnail((side or self.side, side or self.side))
        return image

    def maps(self, name: str, grid: tuple[int, int], maps: Sequence[Sequence[int]]) -> list[str]:
        """Return the ``src`` of the attention maps of a query's phrases over its reference; [] if that is gone.

        The centre square of the image is shown, which is what CLIP's preprocessing leaves.
        """
        image = self.image(name, 2 * MAP_SIDE)
        if image is None:
            return []
        from matplotlib import colormaps  # takes a second

        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((MAP_SIDE, MAP_SIDE))
        pixels = np.asarray(square, dtype=np.float32) / 255  # (S, S, 3)
        faded = 0.5 * pixels + 0.5 * pixels.mean(2, keepdims=True)
        addresses = []
        for values in maps:
            levels = np.array(values, dtype=np.uint8).reshape(grid)
            smooth = np.asarray(Image.fromarray(levels).resize((MAP_SIDE, MAP_SIDE), Image.Resampling.BILINEAR)) / 255
            share = 0.45 + 0.2 * smooth[:, :, None]
            shown = (1 - share) * faded + share * colormaps["inferno"](smooth)[:, :, :3]
            addresses.append(data_address(Image.fromarray((255 * shown.clip(0, 1)).astype(np.uint8))))
        return addresses


def data_address(image: Image.Image) -> str:
    """Return an image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
