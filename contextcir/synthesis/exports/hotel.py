"""Hotel-CIR: one text for each record, and images that go by the last three parts of their paths."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from contextcir.synthesis.exports.export import Export, Kept, Names, write_list

FOLDERS = {"train": "train", "val": "val_test"}
PARTS = 3  # of a path, by which its readers know an image
STAND_IN = ("photos", "all")  # folders of an image that lies in none


class HotelCIR(Export):
    """``captions/hotel_SPLIT_data.json``, as the published loader of ConText-CIR reads it.

    Records of val have ``distractors``: the other images of the pair's image set. ``images/train`` and
    ``images/val_test`` hold links to the images under the last three parts of their paths; paths of fewer parts begin
    with "photos/all".
    """

    name: ClassVar[str] = "hotel_cir"

    def write(self, kept: Kept, images: Path, out: Path) -> int:
        total = 0
        for split in kept.splits:
            names = Names("Hotel-CIR")
            records = self._records(kept, split, names)
            total += write_list(out / "captions" / f"hotel_{split}_data.json", records)
            names.link(out / "images" / FOLDERS[split], images)
        return total

    @staticmethod
    def _records(kept: Kept, split: str, names: Names) -> Iterator[dict[str, Any]]:
        def path(image: str) -> str:
            return names.take("/".join((*STAND_IN, *PurePosixPath(image).parts)[-PARTS:]), image)

        for triplet in kept.triplets(split):
            record: dict[str, Any] = {
                "query_image": path(triplet.reference),
                "result_image": path(triplet.target),
                "difference": triplet.caption,
            }
            if split != "train":
                record["distractors"] = [path(image) for image in triplet.lookalikes]
            yield record
