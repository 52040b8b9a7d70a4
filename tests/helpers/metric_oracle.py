"""Small protocols and embeddings with ties, and every metric as a loop over sorted lists."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.metrics import (
    AveragePrecisionAt,
    MeanOf,
    Metric,
    RecallAt,
    SoftRecallAt,
    SoftSubsetRecallAt,
    SubsetRecallAt,
)
from contextcir.evaluation.protocol import Protocol

QUERIES, GALLERY, WIDTH = 13, 29, 6


def make_metrics(
    recall: Sequence[int] = (1, 5, 10),
    subset: Sequence[int] = (1, 2, 3),
    precision: Sequence[int] = (5, 10),
    kind: type[RecallAt] = RecallAt,
    soft: bool = True,
    mean: bool = True,
) -> tuple[Metric, ...]:
    """Metrics of every kind; ``mean``: with that of recall_at_5 and subset_recall_at_1."""
    metrics: list[Metric] = [*kind.at(*recall), *SubsetRecallAt.at(*subset), *AveragePrecisionAt.at(*precision)]
    metrics += [*SoftRecallAt.at(*recall), *SoftSubsetRecallAt.at(*subset)] if soft else []
    return (*metrics, *([MeanOf("mean_recall", kind(5), SubsetRecallAt(1))] if mean else []))


def make_protocol(seed: int = 0, **changes: object) -> Protocol:
    """One to three targets per query; references are in the gallery but for one query; six images per subset.

    One to seven graded images, among them the targets of some queries, their references, and members of the subset.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(GALLERY, generator=generator).tolist() for _ in range(QUERIES)]
    options = {
        "benchmark": "toy",
        "split": "val",
        "gallery": tuple(f"image-{i}" for i in range(GALLERY)),
        "query_ids": tuple(range(100, 100 + QUERIES)),
        "targets": tuple(tuple(order[: 1 + i % 3]) for i, order in enumerate(orders)),
        "graded_targets": tuple(
            {image: (1.0, 0.2, -1.0, 0.5)[(i + number) % 4] for number, image in enumerate(order[1 : 2 + i % 7])}
            for i, order in enumerate(orders)
        ),
        "references": tuple(-1 if i == 4 else order[5] for i, order in enumerate(orders)),
        "exclude_reference": True,
        "subsets": tuple(tuple(order[2 - i % 2 : 8]) for i, order in enumerate(orders)),
        "metrics": make_metrics(),
        "strata": {"concepts_1": tuple(range(0, QUERIES, 2)), "concepts_2": tuple(range(1, QUERIES, 2))},
    }
    return Protocol(**(options | changes))


def make_embeddings(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Embeddings with exact ties: gallery images 0 to 5 are the same as images 6 to 11."""
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randn(GALLERY, WIDTH, generator=generator)
    gallery[6:12] = gallery[:6]
    return torch.randn(QUERIES, WIDTH, generator=generator), gallery


def fed(protocol: Protocol, queries: Tensor, gallery: Tensor) -> CompositionMetric:
    metric = CompositionMetric(protocol)
    metric.update_gallery(torch.arange(len(gallery)), gallery)
    metric.update_queries(torch.arange(len(queries)), queries)
    return metric


def naive(protocol: Protocol, queries: Tensor, gallery: Tensor, chosen: tuple[int, ...]) -> dict[str, float]:
    """Every metric over the chosen queries, in percent, from sorted lists."""
    sums = dict.fromkeys(protocol.metric_names(), 0.0)
    for query in chosen:
        targets = protocol.targets[query]
        score = torch.nn.functional.cosine_similarity(queries[query][None].double(), gallery.double(), dim=1)
        score = [round(value, 9) for value in score.tolist()]

        grades = protocol.graded_targets[query] if protocol.graded_targets else {}
        relevance = [max(grades.get(image, 0.0), 0.0) for image in range(len(score))]

        # Falling scores; among equals whatever is sought last.
        def first(
            k: int, small: bool, sought: list[float], query: int = query, score: list[float] = score
        ) -> list[int]:
            images = sorted(range(len(score)), key=lambda image: (-score[image], sought[image]))
            reference, answers = protocol.references[query], protocol.targets[query]
            if small:
                images = [i for i in images if i != reference and (i in protocol.subsets[query] or i in answers)]
            return [image for image in images if not (protocol.exclude_reference and image == reference)][:k]

        hard = [float(image in targets) for image in range(len(score))]
        alone = [float(image == targets[0]) for image in range(len(score))] if protocol.recall_of_first else hard
        for name in sums.keys() - set(protocol.means):
            kind, k = re.fullmatch(r"(\w+)_at_(\d+)", name).groups()
            k, small = int(k), "subset_" in kind
            if kind == "map":
                hits = [image in targets for image in first(k, False, hard)]
                precision = sum(sum(hits[: i + 1]) / (i + 1) for i in range(len(hits)) if hits[i])
                sums[name] += precision / min(len(targets), k)
            elif kind.startswith("soft_"):
                sums[name] += max([0.0, *(relevance[image] for image in first(k, small, relevance))])
            else:
                sought = hard if small else alone
                sums[name] += any(sought[image] for image in first(k, small, sought))
    for metric in protocol.metrics:
        if isinstance(metric, MeanOf):
            sums[metric.name] = sum(sums[part.name] for part in metric.parts) / len(metric.parts)
    return {name: 100 * value / len(chosen) for name, value in sums.items()}


VIEWS = 3


def make_views(seed: int = 5) -> Tensor:
    """Embeddings (VIEWS x QUERIES, WIDTH) of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.logspace(-2, 2, VIEWS * QUERIES)[torch.randperm(VIEWS * QUERIES, generator=generator)]
    return lengths[:, None] * torch.randn(VIEWS * QUERIES, WIDTH, generator=generator)
