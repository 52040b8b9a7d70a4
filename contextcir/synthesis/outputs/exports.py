"""Exports: a written manifest in the file formats of other training sets, with links to the images."""

import json
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import ordinary_file, parse_json, write_json
from contextcir.synthesis.outputs.manifest import FOLDER as MANIFEST
from contextcir.synthesis.outputs.manifest import SPLITS
from contextcir.synthesis.pairs import image_path
from contextcir.synthesis.photos import FolderPhotos, Photos, photos_of
from contextcir.synthesis.stages import Run, Stage, Tally
from contextcir.synthesis.store import Lookup

FOLDER = "exports"
HOTEL_FOLDERS = {"train": "train", "val": "val_test"}
HOTEL_PARTS = 3  # of a path, by which readers of Hotel-CIR know an image
HOTEL_DEFAULT = ("photos", "all")  # leading parts for images in fewer folders
COCO = re.compile(r"COCO_(?:train|val)2014_(\d{12})\.jpg")


class Triplet(NamedTuple):
    """A record of a manifest: its ``id``, and the other images that look like the two, where they are known."""

    id: int
    reference: str
    target: str
    caption: str
    lookalikes: tuple[str, ...]


class ManifestTriplets:
    """The triplets of a manifest, read anew each time, so that memory does not grow with their number.

    Args:
        folder: of the synthesis, with a manifest.

    Raises:
        MissingFileError: if there is no manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {split: folder / MANIFEST / f"{split}.jsonl" for split in SPLITS}
        if not any(path.is_file() for path in self.files.values()):
            raise MissingFileError(f"no manifest in {folder / MANIFEST}: run the stage write first")
        self._pairs = Lookup(folder, "pairs")

    @property
    def splits(self) -> list[str]:
        """The splits that have triplets."""
        return [split for split, path in self.files.items() if path.is_file()]

    def read(self, split: str) -> Iterator[Triplet]:
        """Yield the triplets of a split; those of a pair come one after the other."""
        path = ordinary_file(self.files[split])
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield self._triplet(parse_json(line))
                except (KeyError, TypeError, ValueError) as error:
                    told = error.problem if isinstance(error, InputError) else "no record of this synthesis"
                    problem = f"line {number}: {told}; run the stage write again"
                    raise InputError(problem, file=path) from None

    def _triplet(self, record: Any) -> Triplet:
        reference, target = (image_path(record[name], name) for name in ("reference", "target"))
        members = self._pairs[record["provenance"]["stages"]["pairs"]]["image_set"]
        others = tuple(image for image in members if image not in (reference, target))
        return Triplet(record["id"], reference, target, record["caption"], others)


class Export(ABC):
    """Writes a manifest in the format of another set, with links to the images where the readers of it expect them."""

    name: ClassVar[str]  # of its folder

    @abstractmethod
    def write(self, triplets: ManifestTriplets, images: Path, out: Path) -> int:
        """Write all files into an empty folder.

        Args:
            triplets: of the manifest.
            images: folder that their image paths are below.
            out: the empty folder.

        Returns:
            The number of records in all splits.

        Raises:
            InputError: if the format can't hold the triplets.
        """


class ExportStage(Stage):
    """Writes an export to ``exports/NAME`` in the folder of a synthesis.

    An earlier export is replaced when the new one is complete. The same manifest gives the same files.

    Args:
        export: the format.
        images: folder that image paths are below.
    """

    name: ClassVar[str] = "write"
    sharded: ClassVar[bool] = False

    def __init__(self, export: Export, images: Path | Photos) -> None:
        photos = photos_of(images)
        if not isinstance(photos, FolderPhotos):
            problem = "an export links to image files, and these images are in shards or a store: leave it out"
            raise InputError(problem, setting="write.exports")
        self.export = export
        self.images = photos.folder

    def run(self, run: Run) -> Tally:
        """Write the export.

        Raises:
            MissingFileError: if there is no manifest.
            InputError: if the format can't hold the triplets.
        """
        out = run.folder / FOLDER / self.export.name
        new, old = (out.with_name(f".{self.export.name}.{word}") for word in ("new", "old"))
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
        new.mkdir(parents=True)
        count = self.export.write(ManifestTriplets(run.folder), self.images.resolve(), new)
        if out.exists():
            out.rename(old)
        new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
        return Tally(self.name, total=count, done=count, note=f"{count:,} records in {out}")


def write_list(path: Path, records: Iterable[Any]) -> int:
    """Write a JSON list, one record a line, without holding the records; return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, record in enumerate(records, start=1):
            file.write(("[\n" if count == 1 else ",\n") + json.dumps(record, ensure_ascii=False))
        file.write("\n]\n" if count else "[]\n")
        file.flush()
        os.fsync(file.fileno())
    return count


class ImageNames:
    """The names that a format gives to images: one for each image, no two equal.

    Args:
        format: whose names they are, for errors.
    """

    def __init__(self, format: str) -> None:
        self.format = format
        self._images: dict[str, str] = {}

    def take(self, name: str, image: str) -> str:
        """Reserve a name for an image and return it; raises InputError if another image has it."""
        if (other := self._images.setdefault(name, image)) != image:
            raise InputError(
                f"{self.format} would call two images {shown(name)}: {shown(other)} and {shown(image)}; rename one of "
                "the files, or remove this export",
                setting="write.exports",
            )
        return name

    def link(self, folder: Path, images: Path) -> None:
        """Make a link to each image, under its name below a folder."""
        for name, image in self._images.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(images / PurePosixPath(image))


class CIRRRewritten(Export):
    """CIRR-rewritten: ``rewritten_captions/rewritten_SPLIT.json``, as good4cir and the loader of ConText-CIR have it.

    A record for each pair, with all its texts. Images go by their file name without ".png", as in CIRR;
    ``image_splits/split.synthetic.SPLIT.json`` lists them in CIRR's way, and ``img_raw`` is a link to the folder of
    the images, so that the export can be read without CIRR. For pairs of CIRR, copy ``rewritten_captions`` alone.
    """

    name: ClassVar[str] = "cirr_rewritten"

    def write(self, triplets: ManifestTriplets, images: Path, out: Path) -> int:
        names, total = ImageNames("CIRR-rewritten"), 0
        for split in triplets.splits:
            listed: dict[str, str] = {}
            records = self._records(triplets.read(split), names, listed)
            total += write_list(out / "rewritten_captions" / f"rewritten_{split}.json", records)
            write_json(out / "image_splits" / f"split.synthetic.{split}.json", listed)
        (out / "img_raw").symlink_to(images)
        return total

    @staticmethod
    def _records(triplets: Iterator[Triplet], names: ImageNames, listed: dict[str, str]) -> Iterator[dict[str, Any]]:
        for pair, texts in groupby(triplets, key=lambda triplet: (triplet.reference, triplet.target)):
            for image in pair:
                listed[names.take(PurePosixPath(image).name.removesuffix(".png"), image)] = f"./{image}"
            yield {
                "query_image_url": pair[0],
                "retrieved_image_url": pair[1],
                "difference_captions": [triplet.caption for triplet in texts],
            }


class HotelCIR(Export):
    """Hotel-CIR: ``captions/hotel_SPLIT_data.json``, as the published loader of ConText-CIR reads it.

    Records of val have ``distractors``: the other images of the pair's image set. ``images/train`` and
    ``images/val_test`` hold links to the images under the last three parts of their paths; paths of fewer parts begin
    with "photos/all".
    """

    name: ClassVar[str] = "hotel_cir"

    def write(self, triplets: ManifestTriplets, images: Path, out: Path) -> int:
        total = 0
        for split in triplets.splits:
            names = ImageNames("Hotel-CIR")
            records = self._records(triplets, split, names)
            total += write_list(out / "captions" / f"hotel_{split}_data.json", records)
            names.link(out / "images" / HOTEL_FOLDERS[split], images)
        return total

    @staticmethod
    def _records(triplets: ManifestTriplets, split: str, names: ImageNames) -> Iterator[dict[str, Any]]:
        def path(image: str) -> str:
            return names.take("/".join((*HOTEL_DEFAULT, *PurePosixPath(image).parts)[-HOTEL_PARTS:]), image)

        for triplet in triplets.read(split):
            record: dict[str, Any] = {
                "query_image": path(triplet.reference),
                "result_image": path(triplet.target),
                "difference": triplet.caption,
            }
            if split != "train":
                record["distractors"] = [path(image) for image in triplet.lookalikes]
            yield record


class LaSCo(Export):
    """LaSCo: ``downloads/lasco_SPLIT.json`` and ``downloads/lasco_SPLIT_corpus.json``, as its authors publish them.

    Images of COCO 2014 keep their number, folder and file name. If any image is of another set, all are numbered from
    1 on in the order of their paths, and named as COCO would name them; ``images.json`` has number and path. ``qid`` is
    the id of the triplet in the manifest. ``train2014`` and ``val2014`` hold links to the images; the corpus of a
    split is all its references and targets.
    """

    name: ClassVar[str] = "lasco"

    def write(self, triplets: ManifestTriplets, images: Path, out: Path) -> int:
        members = {split: sorted(_coco_images(triplets, split)) for split in triplets.splits}
        numbers = self._numbers(members)
        names, total = ImageNames("LaSCo"), 0
        for split, listed in members.items():
            entries = {
                image: [numbers[image], names.take(_coco_path(image, numbers[image], split), image)] for image in listed
            }
            records = self._records(triplets, split, entries)
            total += write_list(out / "downloads" / f"lasco_{split}.json", records)
            corpus = ({"id": number, "path": f"{split}/{path}"} for number, path in sorted(entries.values()))
            write_list(out / "downloads" / f"lasco_{split}_corpus.json", corpus)
        names.link(out, images)
        write_json(out / "images.json", {number: image for image, number in numbers.items()})
        return total

    @staticmethod
    def _numbers(members: dict[str, list[str]]) -> dict[str, int]:
        """Return the number of each image; no image is in two splits."""
        images = sorted(image for listed in members.values() for image in listed)
        matches = {image: COCO.fullmatch(PurePosixPath(image).name) for image in images}
        if all(matches.values()):
            names = ImageNames("LaSCo")
            return {image: int(names.take(match[1], image)) for image, match in matches.items() if match}
        return {image: number for number, image in enumerate(images, start=1)}

    @staticmethod
    def _records(triplets: ManifestTriplets, split: str, entries: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
        for triplet in triplets.read(split):
            yield {
                "qid": triplet.id,
                "query-image": entries[triplet.reference],
                "query-text": triplet.caption,
                "target-image": entries[triplet.target],
            }


def _coco_images(triplets: ManifestTriplets, split: str) -> set[str]:
    return {image for triplet in triplets.read(split) for image in (triplet.reference, triplet.target)}


def _coco_path(image: str, number: int, split: str) -> str:
    """Return the path in COCO's layout: its own for an image of COCO, else one made of the number and the split."""
    name = PurePosixPath(image).name
    if (match := COCO.fullmatch(name)) and int(match[1]) == number:
        return f"{name.split('_')[1]}/{name}"
    return f"{split}2014/COCO_{split}2014_{number:012d}.jpg"
