"""Hard negatives of triplets: candidates of every query, against loops, over ranks and with a gradient cache."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from contextcir.batch import HardNegatives, TripletBatch
from contextcir.losses import contrastive
from contextcir.losses.contrastive import InfoNCE
from contextcir.losses.negatives import FurtherImages
from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from tests.helpers.distributed import run_ranks
from tests.helpers.gradient_cases import assert_same, gradients, new_batch, new_model, rows_of

WIDTH = 6
TABLE = torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.double)
TARGETS, REFERENCES = [0, 1, 0, 2, 3], [50, 50, 1, 51, 52]
CASES = {
    "new images": [80, 81, 82],
    "one of them twice": [80, 80, 81],
    "the target of its own query": [0, 80],
    "a target of another query": [3, 2],
    "a reference, as MegaPairs lists it": [50, 51, 80],
    "none": [],
}


def naive(query: Tensor, targets: list[int], references: list[int], hard: list[int], temperature: float) -> float:
    """One similarity at a time: each image once in a denominator, never as a negative of a query that it answers."""

    def similarity(a: Tensor, b: Tensor) -> float:
        return math.exp(float(a @ b / (a.norm() * b.norm())) / temperature)

    total = 0.0
    for number, target in enumerate(targets):
        own = similarity(query[number], TABLE[target])
        images = {*targets, *references, *hard} - {target}
        total -= math.log(own / (own + sum(similarity(query[number], TABLE[image]) for image in images)))
        others = [query[n] for n, other in enumerate(targets) if other != target]
        total -= math.log(own / (own + sum(similarity(TABLE[target], other) for other in others)))
    return total / len(targets) / 2


def given() -> tuple[Tensor, ...]:
    query = torch.randn(len(TARGETS), WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.double)
    target_id, reference_id = torch.tensor(TARGETS), torch.tensor(REFERENCES)
    return query, TABLE[target_id], TABLE[reference_id], target_id, reference_id


def hard_ones(ids: list[int]) -> FurtherImages:
    numbers = torch.tensor(ids, dtype=torch.int64)
    return FurtherImages(TABLE[numbers].clone().requires_grad_(), numbers)


@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_loops_over_images(case: str, rows: int | None) -> None:
    hard = hard_ones(CASES[case])
    loss = InfoNCE(0.2, rows)(*given(), hard=hard)
    assert loss.item() == pytest.approx(naive(given()[0], TARGETS, REFERENCES, CASES[case], 0.2), rel=1e-9)
    if case == "new images":
        loss.backward()
        assert (hard.embedding.grad.norm(dim=1) > 1e-4).all(), "hard negatives are trained, not only looked at"


@pytest.mark.parametrize("hard", [None, hard_ones([]), hard_ones([50, 0, 51])])
def test_what_adds_no_image_changes_no_bit(hard: FurtherImages | None) -> None:
    assert torch.equal(InfoNCE()(*given(), hard=hard), InfoNCE()(*given()))


def test_batches_without_hard_negatives_ask_no_other_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    once = contrastive.rows_per_rank
    monkeypatch.setattr(contrastive, "rows_per_rank", lambda count, device: asked.append(count) or once(count, device))
    InfoNCE()(*given())
    assert asked == [5]
    InfoNCE()(*given(), hard=hard_ones([80]))
    assert asked == [5, 5, 1]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.image = torch.nn.Linear(WIDTH, 4), torch.nn.Linear(WIDTH, 4)
        self.double()

    def forward(self, query: Tensor, target: Tensor, reference: Tensor, *ids: Tensor, hard: FurtherImages) -> Tensor:
        further = FurtherImages(self.image(hard.embedding.detach()), hard.image_id)
        return InfoNCE()(self.query(query), self.image(target), self.image(reference), *ids, hard=further)


def train_step(rank: int, sizes: list[int], hard: list[list[int]]) -> dict[str, Any]:
    start = sum(sizes[:rank])
    model = DistributedDataParallel(Model())
    loss = model(*(part[start : start + sizes[rank]] for part in given()), hard=hard_ones(hard[rank]))
    loss.backward()
    return {"loss": loss, **{name: p.grad for name, p in model.module.named_parameters()}}


@pytest.mark.parametrize("hard", [[[80, 50], [81, 80, 3]], [[], [81]], [[], []]])
def test_loss_and_gradients_of_two_ranks_equal_those_of_the_joint_batch(hard: list[list[int]]) -> None:
    ranks = run_ranks(train_step, 2, [2, 3], hard)
    model = Model()
    loss = model(*given(), hard=hard_ones([*hard[0], *hard[1]]))
    loss.backward()
    mean = sum(rank.pop("loss") for rank in ranks) / 2
    torch.testing.assert_close(mean.item(), loss.item(), rtol=1e-12, atol=0)
    for rank in ranks:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(rank[name], parameter.grad, rtol=1e-10, atol=1e-12)


def with_negatives(batch: TripletBatch, ids: list[int]) -> TripletBatch:
    """Add images of these ids: those of the batch where they are in it, and new ones."""
    known = dict(zip(batch.target_id.tolist(), batch.target, strict=True))
    known |= dict(zip(batch.reference_id.tolist(), batch.query.reference, strict=True))
    drawn = torch.Generator().manual_seed(9)
    new = {n: torch.randn(batch.target.shape[1:], generator=drawn).to(batch.target.dtype) for n in sorted({*ids})}
    images = torch.stack([known.get(number, new[number]) for number in ids]) if ids else batch.target[:0]
    return batch._replace(negatives=HardNegatives(images, torch.tensor(ids, dtype=torch.int64)))


@pytest.mark.parametrize("ids", [[1000, 1001, 3, 1000], []])
def test_a_gradient_cache_gives_the_gradients_of_the_whole_batch(ids: list[int]) -> None:
    batch = with_negatives(new_batch(7, torch.float64), ids)
    expected = gradients(new_model("Text-CC", WholeBatch(), torch.float64), batch)
    for chunk in (2, 50):
        found = gradients(new_model("Text-CC", GradientCache(chunk), torch.float64), batch)
        assert_same(found, expected, 1e-10)
    plain = gradients(new_model("Text-CC", WholeBatch(), torch.float64), new_batch(7, torch.float64))
    assert torch.equal(plain["(contrastive)"], expected["(contrastive)"]) == (not ids)


def cached_step(rank: int, sizes: list[int], hard: list[list[int]]) -> dict[str, Tensor]:
    start = sum(sizes[:rank])
    batch = rows_of(new_batch(6, torch.float64), start, start + sizes[rank])
    return gradients(new_model("no concept loss", GradientCache(2), torch.float64), with_negatives(batch, hard[rank]))


def test_a_gradient_cache_on_two_ranks_does_too() -> None:
    ranks = run_ranks(cached_step, 2, [4, 2], [[1000, 1001], []])
    joint = with_negatives(new_batch(6, torch.float64), [1000, 1001])
    expected = gradients(new_model("no concept loss", WholeBatch(), torch.float64), joint)
    assert_same({name: (ranks[0][name] + ranks[1][name]) / 2 for name in ranks[0]}, expected, 1e-10)


def test_moving_a_batch_takes_its_hard_negatives_along() -> None:
    batch = with_negatives(new_batch(3, torch.float32), [1000])
    for encoding in (WholeBatch(), GradientCache(2)):
        moved = encoding.move(batch, torch.device("cpu"))
        assert torch.equal(moved.negatives.image, batch.negatives.image) and moved.negatives.image_id.tolist() == [1000]
