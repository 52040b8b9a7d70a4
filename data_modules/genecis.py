"""GeneCIS: small galleries for four notions of similarity (Vaze et al., CVPR 2023).

Images that are cut out of others, as GeneCIS shows the objects of Visual Genome.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from contextcir.evaluation.metrics import SubsetRecallAt
from contextcir.evaluation.protocol import Protocol
from data_modules.base import CompositionDataModule, Evaluation
from data_modules.loading.images import ImageStore
from data_modules.reading.annotations import AnnotationFile, KeylessFile, shorten
from data_modules.records import QueryRecord

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


TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
COCO = ("", "coco", "COCO", "images")
VISUAL_GENOME = ("", "visual_genome", "VisualGenome", "vg", "images")
PARTS = ("VG_100K", "VG_100K_2", "VG_100K_all", "images", "images2", "")


class GeneCIS(CompositionDataModule):
    """GeneCIS for validate, test and predict; each of its four tasks is a split, and it has no training split.

    Looks for ``TASK.json`` in ``root`` and ``root/genecis``. The object tasks show COCO's images of ``val2017``; the
    attribute tasks show objects that are cut out of Visual Genome's images (`cut`), which may be in
    its two folders VG_100K and VG_100K_2 or in one.

    Scored by recall@1, 2 and 3 in each query's own gallery of 15 (object tasks) or 10 images, the target among them.
    Ties count against the target, which the files always list first. The headline is the mean of recall@1 over the
    tasks, ``genecis_subset_recall_at_1``. One gallery of change_object lists the target once more, and is ranked
    without this copy.

    Args:
        root: folder with annotations and images.
        val_splits: tasks scored by ``validate``.
        test_splits: tasks scored by ``test``, and ranked by ``predict``.
        options: see CompositionDataModule.
    """

    benchmark = "genecis"

    def __init__(
        self,
        root: str | Path,
        val_splits: Sequence[str] = TASKS,
        test_splits: Sequence[str] = TASKS,
        **options: Any,
    ) -> None:
        super().__init__(root=root, val_splits=val_splits, test_splits=test_splits, **options)
        self._crops: dict[str, dict[str, Crop]] = {}

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed paths of COCO's images may be relative to."""
        return [self.root / base for base in COCO]

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a task; the gallery is all that any query ranks, or `subsets` its own."""
        if split not in TASKS:
            raise ValueError(
                f"GeneCIS has the tasks {', '.join(TASKS)}, got {split!r}: "
                "change --data.val_splits or --data.test_splits"
            )
        file = KeylessFile(self._find_file(split))
        paths: dict[str, str] = {}
        crops = self._crops.setdefault(split, {})
        index: dict[str, int] = {}
        records, subsets = [], []
        for position in range(len(file)):
            places = ("reference", "target", *(f"gallery.{n}" for n in range(len(file.get(position, "gallery", list)))))
            if len(places) < 3:
                file.fail(position, "gallery", "is empty: there is nothing to rank")
            reference, target, *others = (self._image(file, position, place, paths, crops) for place in places)
            for place, name in zip(places[1:], (target, *others), strict=True):
                if name == reference:
                    file.fail(position, place, f"is the reference itself: {name}")
            caption = file.get(position, "condition", str)
            records.append(QueryRecord(reference, caption, target=target, id=file.ids[position]))
            subsets.append(tuple(index.setdefault(name, len(index)) for name in dict.fromkeys((target, *others))))
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(index),
            query_ids=file.ids,
            targets=tuple((index[record.target],) for record in records),
            references=tuple(index.get(record.reference, -1) for record in records),
            exclude_reference=False,
            subsets=tuple(subsets),
            metrics=SubsetRecallAt.at(1, 2, 3),
            averaged_as=self.benchmark,
            headline="subset_recall_at_1",
            options={"subset_size_max": max(map(len, subsets)), "subset_size_min": min(map(len, subsets))},
        )
        return Evaluation(protocol, tuple(records), paths, file.source)

    def _image(
        self, file: AnnotationFile, position: int, place: str, paths: dict[str, str], crops: dict[str, Crop]
    ) -> str:
        """Return the name of an image, and put its path, and its crop if it is one, among the known ones."""
        if file.path.stem.endswith("_object"):
            identity = file.get(position, f"{place}.val_image_id", int)
            paths[str(identity)] = f"val2017/{identity:012d}.jpg"
            return str(identity)
        identity = file.get(position, f"{place}.image_id", int)
        field = f"{place}.instance_bbox"
        box = file.get(position, field, list)
        if len(box) != 4 or any(type(n) not in (int, float) or not math.isfinite(n) for n in box) or min(box[2:]) <= 0:
            file.fail(position, field, f"must be [left, top, width, height] in pixels, got {shorten(box)}")
        name = f"{identity}@{','.join(str(int(n) if n == int(n) else n) for n in box)}"
        paths[name], crops[name] = f"{identity}.jpg", Crop(*box)
        return name

    def _images(self, split: str, paths: Mapping[str, str]) -> ImageStore:
        if split not in self._stores and self._crops.get(split):
            folders = [self.root / base / part for base in VISUAL_GENOME for part in PARTS]
            self._stores[split] = find_crops(self.root, folders, paths, self._crops[split])
        return super()._images(split, paths)

    def _find_file(self, split: str) -> Path:
        places = [self.root / "genecis", self.root]
        for place in places:
            if (place / f"{split}.json").is_file():
                return place / f"{split}.json"
        raise FileNotFoundError(
            f"no file {split}.json in {' or '.join(map(str, places))}: set --data.root to the folder of GeneCIS, or "
            "--data.val_splits and --data.test_splits to the tasks that are there"
        )
