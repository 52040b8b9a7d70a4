"""The contrastive loss, over the rows of all ranks."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rows_per_rank(count: int, device: torch.device) -> list[int]:
    """How many rows every rank has, given that this one has `count`."""
    if world_size() == 1:
        return [count]
    counts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([count], device=device))
    return torch.cat(counts).tolist()


def local_offset(counts: list[int]) -> int:
    """Where this rank's rows begin among the gathered ones, given the `rows_per_rank`."""
    return sum(counts[: dist.get_rank()]) if len(counts) > 1 else 0


def gather_rows(rows: Tensor, counts: list[int] | None = None) -> Tensor:
    """Rows (B, ...) of this rank -> rows of all ranks in order, (sum of B, ...), with gradient; B may differ by rank.

    ``counts``: the `rows_per_rank`, for callers that know them. Without a process group it returns what it is given.
    """
    if world_size() == 1:
        return rows
    return _GatherRows.apply(rows, rows_per_rank(len(rows), rows.device) if counts is None else counts)


class _GatherRows(torch.autograd.Function):
    """Written with the stable collectives: the differentiable ones of torch are renamed from release to release."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])  # collectives want equal shapes on all ranks
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # every rank's loss depends on every row
        start = local_offset(ctx.counts)
        return total[start : start + ctx.counts[dist.get_rank()]], None


class InfoNCE(nn.Module):
    """Symmetric contrastive loss with the reference images as additional negatives (paper section 1.3).

    Each query is to choose its target among all targets and, in the denominator only, all reference images; each target
    is to choose its query among all queries. Unlike in the published loss, an image counts once however often it occurs
    in the batch, and never as a negative of itself. With several ranks, candidates are those of all ranks, and the mean
    over ranks that distributed training takes of the gradients is the gradient of the joint batch.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"the temperature must be positive, got {temperature} (--model.contrastive.temperature)")
        self.initial_temperature = temperature

    @property
    def temperature(self) -> float | Tensor:
        """What similarities are divided by."""
        return self.initial_temperature

    def forward(
        self, query: Tensor, target: Tensor, reference: Tensor, target_id: Tensor, reference_id: Tensor
    ) -> Tensor:
        """Embeddings (B, E), of any length, and image ids (B,) -> the loss, a scalar."""
        # In low precision, similarities divided by the temperature would be off by several hundredths.
        with torch.autocast(query.device.type, enabled=False):
            precise = torch.promote_types(query.dtype, torch.float32)
            sides = torch.stack([F.normalize(side.to(precise), dim=-1) for side in (query, target, reference)], dim=1)
            counts = rows_per_rank(len(query), query.device)
            queries, targets, references = gather_rows(sides, counts).unbind(1)  # each (N, E)
            ids = gather_rows(torch.stack([target_id, reference_id], dim=1), counts)  # (N, 2)
            own = torch.arange(len(query), device=query.device) + local_offset(counts)  # (B,) columns of own rows

            candidates = torch.cat([targets, references])  # (2N, E)
            to_targets = sides[:, 0] @ candidates.T / self.temperature  # (B, 2N)
            to_queries = sides[:, 1] @ queries.T / self.temperature  # (B, N)

            images = ids.T.flatten()  # (2N,) targets, then references
            uncounted = (images == target_id[:, None]) | repeats(images)  # (B, 2N)
            same_target = ids[:, 0] == target_id[:, None]  # (B, N)
            loss = F.cross_entropy(_mask(to_targets, uncounted, own), own, reduction="sum")
            loss = loss + F.cross_entropy(_mask(to_queries, same_target, own), own, reduction="sum")
            return loss / 2 * len(counts) / sum(counts)


class LearnedTemperatureInfoNCE(InfoNCE):
    """The same with a temperature that is learned, from 0.01 upwards."""

    LOWEST = 0.01

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__(temperature)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def temperature(self) -> Tensor:
        """What similarities are divided by."""
        # The stored value is clamped, not the one computed from it: that would have no gradient to come back with.
        with torch.no_grad():
            self.log_temperature.clamp_(min=math.log(self.LOWEST))
        return self.log_temperature.exp()


def repeats(ids: Tensor) -> Tensor:
    """Mask (N,) of the ids (N,) that occur earlier in the list."""
    _, which = ids.unique(return_inverse=True)  # (N,) index of the distinct id
    position = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(position, len(ids)).scatter_reduce(0, which, position, "amin")  # of each distinct id
    return first[which] != position


def _mask(logits: Tensor, excluded: Tensor, own: Tensor) -> Tensor:
    """Logits (B, N) without the excluded columns (B, N), the row's own column (B,) excepted."""
    return logits.masked_fill(excluded.scatter(1, own[:, None], False), float("-inf"))
