"""Gradient caching on several ranks with uneven rows: the gradients of the joint batch, reduced once."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from contextcir.batch import TripletBatch
from contextcir.losses.contrastive import InfoNCE
from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from tests.helpers.distributed import run_ranks
from tests.helpers.gradient_cases import assert_same, gradients, new_batch, new_model, rows_of

SIZE = 10


class Losses(torch.nn.Module):
    """`losses` as the forward pass, as Lightning's strategies have it for a training step."""

    def __init__(self, model: ContextCIR) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TripletBatch) -> dict[str, Tensor]:
        return self.model.losses(batch)


def train_step(rank: int, name: str, precision: torch.dtype, sizes: list[int], frozen: str) -> list:
    start = sum(sizes[:rank])
    model = new_model(name, GradientCache(2), precision, frozen)
    whole = DistributedDataParallel(Losses(model), bucket_cap_mb=1000)  # one bucket, so one reduction
    reductions = []

    def counting(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        reductions.append(bucket.buffer().numel())
        return allreduce_hook(None, bucket)

    whole.register_comm_hook(None, counting)
    losses = whole(rows_of(new_batch(SIZE, precision), start, start + sizes[rank]))
    losses["loss"].backward()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return [sum(reductions) == trained, dict(losses), found]


@pytest.mark.parametrize("sizes", [[7, 3], [1, 9], [4, 1, 5]])
@pytest.mark.parametrize(
    ("name", "precision", "frozen"),
    [
        ("Text-CC", torch.float32, "nothing"),
        ("Text-CC", torch.float64, "image"),
        ("Text-CC and a learned temperature", torch.float64, "nothing"),
        ("concept attention", torch.float64, "towers"),
    ],
)
def test_gradients_of_ranks_are_those_of_the_joint_batch(
    name: str, precision: torch.dtype, frozen: str, sizes: list[int]
) -> None:
    joint = gradients(new_model(name, WholeBatch(), precision, frozen), new_batch(SIZE, precision))
    losses = {key.strip("()"): joint.pop(key) for key in list(joint) if key.startswith("(")}
    ranks = run_ranks(train_step, len(sizes), name, precision, sizes, frozen)
    tolerance = 1e-5 if precision == torch.float32 else 1e-10
    for part, expected in losses.items():
        mean = sum(found[part] for _, found, _ in ranks) / len(sizes)
        torch.testing.assert_close(mean, expected, rtol=tolerance, atol=tolerance)
    for once, _, found in ranks:
        assert once
        assert_same(found, joint, tolerance)


def test_logits_in_blocks_change_nothing() -> None:
    model = new_model("Text-CC", GradientCache(3), torch.float64)
    expected = gradients(model, new_batch(SIZE, torch.float64))
    model.contrastive = InfoNCE(rows=3)
    assert_same(gradients(model, new_batch(SIZE, torch.float64)), expected, 1e-10)
