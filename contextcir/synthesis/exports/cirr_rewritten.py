"""CIRR-rewritten: other captions for the pairs of CIRR."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from contextcir.synthesis.exports.export import Export, Kept, Names, Triplet, write_list
from contextcir.synthesis.mining.whole_files import write_json


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
