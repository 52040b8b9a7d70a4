"""The metric against a loop over queries, in any order of arrival, and on several ranks."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from contextcir.evaluation.composition import COMPOSED, CompositionMetric
from contextcir.evaluation.metrics import FirstTargetRecallAt, RecallAt, SubsetRecallAt
from contextcir.evaluation.protocol import Protocol
from tests.helpers.distributed import run_ranks
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


@pytest.mark.parametrize("kind", [FirstTargetRecallAt, RecallAt])
@pytest.mark.parametrize("exclude_reference", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_every_figure_equals_the_loop_also_by_stratum(seed: int, exclude_reference: bool, kind: type[RecallAt]) -> None:
    protocol = make_protocol(seed, exclude_reference=exclude_reference, metrics=make_metrics(kind=kind))
    queries, gallery = make_embeddings(seed + 10)
    expected = naive(protocol, queries, gallery, tuple(range(QUERIES)))
    for stratum, members in protocol.strata.items():
        figures = naive(protocol, queries, gallery, members)
        expected |= {f"{name}_{stratum}": value for name, value in figures.items()}
    computed = {name: value.item() for name, value in fed(protocol, queries, gallery).figures().items()}
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
    assert metric.figures() == fed(protocol, queries, gallery).figures()
    assert metric.coverage() == (QUERIES, GALLERY)


def test_a_target_that_was_never_fed_is_not_found() -> None:
    protocol, (_, gallery) = make_protocol(), make_embeddings()
    first = [targets[0] for targets in protocol.targets]
    kept = torch.tensor([image for image in range(GALLERY) if image not in protocol.targets[0]])
    metric = CompositionMetric(protocol)
    metric.update_queries(torch.tensor([0]), gallery[first[:1]])
    metric.update_gallery(kept, gallery[kept])
    figures = metric.figures()
    assert metric.coverage() == (1, len(kept))
    assert {name for name in figures if name.endswith("concepts_2")} == set(), "query 0 is in the other stratum"
    assert all(value == 0 for value in figures.values()) and figures


def with_rows(protocol: Protocol, rows: dict[str, Tensor], gallery: Tensor) -> CompositionMetric:
    metric = CompositionMetric(protocol)
    metric.update_gallery(torch.arange(len(gallery)), gallery)
    for row, queries in rows.items():
        metric.add_row(row)
        metric.update_queries(torch.arange(len(queries)), queries, row)
    return metric


def test_rows_of_one_gallery_score_as_if_each_were_alone_to_the_last_bit() -> None:
    protocol, gallery = make_protocol(), make_embeddings()[1]
    rows = {"composed": make_embeddings(1)[0], "sum": make_embeddings(2)[0], "part": make_embeddings(3)[0][:5]}
    metric = with_rows(protocol, rows, gallery)
    figures = metric.compute()
    assert list(figures) == list(rows)
    for row, queries in rows.items():
        assert figures[row] == fed(protocol, queries, gallery).figures() == metric.figures(row)
        assert metric.coverage(row) == (len(queries), GALLERY)
    metric.reset()
    assert list(metric.rows) == list(rows)
    with pytest.raises(ValueError, match="a row of queries can't be called 'gallery'"):
        metric.add_row("gallery")


def compute_rows_on_rank(rank: int, protocol: Protocol) -> dict[str, dict[str, float]]:
    """One rank adds the gallery and one row, the other one the other row."""
    metric = CompositionMetric(protocol)
    metric.add_row("sum")
    if rank == 0:
        metric.update_gallery(torch.arange(GALLERY), make_embeddings()[1])
    row = ("composed", "sum")[rank]
    metric.update_queries(torch.arange(QUERIES), make_embeddings(rank)[0], row)
    return {row: {name: value.item() for name, value in part.items()} for row, part in metric.compute().items()}


def test_ranks_that_add_nothing_to_a_row_take_part_in_it() -> None:
    protocol = make_protocol()
    rows = {row: make_embeddings(rank)[0] for rank, row in enumerate(("composed", "sum"))}
    alone = with_rows(protocol, rows, make_embeddings()[1]).compute()
    expected = {row: {name: value.item() for name, value in part.items()} for row, part in alone.items()}
    assert run_ranks(compute_rows_on_rank, 2, protocol) == [expected] * 2


def test_hidden_labels_or_nothing_fed_give_no_figures() -> None:
    hidden = make_protocol(targets=((),) * QUERIES, graded_targets=None, metrics=make_metrics(soft=False))
    metric = fed(hidden, *make_embeddings())
    assert metric.figures() == {} and metric.coverage() == (QUERIES, GALLERY)
    with pytest.warns(UserWarning, match="before the"):
        assert CompositionMetric(hidden).figures() == {}


def test_collapsed_embeddings_find_nothing() -> None:
    protocol = make_protocol(metrics=make_metrics(subset=(1,), recall=(1, 5), precision=(5,)), strata={})
    figures = fed(protocol, torch.ones(QUERIES, WIDTH), torch.ones(GALLERY, WIDTH)).figures()
    assert all(value == 0 for value in figures.values()) and len(figures) == 8


def test_wrong_shapes_and_foreign_indices_are_refused() -> None:
    metric = CompositionMetric(make_protocol())
    with pytest.raises(ValueError, match=r"gallery: expected index \(B,\).*\(2,\) and \(3, 6\)"):
        metric.update_gallery(torch.arange(2), torch.ones(3, WIDTH))
    metric.update_queries(torch.tensor([0, QUERIES]), torch.ones(2, WIDTH))
    with pytest.raises(ValueError, match=f"queries index {QUERIES} is outside"):
        metric.figures()


def test_reset_and_pickling_keep_the_protocol_only() -> None:
    metric = fed(make_protocol(), *make_embeddings())
    expected = metric.figures()
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.figures() == expected and copy.state_dict() == {}
    metric.reset()
    assert metric.coverage() == (0, 0)
    metric.update_gallery(torch.arange(GALLERY), make_embeddings()[1])
    metric.update_queries(torch.arange(QUERIES), make_embeddings()[0])
    assert metric.figures() == expected


def compute_on_rank(rank: int, protocol: Protocol, shares: dict[str, list[list[list[int]]]]) -> list:
    """Feed this rank's share in half precision, and compute twice without feeding more."""
    return compute_views_on_rank(rank, protocol, make_embeddings()[0], shares)


def compute_views_on_rank(
    rank: int, protocol: Protocol, queries: Tensor, shares: dict[str, list[list[list[int]]]]
) -> list:
    """The same with the queries' embeddings given."""
    metric, (_, gallery) = CompositionMetric(protocol, compute_with_cache=False), make_embeddings()
    for part in shares["gallery"][rank]:
        metric.update_gallery(torch.tensor(part), gallery[part].half())
    for part in shares["queries"][rank]:
        metric.update_queries(torch.tensor(part), queries[part].half())
    figures = metric.figures()
    assert figures == metric.figures()
    return [{name: value.item() for name, value in figures.items()}, *metric.coverage()]


def share(positions: int, world: int, repeats: int) -> list[list[list[int]]]:
    """Deal positions to ranks in turn, two at a time, and some of them again, as padding samplers do."""
    dealt = [[*range(rank, positions, world), *range(repeats)] for rank in range(world)]
    return [[part[start : start + 2] for start in range(0, len(part), 2)] for part in dealt]


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
    alone = {name: value.item() for name, value in fed(protocol, queries.half(), gallery.half()).figures().items()}
    assert run_ranks(compute_on_rank, 2, protocol, shares) == [[alone, QUERIES, GALLERY]] * 2


@pytest.mark.parametrize(("world", "queries"), [(2, QUERIES), (3, QUERIES), (3, 2), (5, 3)])
def test_any_number_of_ranks_equals_one_process_exactly(world: int, queries: int) -> None:
    """Also with more ranks than queries; every rank has other views of them."""
    protocol, views = make_protocol(query_views=VIEWS), make_views()
    few = replace(
        protocol,
        strata={},
        **{
            name: getattr(protocol, name)[:queries]
            for name in ("query_ids", "targets", "references", "subsets", "graded_targets")
        },
    )
    views = views[: VIEWS * queries]
    alone = {
        name: value.item() for name, value in fed(few, views.half(), make_embeddings()[1].half()).figures().items()
    }
    assert len(alone) == len(few.metric_names()) and any(alone.values())
    shares = {"gallery": share(GALLERY, world, 1), "queries": share(VIEWS * queries, world, world % 2)}
    assert run_ranks(compute_views_on_rank, world, few, views, shares) == [[alone, queries, GALLERY]] * world


def test_two_ranks_without_any_gallery_agree_that_there_is_nothing() -> None:
    assert run_ranks(compute_on_rank, 2, make_protocol(), NOTHING_ANYWHERE) == [[{}, QUERIES, 0]] * 2


@pytest.mark.parametrize("exclude_reference", [True, False])
@pytest.mark.parametrize("only_subsets", [True, False])
def test_the_nearest_images_are_the_first_of_a_sorted_list(exclude_reference: bool, only_subsets: bool) -> None:
    metrics = (SubsetRecallAt(1),) if only_subsets else make_metrics()
    headline = metrics[0].name
    protocol = replace(
        make_protocol(1, exclude_reference=exclude_reference), metrics=metrics, headline=headline, strata={}
    )
    assert protocol.only_subsets == only_subsets
    queries, gallery = make_embeddings(11)
    fed_once = fed(protocol, queries, gallery)
    fed_once.keep_nearest(4)
    fed_once.keep_nearest(2)  # others may ask for fewer
    fed_once.compute()
    index, scored = fed_once.scored(COMPOSED)
    cosines = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(gallery, dim=1).T
    for line, query in enumerate(index.tolist()):
        pool = set(range(GALLERY))
        if only_subsets:
            pool = ({*protocol.subsets[query]} - {protocol.references[query]}) | {*protocol.targets[query]}
        elif exclude_reference:
            pool -= {protocol.references[query]}
        expected = sorted(pool, key=lambda image: -cosines[query, image].item())[:4]
        found = [image for image in scored.nearest.images[line].tolist() if image >= 0]
        assert found == expected
        assert scored.nearest.scores[line, : len(found)].tolist() == pytest.approx(
            [cosines[query, image].item() for image in expected], abs=1e-5
        )
        counted = protocol.targets[query][:1] if protocol.recall_of_first else protocol.targets[query]
        best = max(cosines[query, target].item() for target in counted)
        assert scored.nearest.own[line].item() == pytest.approx(best, abs=1e-5)


def test_nothing_is_kept_that_nobody_asked_for() -> None:
    metric = fed(make_protocol(), *make_embeddings())
    metric.compute()
    assert metric.scored(COMPOSED)[1].nearest is None
