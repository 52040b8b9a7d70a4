"""Hotel-CIR: one text for each record, and images that go by the last three parts of their paths.

CIRR-rewritten: other captions for the pairs of CIRR.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from contextcir.files import write_json
from contextcir.synthesis.outputs.exports.export import Export, Kept, Names, Triplet, write_list

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


class CIRRRewritten(Export):
    """``rewritten_captions/rewritten_SPLIT.json``, as good4cir and the published loader of ConText-CIR have it.

    A record for each pair, with all its texts. Images go by their file name without ".png", as in CIRR;
    ``image_splits/split.synthetic.SPLIT.json`` lists them in CIRR's way, and ``img_raw`` is a link to the folder of
    the images, so that the export can be read without CIRR. For pairs of CIRR, copy ``rewritten_captions`` alone.
    """

    name: ClassVar[str] = "cirr_rewritten"

    def write(self, kept: Kept, images: Path, out: Path) -> int:
        names, total = Names("CIRR-rewritten"), 0
        for split in kept.splits:
            listed: dict[str, str] = {}
            records = self._records(kept.triplets(split), names, listed)
            total += write_list(out / "rewritten_captions" / f"rewritten_{split}.json", records)
            write_json(out / "image_splits" / f"split.synthetic.{split}.json", listed)
        (out / "img_raw").symlink_to(images)
        return total

    @staticmethod
    def _records(triplets: Iterator[Triplet], names: Names, listed: dict[str, str]) -> Iterator[dict[str, Any]]:
        for pair, texts in groupby(triplets, key=lambda triplet: (triplet.reference, triplet.target)):
            for image in pair:
                listed[names.take(PurePosixPath(image).name.removesuffix(".png"), image)] = f"./{image}"
            yield {
                "query_image_url": pair[0],
                "retrieved_image_url": pair[1],
                "difference_captions": [triplet.caption for triplet in texts],
            }
