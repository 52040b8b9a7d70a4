"""The metric under the less common options of a protocol, the means over protocols, and the memory that it takes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contextcir.evaluation.composition import CompositionMetric, average_figures
from contextcir.evaluation.metrics import AveragePrecisionAt, FirstTargetRecallAt, MeanOf, RecallAt, SubsetRecallAt
from contextcir.evaluation.protocol import Protocol
from tests.helpers.metric_oracle import (
    GALLERY,
    QUERIES,
    VIEWS,
    WIDTH,
    fed,
    make_embeddings,
    make_metrics,
    make_protocol,
    make_views,
    naive,
)


def test_a_first_target_does_not_pass_the_other_targets_in_a_tie() -> None:
    protocol = make_protocol(
        targets=((3, 5),) + ((0,),) * (QUERIES - 1),
        references=(-1,) * QUERIES,
        metrics=(*FirstTargetRecallAt.at(1, 2), AveragePrecisionAt(5)),
        subsets=None,
        strata={},
    )
    metric, gallery = CompositionMetric(protocol), torch.eye(WIDTH)[[5] * GALLERY]
    gallery[3] = gallery[5] = torch.eye(WIDTH)[0]
    metric.update_gallery(torch.arange(GALLERY), gallery)
    metric.update_queries(torch.tensor([0]), torch.eye(WIDTH)[:1])
    figures = metric.figures()
    assert (figures["recall_at_1"], figures["recall_at_2"], figures["map_at_5"]) == (0, 100, 100)


def test_an_image_out_of_the_race_has_no_relevance() -> None:
    """The reference is the only relevant image, as for some queries of CIRR; the target is not in the grades."""
    protocol = make_protocol(graded_targets=tuple({image: 1.0} for image in [make_protocol().references[0]] * QUERIES))
    metric, (_, gallery) = CompositionMetric(protocol), make_embeddings()
    target, reference = protocol.targets[0][0], protocol.references[0]
    metric.update_gallery(torch.arange(GALLERY), gallery)
    metric.update_queries(torch.tensor([0]), gallery[[target]] + 0.5 * gallery[[reference]])
    figures = metric.figures()
    assert figures["subset_recall_at_1"] == 100 and figures["recall_at_5"] == 100
    assert not any(value for name, value in figures.items() if name.startswith("soft"))


def test_the_views_of_a_query_are_normalised_and_averaged() -> None:
    protocol, views, (_, gallery) = make_protocol(query_views=VIEWS), make_views(), make_embeddings()
    means = []
    for query in range(QUERIES):
        rows = [views[view * QUERIES + query].double() for view in range(VIEWS)]
        means.append(sum(row / row.norm() for row in rows) / VIEWS)
    expected = naive(protocol, torch.stack(means), gallery, tuple(range(QUERIES)))
    metric = fed(protocol, views, gallery)
    figures = metric.figures()
    assert {name: figures[name].item() for name in expected} == pytest.approx(expected, abs=1e-4)
    assert metric.coverage() == (QUERIES, GALLERY)
    # As with one view of the mean, to the last bit, in whatever order they come.
    shuffled, order = CompositionMetric(protocol), torch.randperm(VIEWS * QUERIES)
    shuffled.update_gallery(torch.arange(GALLERY), gallery)
    for part in torch.cat([order, order[:5]]).split(7):
        shuffled.update_queries(part, views[part])
    assert shuffled.figures() == figures


def test_a_query_without_all_of_its_views_is_not_seen() -> None:
    protocol, views, (_, gallery) = make_protocol(query_views=VIEWS), make_views(), make_embeddings()
    metric, kept = CompositionMetric(protocol), torch.arange(VIEWS * QUERIES)[2:-1]  # without 0, 1 and the last one
    metric.update_gallery(torch.arange(GALLERY), gallery)
    metric.update_queries(kept, views[kept])
    figures, seen = metric.figures(), torch.arange(2, QUERIES - 1)
    assert metric.coverage() == (QUERIES - 3, GALLERY)
    whole = torch.nn.functional.normalize(views, dim=-1).unflatten(0, (VIEWS, QUERIES)).mean(0)
    expected = naive(protocol, whole, gallery, tuple(seen.tolist()))
    assert {name: figures[name].item() for name in expected} == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match=f"queries index {VIEWS * QUERIES} is outside"):
        fed(protocol, torch.ones(VIEWS * QUERIES + 1, WIDTH), gallery).figures()


def test_a_gallery_that_nobody_ranks_needs_no_cut_offs() -> None:
    protocol = make_protocol(metrics=SubsetRecallAt.at(1, 2, 3), headline="subset_recall_at_1", strata={})
    protocol = replace(protocol, graded_targets=None)
    figures, expected = fed(protocol, *make_embeddings()).figures(), fed(make_protocol(), *make_embeddings()).figures()
    assert figures == {
        name: expected[name] for name in ("subset_recall_at_1", "subset_recall_at_2", "subset_recall_at_3")
    }


def test_averages_are_plain_means_over_protocols_with_figures() -> None:
    metrics = (*RecallAt.at(10, 50), MeanOf("mean_recall", *RecallAt.at(10, 50)))
    options = {"metrics": metrics, "averaged_as": "val", "headline": "recall_at_10"}
    protocols = [make_protocol(split=split, **options) for split in ("val_dress", "val_shirt", "val_toptee")]
    protocols = [replace(protocol, graded_targets=None) for protocol in protocols]
    alone = replace(protocols[0], split="other", averaged_as=None)
    figures = [
        {"recall_at_10": 30.0, "recall_at_50": 50.0, "mean_recall": 40.0, "recall_at_10_concepts_1": 1.0},
        {"recall_at_10": 20.0, "recall_at_50": 60.0, "mean_recall": 40.0},
        {"recall_at_10": 40.0, "recall_at_50": 40.0, "mean_recall": 40.0},
        {"recall_at_10": 90.0, "recall_at_50": 90.0, "mean_recall": 90.0},
    ]
    tensors = [{name: torch.tensor(value) for name, value in part.items()} for part in figures]
    averages = average_figures([*protocols, alone], tensors)
    assert averages == {"val": {"recall_at_10": 30.0, "recall_at_50": 50.0, "mean_recall": 40.0}}
    assert average_figures([*protocols, alone], [*tensors[:2], {}, tensors[3]]) == {}


class LargestResult(TorchDispatchMode):
    """The size in bytes of the largest tensor that an operation makes, views included."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.dtype != torch.int64:
                self.size = max(self.size, tensor.numel() * tensor.element_size())
        return result


@pytest.mark.parametrize("pieces", [1, 40])
def test_features_in_half_precision_are_never_held_in_full(pieces: int) -> None:
    size, width, generator = 20_000, 256, torch.Generator().manual_seed(0)
    protocol = Protocol(
        benchmark="toy",
        split="val",
        gallery=tuple(f"image-{i}" for i in range(size)),
        query_ids=(0, 1),
        targets=((3, 4), (19_999, 7)),
        references=(0, 1),
        exclude_reference=True,
        metrics=(RecallAt(1), AveragePrecisionAt(5)),
    )
    gallery = torch.randn(size, width, generator=generator).half()
    metric = CompositionMetric(protocol)
    for index in torch.arange(size).chunk(pieces):
        metric.update_gallery(index, gallery[index])
    metric.update_queries(torch.arange(2), gallery[[3, 19_999]])
    with LargestResult() as largest:
        figures = metric.figures()
    assert figures["recall_at_1"] == 100
    assert largest.size <= 2 * size * width, "one copy in half precision is the largest thing there is"


def test_protocols_without_subsets_or_excluded_references_are_scored() -> None:
    metrics = make_metrics(subset=(), mean=False)
    protocol = replace(make_protocol(), subsets=None, metrics=metrics, references=(-1,) * QUERIES)
    assert not any(name.startswith("subset") for name in fed(protocol, *make_embeddings()).figures())
