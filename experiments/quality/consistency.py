"""Measure how well the consistency filter separates the texts of pairs from texts of other pairs, on CIRR's format.

python -m experiments.quality.consistency --root datasets/scenes --split val
python -m experiments.quality.consistency --root /path/to/CIRR --model ViT-B-32-quickgelu --pretrained openai
"""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.files import write_json
from contextcir.synthesis.filters.consistency import ClipConsistency
from contextcir.synthesis.pairs import pair_key
from contextcir.synthesis.records import Instruction, Pair
from contextcir.synthesis.store import Shard, shard_path
from data_modules.cirr import CIRRReader
from experiments.command import command, table
from experiments.outputs import output_file
from experiments.quality.synthesis_precision import wilson

MARGINS = (-0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2)
SLACKS = (2.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
Scores = list[dict[str, float]]


class Case(NamedTuple):
    """A pair, its text, a text of another reference, and one of the same reference and another target, if any."""

    pair: Pair
    true: str
    other: str
    same: str | None
    concepts: int | None


def read_cases(root: Path, split: str, most: int, seed: int) -> list[Case]:
    """Return cases of a split in CIRR's format, drawn by the seed."""
    reader = CIRRReader(root)
    evaluation = reader.read_evaluation(split)
    protocol, paths = evaluation.protocol, evaluation.image_paths
    if evaluation.records[0].target is None:
        raise InputError(f"the targets of {split} are hidden", setting="split")
    strata = {query: name for name, queries in protocol.strata.items() for query in queries}
    draw, cases = random.Random(seed), []  # noqa: S311  (draws of an experiment, no secret)
    for number in sorted(draw.sample(range(len(evaluation.records)), min(most, len(evaluation.records)))):
        record = evaluation.records[number]
        reference, target = (paths[str(name)].removeprefix("./") for name in (record.reference, record.target))
        members = tuple(paths[protocol.gallery[image]].removeprefix("./") for image in protocol.subsets[number])
        others = [each for each in evaluation.records if each.reference != record.reference]
        same = [each for each in evaluation.records if each.reference == record.reference]
        same = [each for each in same if each.target != record.target]
        cases.append(
            Case(
                Pair(pair_key(reference, target), reference, target, members),
                record.caption,
                draw.choice(others).caption,
                draw.choice(same).caption if same else None,
                int(strata[number].removeprefix("concepts_")) if number in strata else None,
            )
        )
    return cases


def separation(true: Sequence[float], wrong: Sequence[float]) -> float:
    """Return the area under the ROC curve in percent: how often a true text scores higher; ties count half."""
    difference = np.subtract.outer(np.array(true), np.array(wrong))  # (N, M)
    return float(100 * ((difference > 0).mean() + 0.5 * (difference == 0).mean()))


def score_all(cases: Sequence[Case], images: Path, model: str, pretrained: str | None) -> dict[str, dict[str, Scores]]:
    """Return the scores of true and wrong texts by kind, with the mean of texts subtracted, and without."""
    kinds = {
        "true": [(case.pair, case.true) for case in cases],
        "other pair": [(case.pair, case.other) for case in cases],
        "same reference": [(case.pair, case.same) for case in cases if case.same is not None],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captions = [Instruction(f"{case.pair.key}#{n}", case.pair.key, case.true, 1) for n, case in enumerate(cases)]
        for stage, records in (("pairs", [case.pair for case in cases]), ("instruct", captions)):
            with Shard(shard_path(folder, stage, 0, 1)) as shard:
                shard.append([record.to_json() for record in records])
        rule = ClipConsistency(model, pretrained, workers=2)
        rule.begin(folder, images)
        scores = {}
        for way in ("mean subtracted", "as they are"):
            if way == "as they are":
                rule.origin = np.zeros_like(rule.origin)
            scores[way] = {kind: rule.score(*zip(*texts, strict=True)) for kind, texts in kinds.items() if texts}
    return scores


def consistency(
    root: Path = Path("datasets/scenes"),
    split: str = "val",
    images: Path | None = None,
    model: str = "scenes-vit",
    pretrained: str | None = None,
    queries: int = 600,
    seed: int = 0,
    threads: int = 1,
    json: Path | None = None,
) -> None:
    """Measure the consistency filter.

    Args:
        root: Folder of a set in CIRR's format.
        split: With hard targets.
        images: Folder of its images; img_raw in root by default.
        model: Name of an open_clip model.
        pretrained: Tag or file of its weights.
        queries: Pairs that are drawn.
        seed: Draws pairs and wrong texts.
        threads: Threads of PyTorch.
        json: File for the results.
    """
    whole(queries, 1, "queries")
    whole(threads, 1, "threads")
    output_file(json, "json")
    torch.set_num_threads(threads)
    cases = read_cases(root, split, queries, seed)
    by_way = score_all(cases, images or root / "img_raw", model, pretrained)
    scores = by_way["mean subtracted"]
    counts = ", ".join(f"{len(each)} {kind}" for kind, each in scores.items())
    print(f"{' '.join(filter(None, (model, pretrained)))} on {root.name} {split}: texts: {counts}\n")
    report: dict[str, object] = {"model": model, "split": split, "texts": {k: len(v) for k, v in scores.items()}}
    print("How often a true text has the higher score than a wrong one, percent:\n")
    rows = []
    for way, by_kind in by_way.items():
        for name in ("direction", "lead"):
            values = {kind: [each[name] for each in listed] for kind, listed in by_kind.items()}
            separations = {kind: separation(values["true"], values[kind]) for kind in list(values)[1:]}
            report[f"{name}, {way}"] = separations
            rows.append([f"{name}, {way}", *(f"{value:.1f}" for value in separations.values())])
    print(table(["score", *list(scores)[1:]], rows))
    print("Kept, percent (95 % interval):\n")
    rows = []
    for margin, slack in [(margin, SLACKS[0]) for margin in MARGINS] + [(0.05, slack) for slack in SLACKS[1:]]:
        rule = ClipConsistency(margin=margin, slack=slack)
        kept = {kind: sum(rule.reason(each) is None for each in listed) for kind, listed in scores.items()}
        report[f"kept at margin {margin}, slack {slack}"] = kept
        cells = [share(count, len(scores[kind])) for kind, count in kept.items()]
        rows.append([str(margin), "none" if slack == SLACKS[0] else str(slack), *cells])
    print(table(["margin", "slack", *scores], rows, left=0))
    numbers = sorted({case.concepts for case in cases if case.concepts is not None})
    if numbers:
        print("True texts kept at the default bounds, by the number of changes they ask for:\n")
        rule, rows = ClipConsistency(), []
        for number in numbers:
            own = [each for each, case in zip(scores["true"], cases, strict=True) if case.concepts == number]
            count = sum(rule.reason(each) is None for each in own)
            report[f"kept of {number} changes"] = count / len(own)
            rows.append([str(number), str(len(own)), share(count, len(own))])
        print(table(["changes", "texts", "kept"], rows, left=0))
    if json is not None:
        write_json(json, report, indent=2)


def share(count: int, total: int) -> str:
    """Return a share in percent, and its 95 % interval."""
    low, high = wilson(count, total)
    return f"{100 * count / total:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Parse the command line."""
    command(consistency)


if __name__ == "__main__":
    main()
