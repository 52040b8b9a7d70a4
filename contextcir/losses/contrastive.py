"""The contrastive loss, over the rows of all ranks."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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

    ``rows``: logits are computed for so many queries and targets at a time, and again in backward; at most rows x 3N of
    them exist, N the rows of all ranks. None computes and keeps those of all rows of this rank.
    """

    def __init__(self, temperature: float = 0.07, rows: int | None = None) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"the temperature must be positive, got {temperature} (--model.contrastive.temperature)")
        if rows is not None and rows < 1:
            raise ValueError(f"rows must be at least 1, or null, got {rows} (--model.contrastive.init_args.rows)")
        self.initial_temperature = temperature
        self.rows = rows

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
            gathered = gather_rows(sides, counts)  # (N, 3, E)
            ids = gather_rows(torch.stack([target_id, reference_id], dim=1), counts)  # (N, 2)
            queries, targets, references = gathered.unbind(1)  # each (N, E)
            images = ids.T.flatten()  # (2N,) targets, then references
            candidates = Candidates(torch.cat([targets, references]), queries, images, repeats(images), ids[:, 0])
            own = torch.arange(len(query), device=query.device) + local_offset(counts)  # (B,) columns of own rows
            rows = Rows(sides[:, 0], sides[:, 1], target_id, own)
            if self.rows is None or self.rows >= len(query):
                loss = sum_of_rows(rows, candidates, self.temperature)
            else:
                temperature = torch.as_tensor(self.temperature, dtype=precise, device=query.device)
                loss = _SumInBlocks.apply(self.rows, temperature, *rows, *candidates)
            return loss / 2 * len(counts) / sum(counts)


class Rows(NamedTuple):
    """Rows that choose: ``query`` and ``target`` (R, E), ``target_id`` (R,), and ``own`` (R,) columns of themselves."""

    query: Tensor
    target: Tensor
    target_id: Tensor
    own: Tensor


class Candidates(NamedTuple):
    """What queries and targets choose among: ``images`` (2N, E), targets, then references, and ``queries`` (N, E).

    ``image_id`` (2N,) and ``target_id`` (N,): ids of the images, and of the queries' targets. ``repeated`` (2N,):
    images that are there before.
    """

    images: Tensor
    queries: Tensor
    image_id: Tensor
    repeated: Tensor
    target_id: Tensor


def sum_of_rows(rows: Rows, candidates: Candidates, temperature: float | Tensor) -> Tensor:
    """Sum of both cross-entropies over R rows."""
    to_targets = rows.query @ candidates.images.T / temperature  # (R, 2N)
    to_queries = rows.target @ candidates.queries.T / temperature  # (R, N)
    uncounted = (candidates.image_id == rows.target_id[:, None]) | candidates.repeated  # (R, 2N)
    same_target = candidates.target_id == rows.target_id[:, None]  # (R, N)
    loss = F.cross_entropy(_mask(to_targets, uncounted, rows.own), rows.own, reduction="sum")
    return loss + F.cross_entropy(_mask(to_queries, same_target, rows.own), rows.own, reduction="sum")


class _SumInBlocks(torch.autograd.Function):
    """`sum_of_rows`, some rows at a time, each time again in backward.

    Unlike torch's checkpoints, it lets go of the embeddings as soon as it has their gradients.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, size: int, temperature: Tensor, *given: Tensor) -> Tensor:
        ctx.size = size
        ctx.save_for_backward(temperature, *given)
        return sum(sum_of_rows(rows, candidates, temperature) for rows, candidates in _blocks(size, given))

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, *given = ctx.saved_tensors
        of_rows, totals = ([], []), []
        for rows, candidates in _blocks(ctx.size, given):
            leaves = [x.detach().requires_grad_() for x in (*rows[:2], *candidates[:2], saved)]
            query, target, images, queries, temperature = leaves
            rows, candidates = Rows(query, target, *rows[2:]), Candidates(images, queries, *candidates[2:])
            with torch.enable_grad(), torch.autocast(gradient.device.type, enabled=False):
                loss = sum_of_rows(rows, candidates, temperature)
            found = torch.autograd.grad(loss, leaves, gradient)
            for side, part in zip(of_rows, found, strict=False):
                side.append(part)
            totals = [a + b for a, b in zip(totals, found[2:], strict=True)] if totals else found[2:]
        images, queries, temperature = totals
        return None, temperature, *(torch.cat(side) for side in of_rows), None, None, images, queries, None, None, None


def _blocks(size: int, given: Sequence[Tensor]) -> Iterator[tuple[Rows, Candidates]]:
    """Rows, so many at a time, with all candidates; ``given``: the tensors of both."""
    rows, candidates = given[:4], Candidates(*given[4:])
    for block in zip(*(side.split(size) for side in rows), strict=True):
        yield Rows(*block), candidates


class LearnedTemperatureInfoNCE(InfoNCE):
    """The same with a temperature that is learned, from 0.01 upwards."""

    LOWEST = 0.01

    def __init__(self, temperature: float = 0.07, rows: int | None = None) -> None:
        super().__init__(temperature, rows)
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
