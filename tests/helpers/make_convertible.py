"""Small training sets on disk in the official formats that are converted into manifests, and a reader of the result."""

import json
from pathlib import Path

from tests.helpers.make_data import write_image, write_json

HOTEL = Path("captions") / "hotel_train_data.json"
REWRITTEN = Path("rewritten_captions") / "rewritten_train.json"


def make_hotel(root: Path, split: str = "train") -> Path:
    """Three records in the official format; paths have different beginnings, as in files from different machines."""
    records = [
        {
            "query_image": f"/data/hotels/{split}/{n}/expedia/{n}.jpg",
            "result_image": f"{n}/travel/t{n}.jpg",
            "difference": f"Swap the lamp {n}.",
            "distractors": [f"https://host.example/x/{n}/travel/far%20{n}.jpg?size=1"],
        }
        for n in range(3)
    ]
    if split == "train":
        for record in records:
            del record["distractors"]
    write_json(root / "captions" / f"hotel_{split}_data.json", records)
    folder = root / "images" / ("train" if split == "train" else "val_test")
    for n in range(3):
        for name in (f"{n}/expedia/{n}.jpg", f"{n}/travel/t{n}.jpg", f"{n}/travel/far {n}.jpg"):
            write_image(folder / name, name)
    return root


def make_rewritten(root: Path) -> Path:
    """Two of CIRR's six training pairs, with sentences as a list and as a string."""
    url = "https://host.example/nlvr2/train-{set}-0-img{member}.png"
    write_json(
        root / REWRITTEN,
        [
            {
                "query_image_url": url.format(set=0, member=1),
                "retrieved_image_url": url.format(set=0, member=2),
                "difference_captions": ["Add a pug. ", "", "Remove the bed."],
            },
            {
                "query_image_url": url.format(set=1, member=0),
                "retrieved_image_url": url.format(set=1, member=1) + "?raw=1",
                "difference_captions": "Add a gnp. Show it",
            },
        ],
    )
    return root


def make_lasco_files(root: Path, split: str = "val") -> Path:
    """Three queries; the corpus holds one image more, and lists paths with a folder in front."""
    records, corpus = [], [{"id": 9, "path": f"{split}/val2014/COCO_val2014_000000000009.jpg"}]
    for n in range(3):
        pair = [[10 + k, f"val2014/COCO_val2014_{10 + k:012d}.jpg"] for k in (n, n + 1)]
        records.append({"qid": 7000, "query-image": pair[0], "query-text": f"Text {n}", "target-image": pair[1]})
    corpus += [{"id": n, "path": f"{split}/val2014/COCO_val2014_{n:012d}.jpg"} for n in range(10, 14)]
    write_json(root / f"lasco_{split}.json", records)
    write_json(root / f"lasco_{split}_corpus.json", corpus)
    for image in corpus:
        write_image(root / image["path"].removeprefix(f"{split}/"), str(image["id"]))
    return root


def read_lines(path: Path) -> list[dict]:
    """The records of a file with one on every line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
