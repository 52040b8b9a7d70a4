"""GeneCIS: small galleries for four notions of similarity (Vaze et al., CVPR 2023).

Its attribute tasks show objects that are cut out of Visual Genome's images: `CropStore`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from PIL import Image
from pydantic import BeforeValidator, Field

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.evaluation.metrics import SubsetRecallAt
from contextcir.evaluation.protocol import Protocol
from contextcir.files import Inside
from data_modules.loading.folders import entries_of, stand_ins
from data_modules.loading.images import ImagePlace, ImageStore
from data_modules.reading.annotations import (
    AnnotationFile,
    CaptionRecord,
    Problem,
    Record,
    is_place,
)
from data_modules.reading.reader import BenchmarkReader, Counts, find_file
from data_modules.records import Evaluation, Origin, QueryRecord

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
        inside: what paths and links must not leave; None for the folder itself.
    """

    def __init__(
        self, root: str | Path, paths: Mapping[str, str], crops: Mapping[str, Crop], inside: Inside | None = None
    ) -> None:
        super().__init__(root, paths, inside)
        self.crops = dict(crops)

    def load(self, name: str, purpose: str = "") -> Image.Image:
        """Return the crop as a square RGB image; see `ImageStore.load`.

        Raises:
            MissingFileError: if the file does not exist.
            InputError: if it can't be read to its end as an image, or the box lies outside of it.
        """
        image, crop = super().load(name, purpose), self.crops[name]
        square = cut(image, crop)
        if square is None:
            reason = f" ({purpose})" if purpose else ""
            raise InputError(
                f"image {name}: the box {list(crop)} (left, top, width, height) is outside of the "
                f"{image.width} x {image.height} pixels of {self.file(name)}{reason}"
            )
        return square

    def place(self, name: str) -> ImagePlace:
        """Return the file and the box that `cut` takes the crop around."""
        return ImagePlace(self.file(name), tuple(self.crops[name]))

    def size(self, name: str, purpose: str = "") -> tuple[int, int]:
        """Return width and height of the crop."""
        return self.load(name, purpose).size


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


def find_crops(
    root: Path,
    folders: Sequence[Path],
    paths: Mapping[str, str],
    crops: Mapping[str, Crop],
    inside: Inside | None = None,
) -> CropStore:
    """Return the store of crops of images that lie in any of the folders, together or apart, by their file names.

    Visual Genome comes in two archives; which image is in which of them is not written anywhere. Endings may differ.

    Args:
        root: folder that all ``folders`` are below.
        folders: where the images may be; of two files of the same name the first counts.
        paths: file name of the image that a crop is cut from, by the name of the crop.
        crops: what is cut out.
        inside: what paths and links must not leave; None for the root.

    Raises:
        MissingFileError: if none of the images is in any of the folders; the message lists these.
    """
    files = {folder: {entry.name for entry in entries_of(folder)} for folder in folders}
    wanted = dict.fromkeys(paths.values())
    places: dict[str, Path] = {}
    for folder, present in files.items():
        for file in wanted.keys() & present:
            places.setdefault(file, folder)
    for folder, present in files.items() if len(places) < len(wanted) else ():
        absent = [file for file in wanted if file not in places]
        others = stand_ins(absent, present - wanted.keys())
        places |= {file: folder for file, other in others.items() if other is not None}
    if not places:
        raise MissingFileError(
            f"no images: looked for {next(iter(paths.values()))} and {len(wanted) - 1} others in "
            f"{', '.join(map(str, folders))}; expected the folder that holds annotations and images",
            setting="data.root",
        )
    below = {name: (places.get(path, folders[0]) / path).relative_to(root) for name, path in paths.items()}
    return CropStore(root, {name: str(path) for name, path in below.items()}, crops, inside)


TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
COCO = ("", "coco", "COCO", "images")
VISUAL_GENOME = ("", "visual_genome", "VisualGenome", "vg", "images")
PARTS = ("VG_100K", "VG_100K_2", "VG_100K_all", "images", "images2", "")


def _check_box(box: Any) -> Any:
    if not isinstance(box, list):
        raise Problem("must be a list", f", got {shown(box)}")
    if not is_place(box) or min(box[2:]) <= 0:
        raise Problem("must be [left, top, width, height] in pixels", f", got {shown(box)}")
    return tuple(box)


ImageNumber = Annotated[int, Field(ge=0, le=10**12)]


class GeneCISCaption(CaptionRecord):
    """The text of a query."""

    caption: str = Field(alias="condition")

    def texts(self) -> list[str]:
        """Return the text."""
        return [self.caption]


class WholeImage(Record):
    """An image of COCO."""

    val_image_id: ImageNumber

    @property
    def name(self) -> str:
        """The name of the image."""
        return str(self.val_image_id)

    @property
    def path(self) -> str:
        """Where the image lies below the folder of COCO."""
        return f"val2017/{self.val_image_id:012d}.jpg"


class ObjectImage(Record):
    """An object in an image of Visual Genome."""

    image_id: ImageNumber
    instance_bbox: Annotated[tuple[float, float, float, float], BeforeValidator(_check_box)]

    @property
    def name(self) -> str:
        """The name of the crop."""
        return f"{self.image_id}@{','.join(str(int(n) if n == int(n) else n) for n in self.instance_bbox)}"

    @property
    def path(self) -> str:
        """The file name of the image that the crop is cut from."""
        return f"{self.image_id}.jpg"


class ObjectTask(GeneCISCaption):
    """A query of the tasks ``focus_object`` and ``change_object``; records have no key."""

    reference: WholeImage
    target: WholeImage
    gallery: list[WholeImage]


class AttributeTask(GeneCISCaption):
    """A query of the tasks ``focus_attribute`` and ``change_attribute``; records have no key."""

    reference: ObjectImage
    target: ObjectImage
    gallery: list[ObjectImage]


class GeneCISReader(BenchmarkReader):
    """GeneCIS; each of its four tasks is a split, and it has no training split.

    Looks for ``TASK.json`` in ``root`` and ``root/genecis``. The object tasks show COCO's images of ``val2017``; the
    attribute tasks show objects that are cut out of Visual Genome's images (`cut`), which may be in
    its two folders VG_100K and VG_100K_2 or in one.

    Scored by recall@1, 2 and 3 in each query's own gallery of 15 (object tasks) or 10 images, the target among them.
    Ties count against the target, which the files always list first. The headline is the mean of recall@1 over the
    tasks, ``genecis_subset_recall_at_1``. One gallery of change_object lists the target once more, and is ranked
    without this copy.
    """

    benchmark = "genecis"
    expected: ClassVar[Counts] = {task: {"queries": 1_960} if task.endswith("_object") else {} for task in TASKS}
    total = 8_032
    captions = GeneCISCaption

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._crops: dict[str, dict[str, Crop]] = {}

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed paths of COCO's images may be relative to."""
        return [self.root / base for base in COCO]

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a task; the gallery is all that any query ranks, or `subsets` its own."""
        if split not in TASKS:
            raise InputError(f"GeneCIS has the tasks {', '.join(TASKS)}, got {shown(split)}", setting="data.split")
        path = find_file("{split}.json", split, [self.root / "genecis", self.root], "GeneCIS")
        model = ObjectTask if split.endswith("_object") else AttributeTask
        file: AnnotationFile[Any] = AnnotationFile(path, model, report=self.report)
        built = file.build(self._query)
        records = [record for record, _ in built.values()]
        index: dict[str, int] = {}
        subsets = [tuple(index.setdefault(name, len(index)) for name in names) for _, names in built.values()]
        paths: dict[str, str] = {}
        crops = self._crops[split] = {}
        for position in built:
            record = file[position]
            for image in (record.reference, record.target, *record.gallery):
                paths[image.name] = image.path
                if isinstance(image, ObjectImage):
                    crops[image.name] = Crop(*image.instance_bbox)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(index),
            query_ids=tuple(record.id for record in records),
            targets=tuple((index[record.target],) for record in records),
            references=tuple(index.get(record.reference, -1) for record in records),
            exclude_reference=False,
            subsets=tuple(subsets),
            metrics=SubsetRecallAt.at(1, 2, 3),
            averaged_as=self.benchmark,
            headline="subset_recall_at_1",
            version=self.protocol_version,
            options={"subset_size_max": max(map(len, subsets)), "subset_size_min": min(map(len, subsets))},
        )
        return Evaluation(protocol, tuple(records), paths)

    @staticmethod
    def _query(record: ObjectTask | AttributeTask, origin: Origin) -> tuple[QueryRecord, list[str]]:
        """Return a record in the form that all benchmarks share, and its own gallery, the target first."""
        if not record.gallery:
            raise Problem("is empty: there is nothing to rank", inside="gallery")
        reference, target = record.reference.name, record.target.name
        others = [image.name for image in record.gallery]
        for place, name in (("target", target), *((f"gallery.{n}", name) for n, name in enumerate(others))):
            if name == reference:
                raise Problem("is the reference itself", f": {name}", inside=place)
        query = QueryRecord(reference, record.caption, target=target, id=origin.position, origin=origin)
        return query, list(dict.fromkeys((target, *others)))

    def find_images(self, split: str, paths: Mapping[str, str]) -> ImageStore:
        """Return the store of the images of a task, or of their crops."""
        if not self._crops.get(split):
            return super().find_images(split, paths)
        if self.shards is not None:
            problem = "the crops of this task are cut from files: take null, or tasks of whole images"
            raise InputError(problem, setting="data.shards")
        folders = [self.root / base / part for base in VISUAL_GENOME for part in PARTS]
        return find_crops(self.root, folders, paths, self._crops[split], self.inside())
