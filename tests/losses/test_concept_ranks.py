"""Concept losses on two ranks: loss and gradient are those of the joint batch, however the phrases are spread."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from contextcir.losses.maps import ConceptMaps
from contextcir.losses.text_cc import ConceptLoss
from tests.helpers.concept_cases import HEADS, LOSSES, maps, value
from tests.helpers.distributed import run_ranks

OWNERS = {"even": [0, 0, 1, 2, 2, 2], "first rank has one": [0, 2, 2, 2], "second rank has none": [0, 0, 1]}


class Model(torch.nn.Module):
    """A weight for each head, so that there is a gradient to compare."""

    def __init__(self, loss: ConceptLoss) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 1.5, HEADS, dtype=torch.double)[:, None, None])
        self.loss = loss

    def forward(self, given: ConceptMaps) -> torch.Tensor:
        context = tuple(layer.detach() ** self.scale for layer in given.context)
        return value(self.loss, given._replace(context=context))


def part(given: ConceptMaps, captions: slice, phrases: slice) -> ConceptMaps:
    return ConceptMaps(
        tuple(layer[captions] for layer in given.context),
        tuple(layer[phrases] for layer in given.isolated),
        given.owner[phrases] - captions.start,
        given.alone[phrases] - phrases.start,
        given.context_tokens[phrases],
        given.isolated_tokens[phrases],
    )


def train_step(rank: int, loss: str, owners: list[int], captions: int) -> list:
    local = [p for p, owner in enumerate(owners) if (owner < captions) == (rank == 0)]
    phrases = slice(local[0], local[-1] + 1) if local else slice(len(owners), len(owners))
    rows = slice(0, captions) if rank == 0 else slice(captions, 3)
    model = DistributedDataParallel(Model(LOSSES[loss]))
    found = model(part(maps(owners), rows, phrases))
    found.backward()
    return [found, model.module.scale.grad]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", OWNERS)
def test_loss_and_gradient_of_two_ranks_equal_those_of_the_joint_batch(loss: str, case: str) -> None:
    ranks = run_ranks(train_step, 2, loss, OWNERS[case], 2)
    model = Model(LOSSES[loss])
    joint = model(maps(OWNERS[case]))
    joint.backward()
    torch.testing.assert_close((sum(rank[0] for rank in ranks) / 2).item(), joint.item(), rtol=1e-12, atol=0)
    for _, gradient in ranks:
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, model.scale.grad, rtol=1e-10, atol=1e-14)
