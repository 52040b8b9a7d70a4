"""The official figures of CIRR and CIRCO, written down once more from their definitions, one query at a time."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Image = str | int


def recall(ranked: Sequence[Image], wanted: Image, k: int) -> float:
    """1 if the image is among the first k."""
    return float(wanted in ranked[:k])


def average_precision(ranked: Sequence[Image], answers: Collection[Image], k: int) -> float:
    """Sum of the precision at every answer found among the first k, over the most that k places could hold."""
    found, total = 0, 0.0
    for place, image in enumerate(ranked[:k], start=1):
        if image in answers:
            found += 1
            total += found / place
    return total / min(len(answers), k)


def best_grade(ranked: Sequence[Image], grades: Mapping[Image, float], k: int) -> float:
    """The highest grade among the first k, not below 0; images without a grade have 0."""
    best = 0.0
    for image in ranked[:k]:
        if image in grades and grades[image] > best:
            best = grades[image]
    return best


def percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def cirr(
    records: Sequence[Mapping[str, Any]],
    ranked: Mapping[str, Sequence[str]],
    in_subset: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """All figures of CIRR, from its records and the two files' lists by pair id."""
    figures = {}
    for name, lists, cutoffs in (("recall_at", ranked, (1, 5, 10, 50)), ("subset_recall_at", in_subset, (1, 2, 3))):
        for k in cutoffs:
            rows = [(record, lists[str(record["pairid"])]) for record in records]
            figures[f"{name}_{k}"] = percent([recall(row, record["target_hard"], k) for record, row in rows])
            figures[f"soft_{name}_{k}"] = percent([best_grade(row, record["target_soft"], k) for record, row in rows])
    return figures | {"mean_recall": (figures["recall_at_5"] + figures["subset_recall_at_1"]) / 2}


def circo(records: Sequence[Mapping[str, Any]], lists: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """All figures of CIRCO, from its records and the file's lists by query id."""
    figures = {}
    for k in (5, 10, 25, 50):
        figures[f"map_at_{k}"] = percent(
            [average_precision(lists[str(record["id"])], record["gt_img_ids"], k) for record in records]
        )
        figures[f"recall_at_{k}"] = percent(
            [recall(lists[str(record["id"])], record["target_img_id"], k) for record in records]
        )
    for aspect in {aspect for record in records for aspect in record["semantic_aspects"]}:
        figures[f"map_at_10_aspect_{aspect}"] = percent(
            [
                average_precision(lists[str(record["id"])], record["gt_img_ids"], 10)
                for record in records
                if aspect in record["semantic_aspects"]
            ]
        )
    return figures
