"""A tiny LaSCo on disk, in the layouts that users have."""

from collections.abc import Callable
from pathlib import Path

from tests.helpers.make_data import write_image, write_json


def path_of(identity: int, folder: str = "val2014") -> str:
    """Where the official files say that an image of COCO is."""
    return f"{folder}/COCO_{folder}_{identity:012d}.jpg"


def triplet(number: int, query: int, target: int, folder: str = "val2014") -> dict[str, object]:
    """A record in the official format."""
    return {
        "qid": 1000 * query,  # not unique: VQA's question, which may have several answers
        "query-image": [query, path_of(query, folder)],
        "query-text": f"There are {number} horses",
        "target-image": [target, path_of(target, folder)],
    }


def make_lasco(
    root: Path, annotations: str = "downloads", images: Callable[[str], str] = lambda path: path, size: int = 12
) -> Path:
    """Write a LaSCo with ``size`` images per split and five queries, the last from an image outside the corpus."""
    for split, folder in (("train", "train2014"), ("val", "val2014")):
        identities = [100 * (split == "val") + 3 * number for number in range(size)]
        records = [triplet(n, identities[n // 2], identities[n + 2], folder) for n in range(4)]
        records.append(triplet(4, 999, identities[0], folder))
        for identity in (*identities, 999):
            write_image(root / images(path_of(identity, folder)), str(identity))
        write_json(root / annotations / f"lasco_{split}.json", records)
        if split == "val":
            corpus = [{"id": identity, "path": f"val/{path_of(identity)}"} for identity in identities]
            write_json(root / annotations / "lasco_val_corpus.json", corpus)
    return root
