"""InfoNCE in blocks of rows: the loss and gradients of all rows at once, with logits of no more than a set size."""

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import contextcir.losses
from contextcir.losses.contrastive import InfoNCE, LearnedTemperatureInfoNCE
from tests.helpers.classes import concrete_classes
from tests.helpers.distributed import run_ranks
from tests.losses.test_contrastive import CASES, batch, naive_loss


class Largest(TorchDispatchMode):
    """Notes the most elements that a result has inside of it."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def loss_and_gradients(loss: InfoNCE, rows: tuple[Tensor, ...]) -> list[Tensor]:
    sides = [side.clone().requires_grad_() for side in rows[:3]]
    value = loss(*sides, *rows[3:])
    return [value.detach(), *torch.autograd.grad(value, [*sides, *loss.parameters()])]


@pytest.mark.parametrize("kind", concrete_classes(contextcir.losses, InfoNCE))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_blocks_equal_loops_over_images_and_have_the_gradients_of_the_whole(kind: type, case: str, rows: int) -> None:
    given = batch(*CASES[case])
    whole, blocks = (loss_and_gradients(kind(0.2, count).double(), given) for count in (None, rows))
    assert blocks[0].item() == pytest.approx(naive_loss(*given, temperature=0.2), rel=1e-6)
    for expected, found in zip(whole, blocks, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_nothing_is_larger_than_a_block_of_logits_neither_forwards_nor_backwards() -> None:
    given = wide(200)
    largest = {}
    for rows in (None, 5):
        with Largest() as watch:
            loss_and_gradients(InfoNCE(rows=rows), given)
        largest[rows] = watch.elements
    assert largest[None] == 200 * 400
    assert largest[5] == max(5 * 400, 400 * 4, 200 * 3 * 4)


def wide(size: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sides = torch.randn(3, size, 4, generator=generator, dtype=torch.double)
    return (*sides, torch.arange(size), torch.arange(size, 2 * size))


class Model(torch.nn.Module):
    def __init__(self, rows: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.image = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
        self.loss = LearnedTemperatureInfoNCE(rows=rows)
        self.double()

    def forward(self, query: Tensor, target: Tensor, reference: Tensor, *ids: Tensor) -> Tensor:
        return self.loss(self.query(query), self.image(target), self.image(reference), *ids)


def train_step(rank: int, sizes: list[int]) -> dict[str, Tensor]:
    start = sum(sizes[:rank])
    model = DistributedDataParallel(Model(rows=2))
    model(*(x[start : start + sizes[rank]] for x in batch(*CASES["all at once"]))).backward()
    return {name: p.grad for name, p in model.module.named_parameters()}


@pytest.mark.parametrize("sizes", [[5, 3], [1, 7], [4, 1, 3]])
def test_blocks_on_ranks_have_the_gradients_of_the_joint_batch(sizes: list[int]) -> None:
    model = Model(None)
    model(*batch(*CASES["all at once"])).backward()
    for found in run_ranks(train_step, len(sizes), sizes):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", concrete_classes(contextcir.losses, InfoNCE))
def test_blocks_without_rows_are_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"expected a whole number from 1 on, got 0 \(model\.contrastive\.rows"):
        kind(rows=0)
