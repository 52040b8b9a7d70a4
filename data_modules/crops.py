"""Images that are cut out of others, as GeneCIS shows the objects of Visual Genome."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from data_modules.images import ImageStore

DILATION = 0.7  # of the published GeneCIS evaluation


class Crop(NamedTuple):
    """A box in an image: its left top corner, width and height, in pixels."""

    left: float
    top: float
    width: float
    height: float


class CropStore(ImageStore):
    """Named crops of image files below one folder.

    Args:
        root: the folder.
        paths: path below ``root`` of the image that a crop is cut from, by the name of the crop.
        crops: what is cut out, by the same names; see `cut`.
    """

    def __init__(self, root: str | Path, paths: Mapping[str, str], crops: Mapping[str, Crop]) -> None:
        super().__init__(root, paths)
        self.crops = dict(crops)

    def load(self, name: str, purpose: str = "") -> Image.Image:
        """Return the crop as a square RGB image; see `ImageStore.load`.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it can't be read to its end as an image, or the box lies outside of it.
        """
        image, crop = super().load(name, purpose), self.crops[name]
        square = cut(image, crop)
        if square is None:
            behind = f" ({purpose})" if purpose else ""
            raise ValueError(
                f"image {name}: the box {list(crop)} (left, top, width, height) is outside of the "
                f"{image.width} x {image.height} pixels of {self.root / self.paths[name]}{behind}"
            )
        return square


def cut(image: Image.Image, crop: Crop) -> Image.Image | None:
    """Return the dilated crop of an image, padded with black to a square; None if nothing is left of it.

    As published (Vaze et al., CVPR 2023): the left top corner moves out by 0.7 of width and height, as far as the image
    reaches, and from there the crop has 1.7 times the size of the box, cut off at the image's right and bottom borders.
    So it grows to the left and the top; where these borders stop it, it grows to the other sides instead. The image is
    centred in the square, one pixel to the left or top where that doesn't come out even.
    """
    left = max(0, crop.left - DILATION * crop.width)
    top = max(0, crop.top - DILATION * crop.height)
    right = min(image.width, left + (1 + DILATION) * crop.width)
    bottom = min(image.height, top + (1 + DILATION) * crop.height)
    box = (round(left), round(top), round(right), round(bottom))
    if not (all(map(math.isfinite, crop)) and box[0] < box[2] and box[1] < box[3]):
        return None
    part = image.crop(box)
    side = max(part.size)
    square = Image.new("RGB", (side, side))
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


def find_crops(root: Path, folders: Sequence[Path], paths: Mapping[str, str], crops: Mapping[str, Crop]) -> CropStore:
    """Return the store of crops of images that lie in any of the folders, together or apart, by their file names.

    Visual Genome comes in two archives; which image is in which of them is not written anywhere.

    Args:
        root: folder that all ``folders`` are below.
        folders: where the images may be; of two files of the same name the first counts.
        paths: file name of the image that a crop is cut from, by the name of the crop.
        crops: what is cut out.

    Raises:
        FileNotFoundError: if none of the images is in any of the folders; the message lists these.
    """
    places: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    places.setdefault(entry.name, folder)
    if places.keys().isdisjoint(paths.values()):
        raise FileNotFoundError(
            f"no images: looked for {next(iter(paths.values()))} and {len(set(paths.values())) - 1} others in "
            f"{', '.join(map(str, folders))}; set --data.root to the folder that holds annotations and images"
        )
    found = {name: (places.get(path, folders[0]) / path).relative_to(root) for name, path in paths.items()}
    return CropStore(root, {name: str(path) for name, path in found.items()}, crops)
