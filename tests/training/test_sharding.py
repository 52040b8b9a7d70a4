"""Weights in shards (FSDP2): the gradients of the joint batch, with whole batches and with gradient caching."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from contextcir.training.encoding import WholeBatch
from contextcir.training.sharding import ShardedGradientCache, shard
from tests.helpers.distributed import run_ranks
from tests.helpers.gradient_cases import assert_same, gradients, new_batch, new_model, rows_of

SIZE = 8


def train_step(rank: int, name: str, encoding: WholeBatch, mesh: tuple[int, ...], frozen: str) -> list:
    rows = SIZE // torch.Size(mesh).numel()
    whole = new_model(name, encoding, torch.float64, frozen)
    total = sum(p.numel() for p in whole.parameters())
    names = ("replicate", "shard")[-len(mesh) :]
    model = shard(whole, init_device_mesh("cpu", mesh, mesh_dim_names=names))
    kept = sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
    batch = rows_of(new_batch(SIZE, torch.float64), rank * rows, (rank + 1) * rows)
    for _ in range(2):  # the second step begins as the first did
        model.zero_grad()
        losses = model.losses(batch)
        losses["loss"].backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in grads.items()}
    return [kept / total, losses["loss"].detach(), found]


FULL, COPIES, NODE = (2,), (2, 1), (1, 2)  # shards over all ranks; copies only; shards in a node, as HYBRID_SHARD
CACHE = ShardedGradientCache(2)


@pytest.mark.parametrize(
    ("encoding", "name", "frozen", "mesh"),
    [
        (CACHE, "Text-CC", "nothing", NODE),
        pytest.param(WholeBatch(), "Text-CC", "nothing", NODE, marks=pytest.mark.slow),
        pytest.param(CACHE, "Text-CC", "image", FULL, marks=pytest.mark.slow),
        pytest.param(CACHE, "Text-CC and a learned temperature", "nothing", COPIES, marks=pytest.mark.slow),
        pytest.param(CACHE, "clause by clause", "nothing", FULL, marks=pytest.mark.slow),
    ],
)
def test_gradients_of_shards_are_those_of_the_joint_batch(
    encoding: WholeBatch, name: str, frozen: str, mesh: tuple[int, ...]
) -> None:
    joint = gradients(new_model(name, WholeBatch(), torch.float64, frozen), new_batch(SIZE, torch.float64))
    expected = joint["(loss)"]
    joint = {key: value for key, value in joint.items() if not key.startswith("(")}
    ranks = run_ranks(train_step, 2, name, encoding, mesh, frozen)
    torch.testing.assert_close(sum(loss for _, loss, _ in ranks) / 2, expected, rtol=1e-10, atol=1e-10)
    for kept, _, found in ranks:
        assert kept == pytest.approx(1 / mesh[-1], abs=0.01)
        assert_same(found, joint, 1e-10)
