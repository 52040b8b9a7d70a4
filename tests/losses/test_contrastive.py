import math

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from contextcir.losses.contrastive import InfoNCE, LearnedTemperatureInfoNCE, repeats
from contextcir.losses.gathering import gather_rows
from tests.helpers.distributed import run_ranks


def naive_loss(query, target, reference, target_id, reference_id, temperature=0.07) -> float:
    """One similarity at a time: every image once in a denominator, and never as its own negative."""

    def similarity(a, b):
        return math.exp(float(a @ b / (a.norm() * b.norm())) / temperature)

    images = {}
    for ids, embeddings in ((target_id, target), (reference_id, reference)):
        for name, embedding in zip(ids.tolist(), embeddings, strict=True):
            images.setdefault(name, embedding)
    total = 0.0
    for i in range(len(query)):
        own = similarity(query[i], target[i])
        others = [similarity(query[i], e) for name, e in images.items() if name != target_id[i]]
        total -= math.log(own / (own + sum(others)))
        others = [similarity(target[i], query[j]) for j in range(len(query)) if target_id[j] != target_id[i]]
        total -= math.log(own / (own + sum(others)))
    return total / len(query) / 2


def batch(size: int, targets=None, references=None, width: int = 6):
    """Rows with the given image ids; the same id always has the same features."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(100, width, generator=generator, dtype=torch.double)
    target_id = torch.tensor(targets or range(size))
    reference_id = torch.tensor(references or range(50, 50 + size))
    query = torch.randn(size, width, generator=generator, dtype=torch.double)
    return query, table[target_id], table[reference_id], target_id, reference_id


CASES = {
    "all different": (5, None, None),
    "two queries share a target": (5, [0, 1, 0, 3, 4], None),
    "references repeat": (5, None, [50, 50, 51, 51, 51]),
    "a reference is another's target": (5, None, [1, 2, 3, 4, 0]),
    "a reference is its own target": (3, [7, 8, 9], [7, 51, 52]),
    "all at once": (8, [0, 1, 0, 2, 3, 3, 4, 5], [1, 1, 0, 60, 61, 60, 5, 0]),
    "one row": (1, None, None),
}


@pytest.mark.parametrize("case", CASES)
def test_it_equals_loops_over_images(case):
    rows = batch(*CASES[case])
    torch.testing.assert_close(InfoNCE()(*rows).item(), naive_loss(*rows))
    torch.testing.assert_close(InfoNCE(0.5)(*rows).item(), naive_loss(*rows, temperature=0.5))


def test_a_shared_target_is_no_negative():
    rows = batch(2, [4, 4], [4, 4])
    assert InfoNCE()(*rows).item() == pytest.approx(0.0, abs=1e-12)


def test_references_are_negatives_only_for_queries():
    query, target, reference, target_id, reference_id = batch(4)
    reference = query + 0.1  # as hard as can be
    hard = InfoNCE()(query, target, reference, target_id, reference_id)
    assert hard > InfoNCE()(*batch(4)) + 1
    torch.testing.assert_close(hard.item(), naive_loss(query, target, reference, target_id, reference_id))


def test_repeats_are_those_after_the_first():
    assert repeats(torch.tensor([5, 3, 5, 5, 9, 3])).tolist() == [False, False, True, True, False, True]


def test_the_learned_temperature_starts_as_told_learns_and_stays_above_its_bound():
    loss = LearnedTemperatureInfoNCE(0.2).double()
    torch.testing.assert_close(loss(*batch(5)), InfoNCE(0.2)(*batch(5)))
    loss(*batch(5)).backward()
    assert loss.log_temperature.grad.abs() > 1e-3
    with torch.no_grad():
        loss.log_temperature.fill_(-20.0)
    torch.testing.assert_close(loss(*batch(5)), InfoNCE(0.01)(*batch(5)))
    loss.zero_grad()
    loss(*batch(5)).backward()
    assert loss.log_temperature.grad.abs() > 1e-3  # it can come back


def test_without_ranks_gathering_is_the_identity():
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.image = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
        self.loss = LearnedTemperatureInfoNCE()
        self.double()

    def forward(self, query, target, reference, target_id, reference_id):
        return self.loss(self.query(query), self.image(target), self.image(reference), target_id, reference_id)


def train_step(rank: int, sizes: list[int]) -> dict:
    start = sum(sizes[:rank])
    model = DistributedDataParallel(Model())
    loss = model(*(x[start : start + sizes[rank]] for x in batch(*CASES["all at once"])))
    loss.backward()
    return {"loss": loss, **{name: p.grad for name, p in model.module.named_parameters()}}


@pytest.mark.parametrize("sizes", [[4, 4], [5, 3], [1, 7]])
def test_loss_and_gradients_of_two_ranks_equal_those_of_the_joint_batch(sizes):
    ranks = run_ranks(train_step, 2, sizes)
    model = Model()
    loss = model(*batch(*CASES["all at once"]))
    loss.backward()
    mean = sum(rank.pop("loss") for rank in ranks) / 2
    torch.testing.assert_close(mean.item(), loss.item(), rtol=1e-12, atol=0)
    for rank in ranks:
        assert rank.keys() == dict(model.named_parameters()).keys()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(rank[name], parameter.grad, rtol=1e-10, atol=1e-12)


def gather_some(rank: int) -> list:
    rows = torch.full((2 * rank, 3), float(rank), requires_grad=True)
    gathered = gather_rows(rows)
    (gathered * (rank + 1) * torch.arange(len(gathered))[:, None]).sum().backward()
    return [gathered, rows.grad]


def test_gathering_keeps_the_order_of_ranks_and_sums_their_gradients():
    results = run_ranks(gather_some, 3)
    for gathered, _ in results:
        assert gathered[:, 0].tolist() == [1, 1, 2, 2, 2, 2]
    assert [grad[:, 0].tolist() for _, grad in results] == [[], [0, 6], [12, 18, 24, 30]]
