"""Ranks, recall and average precision against loops written from their definitions."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.ranking import (
    average_precision_at,
    pad_rows,
    pick,
    recall_at,
    score_chunks,
    subset_ranks,
    target_ranks,
    without,
)

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
    relevant = torch.tensor([len(row) for row in targets])
    for query, row in enumerate(scores):
        candidates = [image for image in range(len(row)) if image != excluded[query]]
        ranking = naive_ranking(row, targets[query], candidates)
        for k in CUTOFFS:
            assert recall_at(ranks, k)[query] == naive_recall(ranking, targets[query], k)
            expected = naive_average_precision(ranking, targets[query], k)
            assert average_precision_at(ranks, k, relevant)[query].item() == pytest.approx(expected, abs=1e-6)


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
            assert recall_at(ranks, k)[query] == naive_recall(ranking, targets[query], k)


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
    assert average_precision_at(ranks, 5, torch.tensor([2])).tolist() == [0.5]
    assert recall_at(torch.full((1, 1), math.inf), 10**6).tolist() == [0.0]


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


def test_pick_and_pad_rows_mark_what_is_missing() -> None:
    padded = pad_rows([(1,), (), (2, 0)])
    assert padded.tolist() == [[1, -1], [-1, -1], [2, 0]]
    picked = pick(torch.tensor([[1.0, 2.0, 3.0]]).expand(3, 3), padded)
    assert picked.tolist() == [[2.0, -math.inf], [-math.inf, -math.inf], [3.0, 1.0]]
    assert pad_rows([(), ()]).shape == (2, 0)


def test_official_circo_example_gets_its_official_score(shared: Path) -> None:
    """The official evaluation gives these percentages on the example submission; recall is that of the first target."""
    circo = shared / "data" / "circo"
    records = json.loads((circo / "annotations" / "val.json").read_text())
    submission = json.loads((circo / "submission_examples" / "submission_val.json").read_text())
    precision, recall = {}, {}
    for record in records:
        ranking = submission[str(record["id"])]
        missing = [image for image in record["gt_img_ids"] if image not in ranking]
        images = {image: column for column, image in enumerate([*ranking, *missing])}
        scores = -torch.arange(len(images), dtype=torch.float32)[None]
        out = torch.tensor([[images[image] for image in missing]], dtype=torch.int64)
        targets = torch.tensor([[images[image] for image in record["gt_img_ids"]]])
        ranks = target_ranks(without(scores, out), targets)
        for k in (5, 10, 25, 50):
            precision.setdefault(k, []).append(average_precision_at(ranks, k, torch.tensor([targets.shape[1]])).item())
            recall.setdefault(k, []).append(recall_at(ranks[:, :1], k).item())
    assert len(records) == 220
    assert {k: round(100 * sum(values) / 220, 4) for k, values in precision.items()} == {
        5: 0.4861,
        10: 0.5178,
        25: 0.5400,
        50: 0.6020,
    }
    assert [round(100 * sum(values) / 220, 4) for values in recall.values()] == [0.9091, 0.9091, 1.3636, 3.6364]
