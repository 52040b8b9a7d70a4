"""Rows of all ranks in one process: batches of ranks make one joint batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def meeting_place(device: torch.device) -> torch.device:
    """Return where numbers of the host are exchanged: on the host if the process group can do that, else on a device.

    With NCCL alone, the host then waits for its GPU, once for each exchange.
    """
    return torch.device("cpu") if "gloo" in dist.get_backend() else device


def rows_per_rank(count: int, device: torch.device) -> list[int]:
    """Return the number of rows of every rank, given that of this one; a collective call."""
    if world_size() == 1:
        return [count]
    place = meeting_place(device)
    counts = [torch.zeros(1, dtype=torch.long, device=place) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([count], device=place))
    return torch.cat(counts).tolist()


def gather_ids(ids: Tensor, device: torch.device, counts: list[int] | None = None) -> Tensor:
    """Gather ids of the host (B, ...) of all ranks in order, (sum of B, ...), on the host; a collective call.

    ``device``: that of this rank. Without a process group the ids are returned unchanged.
    """
    if world_size() == 1:
        return ids
    return gather_rows(ids.to(meeting_place(device)), counts).cpu()


def local_offset(counts: list[int]) -> int:
    """Return where the rows of this rank begin among the gathered ones, given the `rows_per_rank`."""
    return sum(counts[: dist.get_rank()]) if len(counts) > 1 else 0


def gather_rows(rows: Tensor, counts: list[int] | None = None) -> Tensor:
    """Gather rows (B, ...) of all ranks in order, (sum of B, ...), with gradient; B may differ by rank.

    ``counts``: the `rows_per_rank`, if known. Without a process group the rows are returned unchanged.
    """
    if world_size() == 1:
        return rows
    return _GatherRows.apply(rows, rows_per_rank(len(rows), rows.device) if counts is None else counts)


class _GatherRows(torch.autograd.Function):
    """Uses the stable collectives: the differentiable ones of torch are renamed from release to release."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])  # all_gather needs equal shapes on all ranks
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # every rank's loss depends on every row
        start = local_offset(ctx.counts)
        return total[start : start + ctx.counts[dist.get_rank()]], None
