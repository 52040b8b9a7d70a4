"""Metrics of many right and wrong answers, of groups of queries and of several references, against loops over lists."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.composition_gap import composition_gap, gap_of_rows
from contextcir.evaluation.gain import NDCG, GradedNDCGAt, NDCGAt
from contextcir.evaluation.metrics import AveragePrecisionAt, RecallAt
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.query_groups import MeanOfGroups, SpreadOfGroups, WorstOfGroups
from contextcir.evaluation.scoring import known_answers, score_queries
from contextcir.evaluation.submission import ListedRanks
from contextcir.evaluation.whole_rankings import AveragePrecision, PrecisionAt, SubsetTrapezoidalPrecision
from contextcir.evaluation.wrong_answers import AnyNegativeAt, AveragePrecisionWithoutNegativesAt, NegRecallAt
from tests.helpers.metric_oracle import GALLERY, QUERIES, fed, make_embeddings, make_protocol

METRICS = (
    NDCG(),
    *NDCGAt.at(1, 5),
    *GradedNDCGAt.at(3, 29),
    *PrecisionAt.at(1, 5),
    AveragePrecision(),
    SubsetTrapezoidalPrecision(),
    *NegRecallAt.at(1, 5),
    *AnyNegativeAt.at(1, 5),
    *AveragePrecisionAt.at(5),
    *AveragePrecisionWithoutNegativesAt.at(5),
    SpreadOfGroups(PrecisionAt(5)),
    WorstOfGroups(AveragePrecision()),
    WorstOfGroups(AnyNegativeAt(5)),
    MeanOfGroups(SubsetTrapezoidalPrecision()),
)
GROUPS = tuple(query // 3 for query in range(QUERIES))  # the last one has a single query


def wrong_answers(seed: int) -> tuple[tuple[int, ...], ...]:
    """No wrong answer to the first query; to the second one that is a right answer too."""
    protocol, generator = make_protocol(), torch.Generator().manual_seed(seed)
    drawn = [tuple(torch.randperm(GALLERY, generator=generator)[: query % 7].tolist()) for query in range(QUERIES)]
    return (drawn[0], protocol.targets[1][:1], *drawn[2:])


def many(**changes: object) -> Protocol:
    options = {"metrics": METRICS, "headline": "ndcg", "negatives": wrong_answers(9), "query_groups": GROUPS}
    return make_protocol(**(options | changes))


def ordered(score: list[float], last: set[int] | dict[int, float], first: set[int] | None = None) -> list[int]:
    """Images by falling score; among equals ``first`` ones first, and those of most relevance last."""
    value = (lambda image: last.get(image, 0.0)) if isinstance(last, dict) else (lambda image: image in last)
    return sorted(range(len(score)), key=lambda image: (-score[image], image not in (first or ()), value(image)))


def gain(ranked: list[int], relevance: dict[int, float], k: int) -> float:
    found = sum(relevance.get(image, 0) / math.log2(place + 2) for place, image in enumerate(ranked[:k]))
    best = sum(r / math.log2(place + 2) for place, r in enumerate(sorted(relevance.values(), reverse=True)[:k]))
    return found / best if best else 0.0


def naive(protocol: Protocol, query: int, score: list[float]) -> dict[str, float]:
    """Every metric of one query, written out."""
    targets, wrong = set(protocol.targets[query]), set(protocol.negatives[query])
    out = {protocol.references[query]} if protocol.exclude_reference else set()
    ranked = [image for image in ordered(score, targets) if image not in out]
    worst = [image for image in ordered(score, set(), wrong) if image not in out]
    clean = [image for image in ranked if image not in wrong]
    own = [i for i in ordered(score, targets) if i != protocol.references[query]]
    own = [image for image in own if image in {*protocol.subsets[query], *targets}]
    hits = [image in targets for image in ranked]
    grades = {image: grade for image, grade in protocol.graded_targets[query].items() if grade > 0}
    by_grade = [image for image in ordered(score, grades) if image not in out]

    def precision(images: list[int], k: int) -> float:
        marks = [image in targets for image in images[:k]]
        total = sum(sum(marks[: i + 1]) / (i + 1) for i in range(len(marks)) if marks[i])
        return total / min(len(targets), k)

    trapezoid, places = 0.0, [place for place, image in enumerate(own) if image in targets]
    for number, place in enumerate(places):  # as published: places count from 0
        before = 1.0 if place == 0 else number / place
        trapezoid += (before + (number + 1) / (place + 1)) / (len(targets) + 1e-5) / 2
    relevant = dict.fromkeys(targets, 1.0)
    return {
        "ndcg": gain(ranked, relevant, GALLERY),
        **{f"ndcg_at_{k}": gain(ranked, relevant, k) for k in (1, 5)},
        **{f"graded_ndcg_at_{k}": gain(by_grade, grades, k) for k in (3, 29)},
        **{f"precision_at_{k}": sum(hits[:k]) / k for k in (1, 5)},
        "average_precision": precision(ranked, GALLERY),
        "subset_average_precision": trapezoid,
        **{f"neg_recall_at_{k}": sum(i in wrong for i in worst[:k]) / max(1, min(len(wrong), k)) for k in (1, 5)},
        **{f"any_negative_at_{k}": float(any(image in wrong for image in worst[:k])) for k in (1, 5)},
        "map_at_5": precision(ranked, 5),
        "map_without_negatives_at_5": precision(clean, 5),
    }


def scores_of(queries: Tensor, gallery: Tensor) -> list[list[float]]:
    cosines = torch.nn.functional.cosine_similarity(queries[:, None].double(), gallery[None].double(), dim=2)
    return [[round(value, 9) for value in row] for row in cosines.tolist()]


def grouped(values: list[float], reduce: object, least: int = 1) -> float:
    groups = [[v for v, g in zip(values, GROUPS, strict=True) if g == group] for group in set(GROUPS)]
    numbers = [reduce(group) for group in groups if len(group) >= least]
    return sum(numbers) / len(numbers)


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("constant", [False, True])
def test_every_metric_is_that_of_a_loop_over_sorted_lists(exclude: bool, constant: bool) -> None:
    queries, gallery = make_embeddings()
    gallery = torch.ones_like(gallery) if constant else gallery
    protocol = many(exclude_reference=exclude)
    figures = fed(protocol, queries, gallery).figures()
    rows = [naive(protocol, query, score) for query, score in enumerate(scores_of(queries, gallery))]
    of = {name: [row[name] for row in rows] for name in rows[0]}
    expected = {name: sum(values) / QUERIES for name, values in of.items()} | {
        "precision_at_5_spread": grouped(of["precision_at_5"], lambda group: max(group) - min(group), least=2),
        "average_precision_worst": grouped(of["average_precision"], min),
        "any_negative_at_5_worst": grouped(of["any_negative_at_5"], max),
        "subset_average_precision_by_group": grouped(
            of["subset_average_precision"], lambda group: sum(group) / len(group)
        ),
    }
    computed = {name: figures[name].item() / 100 for name in protocol.metric_names()}
    assert computed == pytest.approx(expected, abs=1e-6)
    chosen = protocol.strata["concepts_1"]
    assert figures["ndcg_concepts_1"].item() / 100 == pytest.approx(sum(of["ndcg"][q] for q in chosen) / len(chosen))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
    st.sets(st.integers(0, 7), min_size=1, max_size=4),
    st.sets(st.integers(0, 7), max_size=4),
)
def test_ties_never_help(levels: list[int], targets: set[int], wrong: set[int]) -> None:
    """No order of the images with equal scores gives a better figure than the one that is reported."""
    protocol = Protocol(
        benchmark="toy", split="val", gallery=tuple("abcdefgh"), query_ids=(0,), targets=(tuple(targets),),
        references=(-1,), exclude_reference=False, negatives=(tuple(wrong),), headline="ndcg",
        metrics=(NDCG(), AveragePrecision(), AnyNegativeAt(3), NegRecallAt(3)),
    )  # fmt: skip
    answers = known_answers(protocol, torch.tensor([0]), torch.arange(8))
    scores = torch.tensor([levels], dtype=torch.float32)
    values = {
        name: value.item() for name, value in score_queries(protocol, answers, [(slice(0, 1), scores)]).values.items()
    }
    for seed in range(4):
        nudged = scores + 1e-3 * torch.rand(1, 8, generator=torch.Generator().manual_seed(seed))
        other = score_queries(protocol, answers, [(slice(0, 1), nudged)]).values
        assert all(values[name] <= other[name].item() + 1e-6 for name in ("ndcg", "average_precision"))
        assert all(values[name] >= other[name].item() - 1e-6 for name in ("any_negative_at_3", "neg_recall_at_3"))


def test_a_broken_score_counts_as_the_worst_case_for_wrong_answers_too() -> None:
    queries, gallery = make_embeddings()
    figures = fed(many(), queries * float("nan"), gallery).figures()
    assert figures["ndcg"].item() == 0 and figures["precision_at_5"].item() == 0
    have = sum(bool(set(w) - {r}) for w, r in zip(many().negatives, many().references, strict=True))
    assert figures["any_negative_at_1"].item() == pytest.approx(100 * have / QUERIES)


def test_the_gain_of_a_submission_file_is_that_of_the_same_ranking_as_scores() -> None:
    protocol = many(exclude_reference=False, metrics=(NDCG(), *NDCGAt.at(5), *GradedNDCGAt.at(5)))
    order = torch.randperm(GALLERY, generator=torch.Generator().manual_seed(2)).tolist()
    scores = torch.empty(QUERIES, GALLERY)
    scores[:, order] = -torch.arange(GALLERY, dtype=torch.float32)
    answers = known_answers(protocol, torch.arange(QUERIES), torch.arange(GALLERY))
    values = score_queries(protocol, answers, [(slice(0, QUERIES), scores)]).values
    listed = ListedRanks(protocol, [order] * QUERIES)
    for metric in protocol.metrics:
        np.testing.assert_allclose(metric.values(listed), values[metric.name].numpy(), atol=1e-6)


def test_a_query_of_several_references_is_the_mean_of_its_normalised_composed_embeddings() -> None:
    queries, gallery = make_embeddings()
    further = tuple((7 + q, -1) if q == 6 else (8 + q,) if q % 4 == 1 else () for q in range(QUERIES))
    protocol = many(further_references=further, exclude_reference=False)
    records = protocol.record_queries()
    assert records == (*range(QUERIES), 1, 5, 6, 6, 9)
    embedded = 10 * torch.randn(len(records), queries.shape[1], generator=torch.Generator().manual_seed(8))
    embedded[::2] /= 100
    mean = torch.stack(
        [
            torch.stack([embedded[n] / embedded[n].norm() for n, of in enumerate(records) if of == query]).mean(0)
            for query in range(QUERIES)
        ]
    )
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(1))
    metric = CompositionMetric(protocol)
    metric.update_gallery(torch.arange(GALLERY), gallery)
    metric.update_queries(order, embedded[order])
    torch.testing.assert_close(metric.queries()[0], mean)
    plain = fed(replace(protocol, further_references=None), mean, gallery).figures()
    assert {name: value.item() for name, value in metric.figures().items()} == pytest.approx(
        {name: value.item() for name, value in plain.items()}
    )
    metric.reset()
    metric.update_queries(torch.tensor([0, 6, 1, QUERIES]), embedded[[0, 6, 1, QUERIES]])
    assert metric.queries()[1].tolist() == [0, 1], "query 6 lacks two of its references"


def test_all_references_of_a_query_are_taken_out_of_the_gallery() -> None:
    queries, gallery = make_embeddings()
    taken = [{*targets, own} for targets, own in zip(many().targets, many().references, strict=True)]
    further = tuple(min(set(range(GALLERY)) - own) for own in taken)
    protocol = many(further_references=tuple((image,) for image in further))
    answers = known_answers(protocol, torch.arange(QUERIES), torch.arange(GALLERY))
    scores = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(gallery, dim=1).T
    found = score_queries(protocol, answers, [(slice(0, QUERIES), scores)], nearest=GALLERY).nearest
    for query, (image, other) in enumerate(zip(protocol.references, further, strict=True)):
        ranked = {number for number in found.images[query].tolist() if number >= 0}
        assert ranked == set(range(GALLERY)) - {image, other}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives": ((0,),)}, r"negatives expected one per query \(13\), got 1"),
        ({"negatives": ((29,), *((),) * 12)}, r"negatives of query 100.*0\.\.28, got 29"),
        ({"negatives": None}, "metrics has neg_recall_at_1, but `negatives` is None"),
        ({"query_groups": (1, 2)}, "query_groups expected one per query"),
        ({"query_groups": None}, "metrics has precision_at_5_spread, but `query_groups` is None"),
        ({"further_references": ((29,), *((),) * 12)}, r"further_references of query 100.*0\.\.28"),
        ({"further_references": ((),) * 13, "query_views": 2}, "beside several query_views"),
        ({"further_references": ((make_protocol().targets[0][0],), *((),) * 12)}, "targets of query 100.*reference"),
        (
            {"counted_targets": (0, *(9,) * 12)},
            "counted_targets of query 100.* from 1 on, got 0",
        ),
        ({"counted_negatives": (0,) * 13}, "counted_negatives of query 101"),
        ({"counted_targets": (1,)}, "counted_targets expected one per query"),
        ({"version": 0}, "version expected a whole number from 1 on, got 0"),
        ({"version": True}, "version expected a whole number"),
    ],
)
def test_contradictions_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        many(**changes)


def test_what_is_there_is_described() -> None:
    described = many(further_references=((28,), *((),) * 12), exclude_reference=False, version=3).describe()
    assert {name: described[name] for name in ("version", "query_groups", "references_per_query_max")} == {
        "version": 3, "query_groups": 5, "references_per_query_max": 2,
    }  # fmt: skip
    assert "any_negative_at_5_worst" in described["lower_is_better"] and "ndcg" not in described["lower_is_better"]
    assert described["ndcg_at"] == [1, 5] and described["over_query_groups"][0] == "precision_at_5_spread"


def test_the_gain_beside_every_row_is_that_of_the_metric() -> None:
    queries, gallery = make_embeddings()
    metric = fed(many(), queries, gallery)
    figures = metric.figures()
    gains = metric.gains()
    assert gains[""] == {"composed": pytest.approx(figures["ndcg"].item())}
    assert gains["concepts_2"] == {"composed": pytest.approx(figures["ndcg_concepts_2"].item())}
    plain = make_protocol()
    same = fed(plain, queries, gallery)
    assert "ndcg" not in same.figures() and same.gains()[""]["composed"] == pytest.approx(figures["ndcg"].item())


def test_the_gain_of_subsets_is_taken_where_nothing_else_is_ranked() -> None:
    queries, gallery = make_embeddings()
    own = fed(many(metrics=(SubsetTrapezoidalPrecision(),), headline="subset_average_precision"), queries, gallery)
    own.compute()
    assert own.gains()[""]["composed"] > fed_gain(queries, gallery) + 1


def fed_gain(queries: Tensor, gallery: Tensor) -> float:
    metric = fed(many(metrics=RecallAt.at(1), headline="recall_at_1"), queries, gallery)
    metric.compute()
    return metric.gains()[""]["composed"]


@pytest.mark.parametrize(
    ("figures", "gap"),
    [
        ((50, 25, 10), 0.5),
        ((50, 10, 50), 0),
        ((20, 30, 10), -0.5),
        ((40, 0, 0), 1),
        ((0, 0, 0), None),
        ((0, 1, 0), None),
    ],
)
def test_the_composition_gap(figures: tuple[float, float, float], gap: float | None) -> None:
    assert composition_gap(*figures) == gap
    rows = dict(zip(("composed", "image_only", "text_only"), figures, strict=True))
    assert gap_of_rows(rows | {"sum": 99}) == gap
    del rows["text_only"]
    assert gap_of_rows(rows) is None
