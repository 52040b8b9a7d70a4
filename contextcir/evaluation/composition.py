"""Embeddings of an evaluation, gathered over all ranks, and the figures of a `Protocol` from them."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from contextcir.batch import first_of_each
from contextcir.evaluation.protocol import Protocol, averaging_groups
from contextcir.evaluation.ranking import score_chunks
from contextcir.evaluation.scoring import Answers, Scored, known_answers, score_queries

GALLERY, COMPOSED = "gallery", "composed"
CHUNK = 8192  # embeddings that are copied at a time


class Coverage(NamedTuple):
    """How many different queries and gallery images the last `compute` saw, over all ranks."""

    queries: int
    gallery: int


class EvaluationEmbeddings(Metric):
    """Embeddings of a protocol's gallery, and of its queries in one or more rows, collected over all ranks.

    A row is one way to embed the queries: the ``composed`` one, or a baseline that ranks the same gallery. Every rank
    adds the embeddings that it has made, with their positions in the protocol. Embeddings that arrive twice (padded
    samplers repeat samples) count once, in any order of arrival.

    Args:
        protocol: whose queries and gallery these are.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, protocol: Protocol, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.protocol = protocol
        self.rows: list[str] = []
        self._add_side(GALLERY)
        self.add_row(COMPOSED)

    def add_row(self, row: str) -> None:
        """Add a row, on all ranks and before any queries of it; an existing row stays as it is.

        Raises:
            ValueError: for the name ``gallery``.
        """
        if row == GALLERY:
            raise ValueError(f"a row of queries can't be called {row!r}")
        if row not in self.rows:
            self.rows.append(row)
            self._add_side(row)

    def update_gallery(self, index: Tensor, embeddings: Tensor) -> None:
        """Add gallery images: positions ``index`` (B,) in the protocol's gallery, ``embeddings`` (B, E)."""
        self.update(GALLERY, index, embeddings)

    def update_queries(self, index: Tensor, embeddings: Tensor, row: str = COMPOSED) -> None:
        """Add queries: positions ``index`` (B,) among the protocol's `record_queries`, ``embeddings`` (B, E)."""
        self.update(row, index, embeddings)

    def update(self, side: str, index: Tensor, embeddings: Tensor) -> None:
        """Add embeddings (B, E), normalised or not, to the gallery or to a row of queries.

        Raises:
            ValueError: if the shapes do not fit.
        """
        if embeddings.ndim != 2 or index.shape != embeddings.shape[:1]:
            raise ValueError(
                f"{side}: expected index (B,) and embeddings (B, E), "
                f"got {tuple(index.shape)} and {tuple(embeddings.shape)}"
            )
        getattr(self, f"{side}_index").append(index.detach())
        getattr(self, f"{side}_embedding").append(embeddings.detach())

    def gallery(self) -> tuple[Tensor, Tensor]:
        """Return one embedding (G, E) of each gallery image that was added, and their positions (G,), rising.

        Raises:
            ValueError: if a position is outside the protocol's gallery.
        """
        return self._distinct(GALLERY, len(self.protocol.gallery))

    def queries(self, row: str = COMPOSED) -> tuple[Tensor, Tensor]:
        """Return one embedding (N, E) of each query all of whose records were added, and their positions (N,), rising.

        Raises:
            ValueError: if a position is outside the protocol's queries.
        """
        of_records = torch.tensor(self.protocol.record_queries(), device=self.device)  # (R,)
        count = len(self.protocol.query_ids)
        embeddings, index = self._distinct(row, len(of_records))
        if len(of_records) == count:
            return embeddings, index
        expected = of_records.bincount(minlength=count)  # (Q,)
        query = of_records[index]  # of each embedding
        seen = query.bincount(minlength=count)
        complete = (seen == expected).nonzero().flatten()  # (N,)
        mean = torch.zeros(len(complete), embeddings.shape[1], device=embeddings.device)
        # Records of a query in their order: the first of each, then the second, ...
        order = query.argsort(stable=True)
        start = (seen.cumsum(0) - seen)[complete]  # (N,)
        for number in range(int(expected.max())):
            rows = (expected[complete] > number).nonzero().flatten()
            chosen = order[start[rows] + number]
            share = expected[complete[rows], None]
            mean[rows] += functional.normalize(embeddings[chosen].float(), dim=-1) / share
        return mean, complete

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable[[], bool] | None = None,
    ) -> None:
        """Gather the states of all ranks, also where nothing was added on a rank.

        Such a rank must send empty tensors of the right width and type, or the collective hangs or fails.
        """
        available = distributed_available or self.distributed_available_fn
        if should_sync and not self._is_synced and callable(available) and available():
            group = process_group or self.process_group
            sides = (GALLERY, *self.rows)
            added = {side: getattr(self, f"{side}_embedding")[:1] for side in sides}
            kinds = {side: (first[0].shape[1], first[0].dtype) for side, first in added.items() if first}
            of_ranks: list[Any] = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(of_ranks, kinds, group=group)
            for side in sides:
                known = next((kinds[side] for kinds in of_ranks if side in kinds), None)
                if known is not None and not added[side]:
                    width, dtype = known
                    getattr(self, f"{side}_embedding").append(torch.empty(0, width, dtype=dtype, device=self.device))
                    getattr(self, f"{side}_index").append(torch.empty(0, dtype=torch.int64, device=self.device))
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def _add_side(self, side: str) -> None:
        self.add_state(f"{side}_index", default=[], dist_reduce_fx="cat")
        self.add_state(f"{side}_embedding", default=[], dist_reduce_fx="cat")

    def _distinct(self, side: str, size: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings (N, E) of one side, one per position in rising order, and these positions (N,)."""
        # A list before the ranks are joined, one tensor after.
        index, embeddings = getattr(self, f"{side}_index"), getattr(self, f"{side}_embedding")
        if not len(index):
            return torch.empty(0, 0, device=self.device), torch.empty(0, dtype=torch.int64, device=self.device)
        index, pieces = dim_zero_cat(index), [embeddings] if isinstance(embeddings, Tensor) else embeddings
        unique, _, first = first_of_each(index)
        if not 0 <= int(unique[0]) <= int(unique[-1]) < size:
            outside = int(unique[0]) if unique[0] < 0 else int(unique[-1])
            what = GALLERY if side == GALLERY else "queries"
            name = f"{self.protocol.benchmark} {self.protocol.split}"
            raise ValueError(f"{name}: {what} index {outside} is outside the protocol's {size}")
        # Straight from the pieces, some rows at a time: joining them first would be one more copy of a large gallery.
        dtype = reduce(torch.promote_types, (piece.dtype for piece in pieces))
        kept = pieces[0].new_empty(len(unique), pieces[0].shape[1], dtype=dtype)
        start = 0
        for part in (part for piece in pieces for part in piece.split(CHUNK)):
            rows = ((first >= start) & (first < start + len(part))).nonzero().flatten()
            kept[rows] = part[first[rows] - start].to(dtype)
            start += len(part)
        return kept, unique


class CompositionMetric(EvaluationEmbeddings):
    """Score all rows of queries against one gallery by the rules of a `Protocol`.

    A target that was never added has rank infinity, and a query counts as seen once all of its views were added:
    `coverage` tells whether the evaluation was a full one.

    Beyond the embeddings that were added, `compute` takes the memory of one copy of the gallery and of one row in
    their own precision, and of part of the score matrix (128 MB).
    """

    def __init__(self, protocol: Protocol, **kwargs: Any) -> None:
        super().__init__(protocol, **kwargs)
        self._coverage: dict[str, Coverage] = {}
        self._scored: dict[str, tuple[Tensor, Scored]] = {}
        self._nearest = 0

    def keep_nearest(self, count: int) -> None:
        """Let `compute` also find at least so many of the nearest images of every query (`Scored.nearest`)."""
        self._nearest = max(self._nearest, count)

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """Return by row every metric of the protocol in percent, by name without split prefix, then by stratum.

        The mean of each is over the queries seen; a stratum with none of its queries seen is left out. A row is ``{}``
        if the labels are hidden or nothing was added. The gallery is gathered once, whatever the number of rows.
        """
        gallery, gallery_index = self.gallery()
        figures: dict[str, dict[str, Tensor]] = {}
        known: tuple[Tensor, Answers] | None = None
        for row in self.rows:
            queries, query_index = self.queries(row)
            self._coverage[row] = Coverage(len(query_index), len(gallery_index))
            figures[row] = {}
            if self.protocol.labelled and len(query_index) and len(gallery_index):
                if known is None or not torch.equal(known[0], query_index):
                    known = query_index, known_answers(self.protocol, query_index, gallery_index)
                scored = score_queries(self.protocol, known[1], score_chunks(queries, gallery), self._nearest)
                if scored.nearest is not None:
                    places = torch.cat([gallery_index, gallery_index.new_tensor([-1])])  # the last is for "none"
                    scored = scored._replace(nearest=scored.nearest._replace(images=places[scored.nearest.images]))
                self._scored[row] = query_index, scored
                figures[row] = self._means(scored.values, query_index)
        return figures

    def figures(self, row: str = COMPOSED) -> dict[str, Tensor]:
        """Return the figures of one row, as of `compute`."""
        return self.compute()[row]

    def coverage(self, row: str = COMPOSED) -> Coverage:
        """Return the numbers of different queries of a row and gallery images behind the last `compute`."""
        return self._coverage.get(row, Coverage(0, 0))

    def scored(self, row: str = COMPOSED) -> tuple[Tensor, Scored] | None:
        """Return the queries (N,) behind the last `compute` and their values and ranks; None if it gave no figures."""
        return self._scored.get(row)

    def gains(self) -> dict[str, dict[str, float]]:
        """Return the nDCG of every row behind the last `compute`, in percent: by stratum, "" for all queries.

        Of the whole gallery, or of the queries' own subsets where only these are ranked; {} without figures.
        """
        gains: dict[str, dict[str, float]] = {}
        for row, (query_index, scored) in self._scored.items():
            if scored.ndcg is not None:
                gains.setdefault("", {})[row] = 100 * scored.ndcg.mean().item()
                for stratum, members in self.protocol.strata.items():
                    chosen = torch.isin(query_index, torch.tensor(members, device=query_index.device))
                    if chosen.any():
                        gains.setdefault(stratum, {})[row] = 100 * scored.ndcg[chosen].mean().item()
        return gains

    def reset(self) -> None:
        """Remove all embeddings; the rows stay."""
        super().reset()
        self._coverage, self._scored = {}, {}

    def _means(self, values: Mapping[str, Tensor], query_index: Tensor) -> dict[str, Tensor]:
        """Return means over all queries and over each stratum, in percent, of values (N,) by metric."""
        figures = self._over(values, query_index)
        for stratum, members in self.protocol.strata.items():
            chosen = torch.isin(query_index, torch.tensor(members, device=query_index.device))
            if chosen.any():
                part = {name: of_queries[chosen] for name, of_queries in values.items()}
                means = self._over(part, query_index[chosen])
                figures |= {f"{name}_{stratum}": mean for name, mean in means.items()}
        return figures

    def _over(self, values: Mapping[str, Tensor], query_index: Tensor) -> dict[str, Tensor]:
        """Return the figures, in percent, of values (N,) by metric of the queries at ``query_index`` (N,)."""
        known = self.protocol.query_groups
        groups = None if known is None else [known[query] for query in query_index.tolist()]
        return {
            metric.name: 100 * torch.as_tensor(metric.over(values[metric.name], groups), device=query_index.device)
            for metric in self.protocol.metrics
        }


def average_figures(
    protocols: Sequence[Protocol], figures: Sequence[Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Return the plain mean of the figures of protocols that are ``averaged_as`` one word, by this word.

    ``figures``: of each protocol, by name; figures of strata are not averaged. A word is left out if one of its
    protocols has no figures.
    """
    averages = {}
    for word, members in averaging_groups(protocols).items():
        if all(figures[member] for member in members):
            names = protocols[members[0]].metric_names()
            averages[word] = {name: torch.stack([figures[member][name] for member in members]).mean() for name in names}
    return averages
