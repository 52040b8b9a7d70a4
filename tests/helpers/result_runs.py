"""Folders of runs as evaluations leave them, by the project's own scoring of random embeddings; no Trainer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from callbacks.kept_ranks import entry_of
from contextcir.evaluation.composition import CompositionMetric, average_figures
from contextcir.evaluation.metrics import (
    AveragePrecisionAt,
    FirstTargetRecallAt,
    MeanOf,
    RecallAt,
    SoftRecallAt,
    SoftSubsetRecallAt,
    SubsetRecallAt,
)
from contextcir.evaluation.protocol import Protocol

QUERIES, GALLERY, WIDTH = 24, 40, 6
ROWS = ("composed", "image_only", "text_only", "sum")
CONFIG = """\
# Settings of run id1, in /home/somebody/runs/id1
seed_everything: 3
trainer: {default_root_dir: /home/somebody/runs/id1, logger: {entity: somebody}}
model:
  backbone: {class_path: contextcir.encoders.OpenCLIPBackbone, init_args: {model: scenes-vit}}
  fusion: {class_path: contextcir.fusion.ClauseSum}
data: {root: ~/datasets, url: "https://key@host/x"}
"""


def protocols() -> tuple[Protocol, ...]:
    """Return one like CIRR's, one like CIRCO's, and two categories that are averaged."""
    draw = torch.Generator().manual_seed(0)
    gallery = tuple(f"image-{number}" for number in range(GALLERY))
    common: dict[str, Any] = {"gallery": gallery, "query_ids": tuple(range(100, 100 + QUERIES))}
    order = [torch.randperm(GALLERY, generator=draw).tolist() for _ in range(QUERIES)]
    references, first = tuple(row[0] // 3 * 3 for row in order), [[i for i in row if i % 3] for row in order]
    five, subset = RecallAt(5), SubsetRecallAt(1)
    like_cirr = Protocol(
        benchmark="cirr",
        split="val",
        targets=tuple((row[0],) for row in first),
        references=references,
        exclude_reference=True,
        subsets=tuple((reference, *row[:5]) for reference, row in zip(references, first, strict=True)),
        graded_targets=tuple({row[0]: 1.0, row[1]: 0.5, row[2]: -1.0} for row in first),
        metrics=(
            *RecallAt.at(1, 5, 10), *SubsetRecallAt.at(1, 2, 3), MeanOf("mean_recall", five, subset),
            *SoftRecallAt.at(1, 5), *SoftSubsetRecallAt.at(1),
        ),
        strata={"short": tuple(range(0, 10)), "long": tuple(range(10, QUERIES))},
        headline="mean_recall",
        **common,
    )  # fmt: skip
    like_circo = Protocol(
        benchmark="circo",
        split="circo_val",
        targets=tuple(tuple(row[: 1 + number % 4]) for number, row in enumerate(first)),
        references=references,
        exclude_reference=False,
        metrics=(*AveragePrecisionAt.at(5, 10), *FirstTargetRecallAt.at(5, 10)),
        strata={"addition": tuple(range(7))},
        headline="map_at_5",
        options={"query_text": "relative caption"},
        **common,
    )
    categories = [
        Protocol(
            benchmark="fashioniq",
            split=f"val_{name}",
            targets=tuple((row[number],) for row in first),
            references=references,
            exclude_reference=False,
            metrics=RecallAt.at(10, 50),
            headline="recall_at_10",
            averaged_as="fashion",
            **common,
        )
        for number, name in enumerate(("dress", "shirt"))
    ]
    return like_cirr, like_circo, *categories


def make_run(
    folder: Path, seed: int = 0, phase: str = "validate", config: str = CONFIG, made: Mapping[str, Any] | None = None
) -> Path:
    """Write a run's folder; the embeddings follow from the seed."""
    draw = torch.Generator().manual_seed(seed)
    metrics = []
    for protocol in protocols():
        metric = CompositionMetric(protocol)
        gallery = torch.randn(GALLERY, WIDTH, generator=draw)
        metric.update_gallery(torch.arange(GALLERY), gallery)
        right = gallery[[targets[0] for targets in protocol.targets]]
        for row in ROWS:
            metric.add_row(row)
            noise = torch.randn(QUERIES, WIDTH, generator=draw)
            metric.update_queries(torch.arange(QUERIES), (right if row == "composed" else 0.3 * right) + noise, row)
        metrics.append(metric)
    computed = [metric.compute() for metric in metrics]
    about = {
        "missing_images": 0, "model": "scenes-vit", "pretrained": None, "parameters": 1200, "dimension": WIDTH,
        "checkpoint": {"file": "/home/somebody/runs/id1/last.ckpt", "sha256": "0" * 64}, "weights": None,
        "epoch": 1, "step": 20, **(made or {}),
    }  # fmt: skip
    results: dict[str, Any] = {}
    queries: dict[str, Any] = {}
    for metric, rows in zip(metrics, computed, strict=True):
        protocol = metric.protocol
        results[protocol.split] = {
            "protocol": protocol.describe(),
            "seen": metric.coverage()._asdict(),
            **about,
            "rows": {row: rounded(figures) for row, figures in rows.items()},
        }
        found = {row: metric.scored(row) for row in metric.rows}
        queries[protocol.split] = {**entry_of(protocol, found), "made": {"phase": phase, "step": about["step"]}}
    averages = {row: average_figures(protocols(), [rows[row] for rows in computed])["fashion"] for row in ROWS}
    shared = {**results["val_dress"]["protocol"], "split": "fashion", "strata": {}}
    results["fashion"] = {
        "protocol": shared, "mean_of": ["val_dress", "val_shirt"], **about,
        "rows": {row: rounded(figures) for row, figures in averages.items()},
    }  # fmt: skip
    results["val"]["pointing_game"] = 12.5
    results["val"]["target_before_swapped"] = 50.0
    queries["val"]["target_before"] = {"swapped": [place % 2 == 0 for place in range(QUERIES)]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"fit_start": {"val": results["val"]}, phase: results}))
    (folder / "queries.json").write_text(json.dumps(queries))
    (folder / "config.yaml").write_text(config)
    (folder / "submission").mkdir(exist_ok=True)
    listed = {"version": "rc2", "metric": "recall", **{str(100 + n): ["image-1"] for n in range(QUERIES)}}
    (folder / "submission" / "cirr_val_recall.json").write_text(json.dumps(listed))
    return folder


def rounded(figures: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Return figures as result files have them."""
    return {name: round(value.item(), 4) for name, value in figures.items()}
