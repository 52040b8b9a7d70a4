"""The metric against a loop over queries, in any order of arrival, and on several ranks."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from contextcir.metrics import CompositionMetric
from contextcir.protocol import Protocol
from tests.distributed import run_ranks

QUERIES, GALLERY, WIDTH = 13, 29, 6


def make_protocol(seed: int = 0, **changes: object) -> Protocol:
    """One to three targets per query; references are in the gallery but for one query; six images per subset."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(GALLERY, generator=generator).tolist() for _ in range(QUERIES)]
    options = {
        "benchmark": "toy",
        "split": "val",
        "gallery": tuple(f"image-{i}" for i in range(GALLERY)),
        "query_ids": tuple(range(100, 100 + QUERIES)),
        "targets": tuple(tuple(order[: 1 + i % 3]) for i, order in enumerate(orders)),
        "references": tuple(-1 if i == 4 else order[5] for i, order in enumerate(orders)),
        "exclude_reference": True,
        "subsets": tuple(tuple(order[2 - i % 2 : 8]) for i, order in enumerate(orders)),
        "recall_at": (1, 5, 10),
        "subset_recall_at": (1, 2, 3),
        "average_precision_at": (5, 10),
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
        targets, reference = protocol.targets[query], protocol.references[query]
        score = torch.nn.functional.cosine_similarity(queries[query][None].double(), gallery.double(), dim=1)
        score = [round(value, 9) for value in score.tolist()]

        # Falling scores; among equals the targets last.
        worst_case = sorted((-value, image in targets, image) for image, value in enumerate(score))
        images = [image for *_, image in worst_case]
        ranking = [image for image in images if not (protocol.exclude_reference and image == reference)]
        small = [i for i in images if i != reference and (i in protocol.subsets[query] or i in targets)]
        for k in protocol.recall_at:
            sums[f"recall_at_{k}"] += any(image in targets for image in ranking[:k])
        for k in protocol.subset_recall_at:
            sums[f"subset_recall_at_{k}"] += any(image in targets for image in small[:k])
        for k in protocol.average_precision_at:
            hits = [image in targets for image in ranking[:k]]
            precision = sum(sum(hits[: i + 1]) / (i + 1) for i in range(len(hits)) if hits[i])
            sums[f"map_at_{k}"] += precision / min(len(targets), k)
    return {name: 100 * value / len(chosen) for name, value in sums.items()}


@pytest.mark.parametrize("exclude_reference", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_every_figure_equals_the_loop_also_by_stratum(seed: int, exclude_reference: bool) -> None:
    protocol = make_protocol(seed, exclude_reference=exclude_reference)
    queries, gallery = make_embeddings(seed + 10)
    expected = naive(protocol, queries, gallery, tuple(range(QUERIES)))
    for stratum, members in protocol.strata.items():
        figures = naive(protocol, queries, gallery, members)
        expected |= {f"{name}_{stratum}": value for name, value in figures.items()}
    computed = {name: value.item() for name, value in fed(protocol, queries, gallery).compute().items()}
    assert computed == pytest.approx(expected, abs=1e-4)


def test_order_of_arrival_and_repeats_do_not_matter() -> None:
    protocol, (queries, gallery) = make_protocol(), make_embeddings()
    metric = CompositionMetric(protocol)
    order = torch.tensor([*reversed(range(QUERIES)), 3, 3, 0])
    for part in order.split(4):
        metric.update_queries(part, 7 * queries[part])
    order = torch.cat([torch.randperm(GALLERY), torch.tensor([28, 0])])
    for part in order.split(5):
        metric.update_gallery(part, gallery[part])
    assert metric.compute() == fed(protocol, queries, gallery).compute()
    assert metric.coverage() == (QUERIES, GALLERY)


def test_a_target_that_was_never_fed_is_not_found() -> None:
    protocol, (_, gallery) = make_protocol(), make_embeddings()
    first = [targets[0] for targets in protocol.targets]
    kept = torch.tensor([image for image in range(GALLERY) if image not in protocol.targets[0]])
    metric = CompositionMetric(protocol)
    metric.update_queries(torch.tensor([0]), gallery[first[:1]])
    metric.update_gallery(kept, gallery[kept])
    figures = metric.compute()
    assert metric.coverage() == (1, len(kept))
    assert {name for name in figures if name.endswith("concepts_2")} == set(), "query 0 is in the other stratum"
    assert all(value == 0 for value in figures.values()) and figures


def test_hidden_labels_or_nothing_fed_give_no_figures() -> None:
    hidden = make_protocol(targets=((),) * QUERIES)
    metric = fed(hidden, *make_embeddings())
    assert metric.compute() == {} and metric.coverage() == (QUERIES, GALLERY)
    with pytest.warns(UserWarning, match="before the"):
        assert CompositionMetric(hidden).compute() == {}


def test_collapsed_embeddings_find_nothing() -> None:
    protocol = make_protocol(subset_recall_at=(1,), recall_at=(1, 5), average_precision_at=(5,), strata={})
    figures = fed(protocol, torch.ones(QUERIES, WIDTH), torch.ones(GALLERY, WIDTH)).compute()
    assert all(value == 0 for value in figures.values()) and len(figures) == 4


def test_wrong_shapes_and_foreign_indices_are_refused() -> None:
    metric = CompositionMetric(make_protocol())
    with pytest.raises(ValueError, match=r"gallery: expected index \(B,\).*\(2,\) and \(3, 6\)"):
        metric.update_gallery(torch.arange(2), torch.ones(3, WIDTH))
    metric.update_queries(torch.tensor([0, QUERIES]), torch.ones(2, WIDTH))
    with pytest.raises(ValueError, match=f"queries index {QUERIES} is outside"):
        metric.compute()


def test_reset_and_pickling_keep_the_protocol_only() -> None:
    metric = fed(make_protocol(), *make_embeddings())
    expected = metric.compute()
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.compute() == expected and copy.state_dict() == {}
    metric.reset()
    assert metric.coverage() == (0, 0)
    metric.update_gallery(torch.arange(GALLERY), make_embeddings()[1])
    metric.update_queries(torch.arange(QUERIES), make_embeddings()[0])
    assert metric.compute() == expected


def compute_on_rank(rank: int, protocol: Protocol, shares: dict[str, list[list[list[int]]]]) -> list:
    """Feed this rank's share in half precision, and compute twice without feeding more."""
    metric, (queries, gallery) = CompositionMetric(protocol, compute_with_cache=False), make_embeddings()
    for part in shares["gallery"][rank]:
        metric.update_gallery(torch.tensor(part), gallery[part].half())
    for part in shares["queries"][rank]:
        metric.update_queries(torch.tensor(part), queries[part].half())
    figures = metric.compute()
    assert figures == metric.compute()
    return [{name: value.item() for name, value in figures.items()}, *metric.coverage()]


UNEVEN = {
    "gallery": [[list(range(0, 20)), [20, 28, 0]], [list(range(21, 29)), [0, 3]]],
    "queries": [[[0, 1, 2, 3, 4]], [[12, 11, 10, 9], [8, 7, 6, 5], [4, 0]]],
}
ONE_RANK_IDLE = {"gallery": [[], [list(range(GALLERY))]], "queries": [[list(range(QUERIES))], []]}
NOTHING_ANYWHERE = {"gallery": [[], []], "queries": [[list(range(QUERIES))], []]}


@pytest.mark.parametrize("shares", [UNEVEN, ONE_RANK_IDLE], ids=["uneven with repeats", "idle rank"])
def test_two_ranks_equal_one_process_exactly(shares: dict) -> None:
    protocol = make_protocol()
    queries, gallery = make_embeddings()
    alone = {name: value.item() for name, value in fed(protocol, queries.half(), gallery.half()).compute().items()}
    assert run_ranks(compute_on_rank, 2, protocol, shares) == [[alone, QUERIES, GALLERY]] * 2


def test_two_ranks_without_any_gallery_agree_that_there_is_nothing() -> None:
    assert run_ranks(compute_on_rank, 2, make_protocol(), NOTHING_ANYWHERE) == [[{}, QUERIES, 0]] * 2


def test_protocols_without_subsets_or_excluded_references_are_scored() -> None:
    protocol = replace(make_protocol(), subsets=None, subset_recall_at=(), references=(-1,) * QUERIES)
    assert not any(name.startswith("subset") for name in fed(protocol, *make_embeddings()).compute())
