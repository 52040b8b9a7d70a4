"""One torchmetrics.Metric that turns embeddings and a `Protocol` into the benchmark's figures."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from contextcir.evaluation.protocol import Protocol, averaging_groups
from contextcir.evaluation.ranking import score_chunks
from contextcir.evaluation.scoring import known_answers, score_queries

Side = Literal["gallery", "queries"]
ROWS = 8192  # embeddings that are copied at a time


class Coverage(NamedTuple):
    """How many different queries and gallery images the last `compute` saw, over all ranks."""

    queries: int
    gallery: int


class CompositionMetric(Metric):
    """Score composed queries against a gallery by the rules of a `Protocol`.

    Every rank feeds the embeddings that it has made, with their positions in the protocol; what arrives twice (padded
    samplers repeat samples) counts once, in whatever order it arrives. A target that was never fed has rank infinity,
    and a query is seen once all of its views are: `coverage` tells whether the evaluation was a full one.

    Beyond the embeddings that were fed, `compute` takes the memory of one copy of them in their own precision, and of
    part of the score matrix (128 MB).
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
        """Add queries: positions ``index`` (B,) in the protocol (see its ``query_views``), ``embeddings`` (B, E)."""
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
        queries, query_index = self._mean_of_views()
        gallery, gallery_index = self._seen("gallery", len(self.protocol.gallery))
        self._coverage = Coverage(len(query_index), len(gallery_index))
        if not (self.protocol.labelled and len(query_index) and len(gallery_index)):
            return {}
        answers = known_answers(self.protocol, query_index, gallery_index)
        per_query = score_queries(self.protocol, answers, score_chunks(queries, gallery))
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
        index, pieces = dim_zero_cat(index), [embeddings] if isinstance(embeddings, Tensor) else embeddings
        unique, inverse = index.unique(return_inverse=True)
        if not 0 <= int(unique[0]) <= int(unique[-1]) < size:
            outside = int(unique[0]) if unique[0] < 0 else int(unique[-1])
            name = f"{self.protocol.benchmark} {self.protocol.split}"
            raise ValueError(f"{name}: {side} index {outside} is outside the protocol's {size}")
        arrival = torch.arange(len(index), device=index.device)
        first = torch.full_like(unique, len(index)).scatter_reduce_(0, inverse, arrival, "amin")
        # Straight from the pieces, some rows at a time: joining them first would be one more copy of a large gallery.
        dtype = reduce(torch.promote_types, (piece.dtype for piece in pieces))
        kept = pieces[0].new_empty(len(unique), pieces[0].shape[1], dtype=dtype)
        start = 0
        for part in (part for piece in pieces for part in piece.split(ROWS)):
            rows = ((first >= start) & (first < start + len(part))).nonzero().flatten()
            kept[rows] = part[first[rows] - start].to(dtype)
            start += len(part)
        return kept, unique

    def _mean_of_views(self) -> tuple[Tensor, Tensor]:
        """Return one embedding (N, E) of each query whose views have all been fed, and their positions (N,)."""
        queries, views = len(self.protocol.query_ids), self.protocol.query_views
        embeddings, index = self._seen("queries", views * queries)
        if views == 1:
            return embeddings, index
        found, times = (index % queries).unique(return_counts=True)
        complete = found[times == views]
        mean = torch.zeros(len(complete), embeddings.shape[1], device=embeddings.device)
        for view in range(views):
            rows = torch.searchsorted(index, complete + view * queries)
            mean += functional.normalize(embeddings[rows].float(), dim=-1) / views
        return mean, complete


def average_figures(
    protocols: Sequence[Protocol], figures: Sequence[Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Return the plain mean of the figures of protocols that are ``averaged_as`` one word, by this word.

    ``figures``: of each protocol, by name; of groups of queries there are no means. A word is left out if one of its
    protocols has no figures.
    """
    averages = {}
    for word, members in averaging_groups(protocols).items():
        if all(figures[member] for member in members):
            names = protocols[members[0]].metric_names()
            averages[word] = {name: torch.stack([figures[member][name] for member in members]).mean() for name in names}
    return averages
