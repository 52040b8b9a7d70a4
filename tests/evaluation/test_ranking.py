"""Ranks, recall and average precision against loops written from their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.evaluation.metrics import (
    AveragePrecisionAt,
    Graded,
    RecallAt,
    SoftRecallAt,
    SoftSubsetRecallAt,
    SubsetRecallAt,
)
from contextcir.evaluation.ranking import (
    cosine_scores,
    graded_ranks,
    pad_rows,
    pad_values,
    pick,
    score_chunks,
    subset_ranks,
    target_ranks,
    without,
)
from tests.helpers.given_ranks import GivenRanks

CUTOFFS = (1, 2, 3, 5, 10, 25, 50)


def naive_ranking(scores: list[float], targets: list[int], candidates: list[int]) -> list[int]:
    """Sort the candidates by falling score; among equals the targets come last."""
    return sorted(candidates, key=lambda image: (-scores[image], image in targets))


def naive_recall(ranking: list[int], targets: list[int], k: int) -> float:
    return float(any(image in targets for image in ranking[:k]))


def naive_average_precision(ranking: list[int], targets: list[int], k: int) -> float:
    """AP@k = 1 / min(|GT|, k) * sum over i = 1..k of P(i) * rel(i)."""
    total = 0.0
    for i in range(1, min(k, len(ranking)) + 1):
        if ranking[i - 1] in targets:
            hits = sum(image in targets for image in ranking[:i])
            total += hits / i
    return total / min(len(targets), k)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]], list[int]]:
    """Draw scores from few values (many ties), targets (1 or up to 14 of them) and an excluded image per query."""
    queries, gallery = draw(st.integers(1, 4)), draw(st.integers(2, 40))
    value = st.sampled_from([-0.5, -0.25, 0.0, 0.25, 0.5])
    scores = draw(st.lists(st.lists(value, min_size=gallery, max_size=gallery), min_size=queries, max_size=queries))
    targets, excluded = [], []
    for _ in range(queries):
        count = draw(st.sampled_from([1, min(14, gallery - 1)]))
        chosen = draw(st.permutations(range(gallery)))
        targets.append(list(chosen[:count]))
        excluded.append(draw(st.sampled_from([-1, chosen[-1]])))
    return scores, targets, excluded


@settings(deadline=None, max_examples=150)
@given(problems())
def test_recall_and_average_precision_follow_their_definitions_with_ties(problem: tuple) -> None:
    scores, targets, excluded = problem
    ranks = target_ranks(without(torch.tensor(scores), torch.tensor(excluded)[:, None]), pad_rows(targets))
    counts = torch.tensor([len(row) for row in targets])
    given = GivenRanks(targets=ranks.sort(1).values, target_counts=counts)
    in_numpy = GivenRanks(targets=given.targets.numpy(), target_counts=counts.numpy())
    for query, row in enumerate(scores):
        candidates = [image for image in range(len(row)) if image != excluded[query]]
        ranking = naive_ranking(row, targets[query], candidates)
        for k in CUTOFFS:
            assert RecallAt(k).values(given)[query] == naive_recall(ranking, targets[query], k)
            expected = naive_average_precision(ranking, targets[query], k)
            assert AveragePrecisionAt(k).values(given)[query].item() == pytest.approx(expected, abs=1e-6)
            assert RecallAt(k).values(in_numpy)[query] == naive_recall(ranking, targets[query], k)
            assert AveragePrecisionAt(k).values(in_numpy)[query] == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(problems(), st.randoms(use_true_random=False))
def test_subset_recall_follows_its_definition_whether_or_not_the_target_is_listed(problem: tuple, random) -> None:
    scores, targets, excluded = problem
    gallery = range(len(scores[0]))
    subsets = [random.sample(gallery, min(6, len(gallery))) for _ in scores]
    kept = [[image for image in members if image != excluded[query]] for query, members in enumerate(subsets)]
    ranks = subset_ranks(torch.tensor(scores), pad_rows(targets), pad_rows(kept))
    for query, row in enumerate(scores):
        ranking = naive_ranking(row, targets[query], sorted({*kept[query], *targets[query]}))
        for k in (1, 2, 3):
            found = SubsetRecallAt(k).values(GivenRanks(subset_targets=ranks.sort(1).values))
            assert found[query] == naive_recall(ranking, targets[query], k)


def naive_soft_recall(scores: list[float], grades: dict[int, float], candidates: list[int], k: int) -> float:
    """The highest relevance among the first k, not below 0; among equal scores the least relevant come first."""
    ranking = sorted(candidates, key=lambda image: (-scores[image], max(grades.get(image, 0.0), 0.0)))
    return max([0.0, *(grades.get(image, 0.0) for image in ranking[:k])])


@settings(deadline=None, max_examples=150)
@given(problems(), st.data())
def test_soft_recall_follows_its_definition_with_ties(problem: tuple, data: st.DataObject) -> None:
    scores, _, excluded = problem
    gallery = range(len(scores[0]))
    grade = st.dictionaries(st.sampled_from(gallery), st.sampled_from([-1.0, 0.0, 0.2, 0.5, 1.0]), max_size=8)
    grades = [data.draw(grade) for _ in scores]
    relevance = pad_values([tuple(row.values()) or (0.0,) for row in grades])
    columns = pad_rows([tuple(row) or (-1,) for row in grades])
    kept = without(torch.tensor(scores), torch.tensor(excluded)[:, None])
    graded = Graded(graded_ranks(kept, pick(kept, columns), relevance), relevance.clamp(min=0))
    given = GivenRanks(graded=graded, subset_graded=graded)
    in_numpy = GivenRanks(graded=Graded(graded.ranks.numpy(), graded.relevance.numpy()))
    for query, row in enumerate(scores):
        candidates = [image for image in gallery if image != excluded[query]]
        for k in CUTOFFS:
            expected = naive_soft_recall(row, grades[query], candidates, k)
            assert SoftRecallAt(k).values(given)[query].item() == pytest.approx(expected)
            assert SoftRecallAt(k).values(in_numpy)[query] == pytest.approx(expected)
            assert SoftSubsetRecallAt(k).values(given)[query].item() == pytest.approx(expected)


def test_soft_recall_of_constant_scores_is_that_of_the_least_relevant() -> None:
    relevance = torch.tensor([[1.0, 0.2, 0.5, 0.0]])
    given = GivenRanks(graded=Graded(graded_ranks(torch.ones(1, 6), torch.ones(1, 4), relevance), relevance))
    values = [SoftRecallAt(k).values(given).item() for k in (1, 3, 4, 5, 6)]
    assert [round(value, 4) for value in values] == [0.0, 0.0, 0.2, 0.5, 1.0]


@pytest.mark.parametrize("diverged", [0, 1])
def test_nan_never_helps_a_soft_recall(diverged: int) -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2]])
    scores[0, diverged] = math.nan
    ranks = graded_ranks(scores, scores[:, :1], torch.ones(1, 1))
    assert ranks.item() == (math.inf if diverged == 0 else 2.0)


def test_constant_scores_give_the_worst_rank() -> None:
    ranks = target_ranks(torch.ones(1, 10), torch.tensor([[0, 3]]))
    assert ranks.tolist() == [[9.0, 10.0]]


def test_excluded_images_are_not_counted_and_cannot_be_found() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1]])
    assert target_ranks(without(scores, torch.tensor([[0]])), torch.tensor([[2]])).tolist() == [[2.0]]
    assert target_ranks(without(scores, torch.tensor([[2]])), torch.tensor([[2]])).tolist() == [[math.inf]]
    assert scores.tolist() == torch.tensor([[0.9, 0.5, 0.1]]).tolist(), "the scores are left as they were"


def test_absent_targets_have_rank_infinity_and_lower_average_precision() -> None:
    ranks = target_ranks(torch.tensor([[0.9, 0.5]]), torch.tensor([[0, -1]]))
    assert ranks.tolist() == [[1.0, math.inf]]
    given = GivenRanks(targets=ranks, target_counts=torch.tensor([2]))
    assert AveragePrecisionAt(5).values(given).tolist() == [0.5]
    assert RecallAt(10**6).values(GivenRanks(targets=torch.full((1, 1), math.inf))).tolist() == [0.0]


@pytest.mark.parametrize("diverged", [0, 1])
def test_nan_never_helps(diverged: int) -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2]])
    scores[0, diverged] = math.nan
    assert target_ranks(scores, torch.tensor([[0]])).item() == (math.inf if diverged == 0 else 2.0)


def test_score_chunks_are_the_cosine_matrix_in_pieces_of_bounded_size() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = 3 * torch.randn(23, 8, generator=generator), torch.randn(31, 8, generator=generator)
    expected = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=-1)
    pieces = list(score_chunks(queries, gallery, elements=5 * 31))
    assert max(len(scores) for _, scores in pieces) <= 5 and len(pieces) > 1
    assert [row for rows, _ in pieces for row in range(rows.start, rows.stop)] == list(range(23))
    torch.testing.assert_close(torch.cat([scores for _, scores in pieces]), expected)
    half = torch.cat([scores for _, scores in score_chunks(queries.half(), gallery.half())])
    torch.testing.assert_close(half, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 17])
@pytest.mark.parametrize("gallery", [2, 3, 5, 7, 11, 13, 100, 1023, 1024, 1025, 1030, 2051])
def test_equal_images_have_equal_scores_to_the_last_bit_wherever_they_are(queries: int, gallery: int) -> None:
    generator = torch.Generator().manual_seed(queries * gallery)
    for width in (6, 100, 512):
        image = torch.randn(1, width, generator=generator)
        scores = cosine_scores(torch.randn(queries, width, generator=generator), image.expand(gallery, width))
        assert scores.shape == (queries, gallery) and bool((scores == scores[:, :1]).all())


def test_chunks_do_not_change_a_score_by_a_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(40, 64, generator=generator).half()
    gallery = torch.randn(1500, 64, generator=generator).half()
    whole = cosine_scores(queries, gallery)
    for elements in (1500, 7 * 1500, 20 * 1500):
        assert torch.equal(torch.cat([scores for _, scores in score_chunks(queries, gallery, elements)]), whole)


def test_scores_are_computed_in_full_precision_whatever_training_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(16, 256, generator=generator), torch.randn(64, 256, generator=generator)
    exact = torch.nn.functional.cosine_similarity(queries[:, None].double(), gallery[None].double(), dim=-1)
    product, seen, before = torch.mm, [], torch.get_float32_matmul_precision()

    def spy(*args: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision))
        return product(*args, **options)

    monkeypatch.setattr(torch, "mm", spy)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            scores = cosine_scores(queries, gallery)
        assert torch.get_float32_matmul_precision() == "medium", "the setting of the user is left as it was"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [("ieee", "ieee")] and scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), exact, atol=1e-6, rtol=0)


def test_no_queries_or_no_images_give_no_scores() -> None:
    assert list(score_chunks(torch.empty(0, 4), torch.ones(3, 4))) == []
    assert [scores.shape for _, scores in score_chunks(torch.ones(3, 4), torch.empty(0, 4))] == [(3, 0)]


def test_pick_and_pad_rows_mark_what_is_missing() -> None:
    padded = pad_rows([(1,), (), (2, 0)])
    assert padded.tolist() == [[1, -1], [-1, -1], [2, 0]]
    picked = pick(torch.tensor([[1.0, 2.0, 3.0]]).expand(3, 3), padded)
    assert picked.tolist() == [[2.0, -math.inf], [-math.inf, -math.inf], [3.0, 1.0]]
    assert pad_rows([(), ()]).shape == (2, 0)
    assert pad_values([(0.5,), (), (1.0, -1.0)]).tolist() == [[0.5, 0.0], [0.0, 0.0], [1.0, -1.0]]
