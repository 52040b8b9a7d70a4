"""LaSCo: images that go by a number, in the folders and under the file names of COCO 2014."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from contextcir.files import write_json
from contextcir.synthesis.outputs.exports.export import Export, Kept, Names, write_list

COCO = re.compile(r"COCO_(?:train|val)2014_(\d{12})\.jpg")


class LaSCo(Export):
    """``downloads/lasco_SPLIT.json`` and ``downloads/lasco_SPLIT_corpus.json``, as the authors of LaSCo publish them.

    Images of COCO 2014 keep their number, folder and file name. If any image is not one, all are numbered from 1 on,
    in the order of their paths, and called as COCO would call them; ``images.json`` tells which is which. ``qid`` is
    the id of the triplet in the manifest. ``train2014`` and ``val2014`` hold links to the images; the corpus of a
    split is all its references and targets.
    """

    name: ClassVar[str] = "lasco"

    def write(self, kept: Kept, images: Path, out: Path) -> int:
        members = {split: sorted(_images(kept, split)) for split in kept.splits}
        numbers = self._numbers(members)
        names, total = Names("LaSCo"), 0
        for split, listed in members.items():
            entries = {
                image: [numbers[image], names.take(_path(image, numbers[image], split), image)] for image in listed
            }
            records = self._records(kept, split, entries)
            total += write_list(out / "downloads" / f"lasco_{split}.json", records)
            corpus = ({"id": number, "path": f"{split}/{path}"} for number, path in sorted(entries.values()))
            write_list(out / "downloads" / f"lasco_{split}_corpus.json", corpus)
        names.link(out, images)
        write_json(out / "images.json", {number: image for image, number in numbers.items()})
        return total

    @staticmethod
    def _numbers(members: dict[str, list[str]]) -> dict[str, int]:
        """Return the number of each image; in no two splits is the same image."""
        images = sorted(image for listed in members.values() for image in listed)
        found = {image: COCO.fullmatch(PurePosixPath(image).name) for image in images}
        if all(found.values()):
            names = Names("LaSCo")
            return {image: int(names.take(match[1], image)) for image, match in found.items() if match}
        return {image: number for number, image in enumerate(images, start=1)}

    @staticmethod
    def _records(kept: Kept, split: str, entries: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
        for triplet in kept.triplets(split):
            yield {
                "qid": triplet.id,
                "query-image": entries[triplet.reference],
                "query-text": triplet.caption,
                "target-image": entries[triplet.target],
            }


def _images(kept: Kept, split: str) -> set[str]:
    return {image for triplet in kept.triplets(split) for image in (triplet.reference, triplet.target)}


def _path(image: str, number: int, split: str) -> str:
    """Return the path in COCO's layout: its own for an image of COCO, else a made-up one of the split."""
    name = PurePosixPath(image).name
    if (match := COCO.fullmatch(name)) and int(match[1]) == number:
        return f"{name.split('_')[1]}/{name}"
    return f"{split}2014/COCO_{split}2014_{number:012d}.jpg"
