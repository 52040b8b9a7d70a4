"""The second stage: the first n are ordered anew, the others stay, and all metrics follow."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from contextcir.embedders import ChatReranker, Reranker
from contextcir.embedders.reranking import RERANKED, RerankedMetric, Reranking
from contextcir.errors import InputError
from contextcir.evaluation.metrics import AveragePrecisionAt, RecallAt
from contextcir.evaluation.protocol import Protocol
from contextcir.synthesis.models.base import Budget, BudgetSpent
from contextcir.synthesis.models.pacing import Retries
from tests.helpers.embedding_server import YesNoServer
from tests.helpers.model_faults import broken
from tests.helpers.photos import picture

GALLERY, QUERIES, FIRST = 30, 12, 7


class Fixed(Reranker):
    """Not asked in these tests."""

    name = "fixed"

    def scores(self, image: Image.Image | None, text: str, candidates: Sequence[Image.Image]) -> Tensor:
        raise AssertionError

    def describe(self) -> dict[str, Any]:
        return {"reranker": self.name}


def protocol(exclude: bool) -> Protocol:
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randperm(GALLERY, generator=generator)[:4].tolist() for _ in range(QUERIES)]
    return Protocol(
        benchmark="toy",
        split="val",
        gallery=tuple(f"g{n}" for n in range(GALLERY)),
        query_ids=tuple(range(QUERIES)),
        targets=tuple(tuple(row[:2]) for row in drawn),
        references=tuple(row[3] for row in drawn),
        exclude_reference=exclude,
        metrics=(*RecallAt.at(1, 5, 10), *AveragePrecisionAt.at(5, 10)),
    )


@pytest.mark.parametrize("exclude", [True, False])
def test_the_reranked_row_is_that_of_a_plain_reordering(exclude: bool) -> None:
    torch.manual_seed(0)
    toy, gallery, queries = protocol(exclude), torch.randn(GALLERY, 6), torch.randn(QUERIES, 6)
    second = torch.rand(QUERIES, GALLERY, dtype=torch.float64).round(decimals=1)  # with ties
    asked: list[tuple[int, tuple[int, ...]]] = []

    def pairs(query: int, images: Sequence[int]) -> Tensor:
        asked.append((query, tuple(images)))
        return second[query, list(images)]

    metric = RerankedMetric(toy, Reranking(Fixed(), FIRST), pairs)
    metric.keep_nearest(10)
    order = torch.randperm(GALLERY)
    metric.update_gallery(order, gallery[order])
    metric.update_queries(torch.arange(QUERIES), queries)
    figures = metric.compute()

    scores = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=-1)
    found: dict[str, list[float]] = {name: [] for name in toy.metric_names()}
    for query in range(QUERIES):
        ranking = sorted(range(GALLERY), key=lambda image, q=query: -scores[q, image].item())
        ranking = [image for image in ranking if not (exclude and image == toy.references[query])]
        first = sorted(ranking[:FIRST], key=lambda image, q=query: -second[q, image].item())  # stable
        ranking = first + ranking[FIRST:]
        assert (query, tuple(sorted(first))) in [(q, tuple(sorted(images))) for q, images in asked]
        right = set(toy.targets[query])
        for k in (1, 5, 10):
            found[f"recall_at_{k}"].append(bool(right & set(ranking[:k])))
        for k in (5, 10):
            hits = [place + 1 for place, image in enumerate(ranking[:k]) if image in right]
            found[f"map_at_{k}"].append(sum((n + 1) / place for n, place in enumerate(hits)) / min(len(right), k))
        _, scored = metric.scored(RERANKED)
        assert scored.nearest.images[query].tolist() == ranking[:10]
    for name, values in found.items():
        assert figures[RERANKED][name].item() == pytest.approx(100 * sum(values) / QUERIES, abs=1e-3)
    assert figures["composed"] != figures[RERANKED] and len(asked) == QUERIES
    assert metric.coverage(RERANKED) == (QUERIES, GALLERY)


def test_a_row_that_is_not_there_is_named() -> None:
    toy = protocol(False)
    metric = RerankedMetric(toy, Reranking(Fixed(), FIRST, "sum"), lambda query, images: torch.zeros(len(images)))
    metric.update_gallery(torch.arange(GALLERY), torch.randn(GALLERY, 6))
    metric.update_queries(torch.arange(QUERIES), torch.randn(QUERIES, 6))
    with pytest.raises(InputError, match="no row sum"):
        metric.compute()


@pytest.mark.parametrize("first", [1, 0, -1, 2.5, True])
def test_the_number_of_images_is_checked(first: Any) -> None:
    with pytest.raises(InputError, match="reranking.first"):
        Reranking(Fixed(), first)


openai = pytest.importorskip("openai")


def chat(server: YesNoServer, **options: Any) -> ChatReranker:
    return ChatReranker("some/vlm", server.url, **{"retries": Retries(4, 0.01, 0.02), **options})


def test_a_score_is_the_share_of_yes_over_its_spellings() -> None:
    said = {"Yes": math.log(0.5), " yes": math.log(0.1), "No": math.log(0.2), "maybe": math.log(0.2)}
    with YesNoServer(lambda body: said) as server:
        scores = chat(server).scores(picture(0), "make it red", [picture(1), picture(2)])
    assert scores.tolist() == pytest.approx([0.75, 0.75])
    body = server.asked[0].body
    assert body["logprobs"] is True and body["top_logprobs"] == 20 and body["max_tokens"] == 1
    parts = [part["type"] for part in body["messages"][1]["content"]]
    assert parts == ["image_url", "image_url", "text"] and "make it red" in server.asked[0].texts[1]


def test_answers_are_kept_and_no_pair_is_asked_for_twice(tmp_path: Path) -> None:
    file = tmp_path / "answers" / "a.jsonl"
    red = lambda body: {"yes": math.log(0.9 if "red" in repr(body["messages"]) else 0.2), "no": math.log(0.1)}  # noqa: E731
    with YesNoServer(red) as server:
        first = chat(server, answers=file).scores(picture(0), "red", [picture(1), picture(2), picture(1)])
        assert len(server.asked) == 2
        with open(file, "a") as broken_off:
            broken_off.write('{"key": "half')
        again = chat(server, answers=file)
        assert torch.equal(again.scores(picture(0), "red", [picture(2), picture(1)]), first[:2].flip(0))
        assert len(server.asked) == 2
        assert again.scores(picture(0), "blue", [picture(1)]).tolist() == pytest.approx([2 / 3])
        assert chat(server, answers=file).scores(picture(0), "blue", [picture(1)]).tolist() == pytest.approx([2 / 3])
        assert len(server.asked) == 3
        chat(server, answers=file, question="Other words: {text}").scores(picture(0), "red", [picture(1)])
        assert len(server.asked) == 4


def test_a_pair_without_an_answer_stops_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    vague = YesNoServer(lambda body: {"perhaps": -0.1}, script=[broken()])
    with vague as server, pytest.raises(InputError, match="log-probabilities of yes and no"):
        chat(server, answers=file).scores(None, "red", [picture(1)])
    with YesNoServer(lambda body: {"yes": -0.1, "no": -3.0}) as server:
        with pytest.raises(BudgetSpent):
            chat(server, answers=file, budget=Budget(requests=2), concurrency=1).scores(
                None, "red", [picture(n) for n in range(4)]
            )
        assert len(server.asked) == 2 and sum(map(bool, file.read_text().splitlines())) == 2
