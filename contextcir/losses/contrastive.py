"""The contrastive loss, over the rows of all ranks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from contextcir.checks import between, whole
from contextcir.devices import to_device
from contextcir.losses.gathering import gather_rows, local_offset, rows_per_rank
from contextcir.losses.negatives import FurtherImages, StoredNegatives

# Cosines are at most 2 apart. Divided by less than the lower bound, a gap of 0.01 already decides all of a softmax in
# float32; divided by more than the upper one, no gap changes it by more than 2 %. Neither can be learned from.
TEMPERATURES = (1e-4, 100.0)


class TripletLoss(nn.Module, ABC):
    """A loss between composed queries and images: what ``model.contrastive`` can be.

    ``negatives``: further images for `forward`; None for none.
    """

    negatives: StoredNegatives | None = None

    @abstractmethod
    def forward(
        self,
        query: Tensor,
        target: Tensor,
        reference: Tensor,
        target_id: Tensor,
        reference_id: Tensor,
        further: FurtherImages | None = None,
        hard: FurtherImages | None = None,
    ) -> Tensor:
        """Return the loss, a scalar, of embeddings (B, E), not normalised, and image ids (B,).

        ``further`` and ``hard`` images are negatives of all queries; only the latter have gradients.
        """


class WithoutTriplets(TripletLoss):
    """No loss of composed queries: what trains is ``model.concept``."""

    def forward(
        self,
        query: Tensor,
        target: Tensor,
        reference: Tensor,
        target_id: Tensor,
        reference_id: Tensor,
        further: FurtherImages | None = None,
        hard: FurtherImages | None = None,
    ) -> Tensor:
        """Return 0."""
        return query.new_zeros((), dtype=torch.promote_types(query.dtype, torch.float32))


class InfoNCE(TripletLoss):
    """Symmetric contrastive loss with the reference images as additional negatives (paper section 1.3).

    Each query is classified among all targets and, in the denominator only, all reference images; each target is
    classified among all queries. Unlike in the published loss, an image counts once however often it occurs in the
    batch, and never as a negative of itself. Negatives are gathered from all ranks, and the loss is scaled so that
    DDP's averaged gradient equals that of one process on the joint batch. Hard negatives of the triplets, where there
    are any, are in the denominator of every query too, as the references are, and with gradients.

    Args:
        temperature: what cosines are divided by.
        rows: compute the logits of that many queries and targets at a time, and again in backward, so that at most
            rows x 3N logits exist, N the rows of all ranks. None computes and keeps those of all rows of this rank.
        negatives: adds further training images to the denominator of every query, as the references are.

    Raises:
        InputError: if the temperature is outside of `TEMPERATURES`, or ``rows`` is less than 1.
    """

    def __init__(
        self, temperature: float = 0.07, rows: int | None = None, negatives: StoredNegatives | None = None
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.initial_temperature = between(temperature, *TEMPERATURES, "model.contrastive.temperature")
        self.rows = None if rows is None else whole(rows, 1, "model.contrastive.rows")

    @property
    def temperature(self) -> float | Tensor:
        """Return the divisor of the similarities."""
        return self.initial_temperature

    def forward(
        self,
        query: Tensor,
        target: Tensor,
        reference: Tensor,
        target_id: Tensor,
        reference_id: Tensor,
        further: FurtherImages | None = None,
        hard: FurtherImages | None = None,
    ) -> Tensor:
        """Return the loss, a scalar, of embeddings (B, E), not normalised, and image ids (B,).

        ``further``: the further negatives, equal on all ranks; those that are in the batch of any rank do not count.
        ``hard``: hard negatives of the triplets of this rank, each id any number of times; either all ranks give some,
        be it none of them, or no rank does.
        """
        target_id, reference_id = (to_device(ids, query.device) for ids in (target_id, reference_id))
        # In low precision, similarities divided by the temperature would be off by several hundredths.
        with torch.autocast(query.device.type, enabled=False):
            precise = torch.promote_types(query.dtype, torch.float32)
            sides = torch.stack(
                [functional.normalize(side.to(precise), dim=-1) for side in (query, target, reference)], dim=1
            )
            counts = rows_per_rank(len(query), query.device)
            gathered = gather_rows(sides, counts)  # (N, 3, E)
            ids = gather_rows(torch.stack([target_id, reference_id], dim=1), counts)  # (N, 2)
            queries, targets, references = gathered.unbind(1)  # each (N, E)
            images = ids.T.flatten()  # (2N,) targets, then references
            embeddings = torch.cat([targets, references])  # (2N, E)
            if hard is not None:
                own = functional.normalize(hard.embedding.to(precise), dim=-1)
                hard_counts = rows_per_rank(len(own), query.device)
                if sum(hard_counts):
                    embeddings = torch.cat([embeddings, gather_rows(own, hard_counts)])  # (2N + H, E)
                    hard_id = to_device(hard.image_id, query.device)
                    images = torch.cat([images, gather_rows(hard_id, hard_counts)])
            candidates = Candidates(embeddings, queries, images, repeats(images), ids[:, 0])
            if further is not None:
                candidates = candidates.with_further(further)
            own = torch.arange(len(query), device=query.device) + local_offset(counts)  # (B,) columns of own rows
            rows = Rows(sides[:, 0], sides[:, 1], target_id, own)
            if self.rows is None or self.rows >= len(query):
                loss = sum_of_rows(rows, candidates, self.temperature)
            else:
                given = self.temperature
                temperature = given.to(precise) if isinstance(given, Tensor) else sides.new_full((), given)
                loss = _SumInBlocks.apply(self.rows, temperature, *rows, *candidates)
            return loss / 2 * len(counts) / sum(counts)


class Rows(NamedTuple):
    """Rows of logits: ``query`` and ``target`` (R, E), ``target_id`` (R,), ``own`` (R,) columns of the positives."""

    query: Tensor
    target: Tensor
    target_id: Tensor
    own: Tensor


class Candidates(NamedTuple):
    """Columns of logits: ``images`` (2N + M, E), targets, references, then M others; ``queries`` (N, E).

    ``image_id`` (2N + M,) and ``target_id`` (N,): ids of the images, and of the queries' targets. ``repeated``
    (2N + M,): images that occur in an earlier column.
    """

    images: Tensor
    queries: Tensor
    image_id: Tensor
    repeated: Tensor
    target_id: Tensor

    def with_further(self, further: FurtherImages) -> "Candidates":
        """Return these columns, and one for each of M further images."""
        added = functional.normalize(further.embedding.detach().to(self.images.dtype), dim=-1)  # (M, E)
        image_id = to_device(further.image_id, added.device)
        here = among(image_id, self.image_id)  # (M,)
        return self._replace(
            images=torch.cat([self.images, added]),
            image_id=torch.cat([self.image_id, image_id]),
            repeated=torch.cat([self.repeated, here]),
        )


def sum_of_rows(rows: Rows, candidates: Candidates, temperature: float | Tensor) -> Tensor:
    """Return the sum of both cross-entropies over R rows."""
    to_targets = rows.query @ candidates.images.T / temperature  # (R, 2N + M)
    to_queries = rows.target @ candidates.queries.T / temperature  # (R, N)
    excluded = (candidates.image_id == rows.target_id[:, None]) | candidates.repeated  # (R, 2N + M)
    same_target = candidates.target_id == rows.target_id[:, None]  # (R, N)
    loss = functional.cross_entropy(_mask(to_targets, excluded, rows.own), rows.own, reduction="sum")
    return loss + functional.cross_entropy(_mask(to_queries, same_target, rows.own), rows.own, reduction="sum")


class _SumInBlocks(torch.autograd.Function):
    """`sum_of_rows` in blocks of rows, recomputed in backward.

    Unlike torch's checkpointing, it releases the embeddings as soon as their gradients are computed.
    """

    @staticmethod
    def forward(ctx: Any, size: int, temperature: Tensor, *given: Tensor) -> Tensor:
        ctx.size = size
        ctx.save_for_backward(temperature, *given)
        blocks = (sum_of_rows(rows, candidates, temperature) for rows, candidates in _blocks(size, given))
        return sum(blocks, start=temperature.new_zeros(()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, *given = ctx.saved_tensors
        row_gradients: tuple[list[Tensor], list[Tensor]] = ([], [])  # of the queries and the targets, by block
        totals: list[Tensor] = []  # of what all blocks share
        for rows, candidates in _blocks(ctx.size, given):
            leaves = [x.detach().requires_grad_() for x in (*rows[:2], *candidates[:2], saved)]
            query, target, images, queries, temperature = leaves
            rows, candidates = Rows(query, target, *rows[2:]), Candidates(images, queries, *candidates[2:])
            with torch.enable_grad(), torch.autocast(gradient.device.type, enabled=False):
                loss = sum_of_rows(rows, candidates, temperature)
            of_query, of_target, *shared = torch.autograd.grad(loss, leaves, gradient)
            row_gradients[0].append(of_query)
            row_gradients[1].append(of_target)
            totals = [a + b for a, b in zip(totals, shared, strict=True)] if totals else shared
        images, queries, temperature = totals
        of_rows = (torch.cat(side) for side in row_gradients)
        return None, temperature, *of_rows, None, None, images, queries, None, None, None


def _blocks(size: int, given: Sequence[Tensor]) -> Iterator[tuple[Rows, Candidates]]:
    """Yield blocks of ``size`` rows with all candidates; ``given``: the tensors of both."""
    rows, candidates = given[:4], Candidates(*given[4:])
    for block in zip(*(side.split(size) for side in rows), strict=True):
        yield Rows(*block), candidates


class LearnedTemperatureInfoNCE(InfoNCE):
    """`InfoNCE` with a learned temperature of at least 0.01.

    Args:
        temperature: at the beginning.
        rows: as that of InfoNCE.
        negatives: as those of InfoNCE.

    Raises:
        InputError: if it would begin below that.
    """

    LOWEST = 0.01

    def __init__(
        self, temperature: float = 0.07, rows: int | None = None, negatives: StoredNegatives | None = None
    ) -> None:
        super().__init__(temperature, rows, negatives)
        between(temperature, self.LOWEST, TEMPERATURES[1], "model.contrastive.temperature")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def parameter_groups(self) -> dict[str, set[str]]:
        """Return the names of parameters that an optimizer may give a rate of their own, by group."""
        return {"scales": {"log_temperature"}}

    @property
    def temperature(self) -> Tensor:
        """Return the divisor of the similarities."""
        # Clamp the parameter, not its exponential: below the bound, that would have no gradient to return with.
        with torch.no_grad():
            self.log_temperature.clamp_(min=math.log(self.LOWEST))
        return self.log_temperature.exp()


def repeats(ids: Tensor) -> Tensor:
    """Return the mask (N,) of the ids (N,) that occur earlier in the list.

    Unlike by `unique`, whose result is of a size that the host does not know, no GPU is waited for.
    """
    ordered, place = ids.sort(stable=True)
    again = torch.cat([torch.zeros_like(ordered[:1], dtype=torch.bool), ordered[1:] == ordered[:-1]])
    return torch.empty_like(again).scatter(0, place, again)


def among(ids: Tensor, others: Tensor) -> Tensor:
    """Return the mask (M,) of the ids (M,) that are among others (N,), N > 0, without waiting for a GPU."""
    ordered = others.sort().values
    place = torch.searchsorted(ordered, ids).clamp(max=len(ordered) - 1)
    return ordered[place] == ids


def _mask(logits: Tensor, excluded: Tensor, own: Tensor) -> Tensor:
    """Mask the excluded columns (B, N) of logits (B, N), except for the row's own column (B,)."""
    return logits.masked_fill(excluded.scatter(1, own[:, None], False), float("-inf"))
