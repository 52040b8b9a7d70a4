"""One torchmetrics.Metric that turns embeddings and a `Protocol` into the benchmark's figures."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from contextcir.protocol import Protocol
from contextcir.ranking import (
    average_precision_at,
    pad_rows,
    recall_at,
    score_chunks,
    subset_ranks,
    target_ranks,
    without,
)

Side = Literal["gallery", "queries"]


class Coverage(NamedTuple):
    """How many different queries and gallery images the last `compute` saw, over all ranks."""

    queries: int
    gallery: int


class CompositionMetric(Metric):
    """Score composed queries against a gallery by the rules of a `Protocol`.

    Every rank feeds the embeddings that it has made, with their positions in the protocol; what arrives twice (padded
    samplers repeat samples) counts once, in whatever order it arrives. A target that was never fed has rank infinity:
    `coverage` tells whether the evaluation was a full one.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, protocol: Protocol, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.protocol = protocol
        for side in ("gallery", "queries"):
            self.add_state(f"{side}_index", default=[], dist_reduce_fx="cat")
            self.add_state(f"{side}_embedding", default=[], dist_reduce_fx="cat")
        self._coverage = Coverage(0, 0)

    def update_gallery(self, index: Tensor, embeddings: Tensor) -> None:
        """Add gallery images: positions ``index`` (B,) in the protocol's gallery, ``embeddings`` (B, E)."""
        self.update("gallery", index, embeddings)

    def update_queries(self, index: Tensor, embeddings: Tensor) -> None:
        """Add queries: positions ``index`` (B,) in the protocol, ``embeddings`` (B, E)."""
        self.update("queries", index, embeddings)

    def update(self, side: Side, index: Tensor, embeddings: Tensor) -> None:
        """Add embeddings (B, E), normalised or not, to one side: ``"gallery"`` or ``"queries"``."""
        if embeddings.ndim != 2 or index.shape != embeddings.shape[:1]:
            raise ValueError(
                f"{side}: expected index (B,) and embeddings (B, E), "
                f"got {tuple(index.shape)} and {tuple(embeddings.shape)}"
            )
        getattr(self, f"{side}_index").append(index.detach())
        getattr(self, f"{side}_embedding").append(embeddings.detach())

    def compute(self) -> dict[str, Tensor]:
        """Return every metric of the protocol in percent, by name without split prefix, then by stratum.

        The mean of each is over the queries seen; a stratum with none of its queries seen is left out. Returns ``{}``
        where the labels are hidden or where nothing was fed.
        """
        queries, query_index = self._seen("queries", len(self.protocol.query_ids))
        gallery, gallery_index = self._seen("gallery", len(self.protocol.gallery))
        self._coverage = Coverage(len(query_index), len(gallery_index))
        if not (self.protocol.labelled and len(query_index) and len(gallery_index)):
            return {}
        per_query = self._per_query(queries, query_index, gallery, gallery_index)
        figures = {name: 100 * values.mean() for name, values in per_query.items()}
        for stratum, members in self.protocol.strata.items():
            chosen = torch.isin(query_index, torch.tensor(members, device=query_index.device))
            if chosen.any():
                figures |= {f"{name}_{stratum}": 100 * values[chosen].mean() for name, values in per_query.items()}
        return figures

    def coverage(self) -> Coverage:
        """Return the numbers of different queries and gallery images behind the last `compute`."""
        return self._coverage

    def reset(self) -> None:
        """Forget everything that was fed."""
        super().reset()
        self._coverage = Coverage(0, 0)

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable[[], bool] | None = None,
    ) -> None:
        """Gather the states of all ranks, also where a rank was fed nothing.

        Such a rank must send empty tensors of the right width and type, or the collective hangs or fails.
        """
        available = distributed_available or self.distributed_available_fn
        if should_sync and not self._is_synced and callable(available) and available():
            group = process_group or self.process_group
            for side in ("gallery", "queries"):
                embeddings = getattr(self, f"{side}_embedding")
                shapes: list[Any] = [None] * torch.distributed.get_world_size(group)
                mine = (embeddings[0].shape[1], embeddings[0].dtype) if embeddings else None
                torch.distributed.all_gather_object(shapes, mine, group=group)
                if not embeddings and any(shapes):
                    width, dtype = next(shape for shape in shapes if shape)
                    embeddings.append(torch.empty(0, width, dtype=dtype, device=self.device))
                    getattr(self, f"{side}_index").append(torch.empty(0, dtype=torch.int64, device=self.device))
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def _seen(self, side: Side, size: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings (N, E) of one side, one per position in rising order, and these positions (N,)."""
        # A list before the ranks are joined, one tensor after.
        index, embeddings = getattr(self, f"{side}_index"), getattr(self, f"{side}_embedding")
        if not len(index):
            return torch.empty(0, 0, device=self.device), torch.empty(0, dtype=torch.int64, device=self.device)
        index, embeddings = dim_zero_cat(index), dim_zero_cat(embeddings)
        unique, inverse = index.unique(return_inverse=True)
        if not 0 <= int(unique[0]) <= int(unique[-1]) < size:
            outside = int(unique[0]) if unique[0] < 0 else int(unique[-1])
            name = f"{self.protocol.benchmark} {self.protocol.split}"
            raise ValueError(f"{name}: {side} index {outside} is outside the protocol's {size}")
        arrival = torch.arange(len(index), device=index.device)
        first = torch.full_like(unique, len(index)).scatter_reduce_(0, inverse, arrival, "amin")
        return embeddings[first], unique

    def _per_query(
        self, queries: Tensor, query_index: Tensor, gallery: Tensor, gallery_index: Tensor
    ) -> dict[str, Tensor]:
        """Return every metric as one value in 0..1 per query seen (N,)."""
        protocol, device = self.protocol, gallery.device
        # Column of each gallery image among those seen; the extra last entry maps "none" (-1) to itself.
        column = torch.full((len(protocol.gallery) + 1,), -1, device=device)
        column[gallery_index] = torch.arange(len(gallery_index), device=device)
        chosen = query_index.tolist()

        def columns(rows: list[tuple[int, ...]]) -> Tensor:
            return column[pad_rows(rows).to(device)]

        targets = columns([protocol.targets[query] for query in chosen])  # (N, K)
        references = columns([(protocol.references[query],) for query in chosen])  # (N, 1)
        subsets = columns([protocol.subsets[query] if protocol.subsets else () for query in chosen])  # (N, M)
        subsets = subsets.masked_fill(subsets == references, -1)
        relevant = torch.tensor([len(protocol.targets[query]) for query in chosen], device=device)

        in_gallery, in_subset = [], []
        for rows, scores in score_chunks(queries, gallery):
            if protocol.subset_recall_at:
                in_subset.append(subset_ranks(scores, targets[rows], subsets[rows]))
            if protocol.exclude_reference:
                scores = without(scores, references[rows])
            in_gallery.append(target_ranks(scores, targets[rows]))
        ranks = torch.cat(in_gallery)  # (N, K)
        values = {f"recall_at_{k}": recall_at(ranks, k) for k in protocol.recall_at}
        if protocol.subset_recall_at:
            ranks_in_subset = torch.cat(in_subset)  # (N, K)
            values |= {f"subset_recall_at_{k}": recall_at(ranks_in_subset, k) for k in protocol.subset_recall_at}
        return values | {f"map_at_{k}": average_precision_at(ranks, k, relevant) for k in protocol.average_precision_at}
