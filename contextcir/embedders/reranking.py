"""A second stage: the first n images of a row are scored pair by pair, and ordered anew; the others stay behind."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from contextcir.checks import one_of, whole
from contextcir.embedders.reranker import Reranker
from contextcir.errors import InputError
from contextcir.evaluation.composition import COMPOSED, CompositionMetric
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.ranking import OUT, score_chunks, top_columns
from contextcir.evaluation.scoring import known_answers, score_queries

RERANKED = "reranked"
ROWS = (COMPOSED, "image_only", "text_only", "sum")
PairScores = Callable[[int, Sequence[int]], Tensor]  # of a query, and images of the gallery


class Reranking:
    """Which images are ordered anew, and by whom.

    Args:
        reranker: scores pairs of a query and an image.
        first: how many images of every query.
        row: of the table that they are taken from.

    Raises:
        InputError: if ``first`` is less than 2, or there is no such row.
    """

    def __init__(self, reranker: Reranker, first: int = 20, row: str = COMPOSED) -> None:
        self.reranker = reranker
        self.first = whole(first, 2, "reranking.first", 1000)
        self.row = one_of(row, ROWS, "reranking.row")

    def describe(self) -> dict[str, object]:
        """Return everything that decides the reranked row, as plain JSON."""
        return {"first": self.first, "row": self.row, **self.reranker.describe()}


class RerankedMetric(CompositionMetric):
    """`CompositionMetric` with one more row, ``reranked``.

    In the scores of the row that it is taken from, the first n images get values above all others, in the order that
    the reranker gives; pairs that it scores alike keep their order. So every metric of the protocol is computed as for
    any other row; images below the first n keep their scores.

    Args:
        protocol: whose queries and gallery these are.
        reranking: see there.
        pairs: scores of a query (its position) and images (their positions).
    """

    def __init__(self, protocol: Protocol, reranking: Reranking, pairs: PairScores) -> None:
        super().__init__(protocol)
        self.reranking, self.pairs = reranking, pairs
        self.add_row(RERANKED)

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """Return the figures of all rows."""
        figures = super().compute()
        if not figures.get(self.reranking.row):
            if figures[COMPOSED]:
                problem = f"there is no row {self.reranking.row} with this embedder"
                raise InputError(problem, setting="reranking.row")
            return figures
        gallery, gallery_index = self.gallery()
        queries, query_index = self.queries(self.reranking.row)
        answers = known_answers(self.protocol, query_index, gallery_index)
        reordered = Reordered(self.protocol, self.reranking, self.pairs)
        chunks = reordered.chunks(queries, gallery, query_index, gallery_index)
        scored = score_queries(self.protocol, answers, chunks, self._nearest)
        if scored.nearest is not None:
            places = torch.cat([gallery_index, gallery_index.new_tensor([-1])])  # the last is for "none"
            scored = scored._replace(nearest=scored.nearest._replace(images=places[scored.nearest.images]))
        self._scored[RERANKED] = query_index, scored
        self._coverage[RERANKED] = self._coverage[self.reranking.row]
        figures[RERANKED] = self._means(scored.values, query_index)
        return figures


class Reordered:
    """Scores in which the first images of every query have values above all others, as a reranker orders them.

    Args:
        protocol: of queries and gallery.
        reranking: how many, and by whom.
        pairs: scores of a query (its position) and images (their positions).
    """

    def __init__(self, protocol: Protocol, reranking: Reranking, pairs: PairScores) -> None:
        self.protocol, self.reranking, self.pairs = protocol, reranking, pairs

    def chunks(
        self, queries: Tensor, gallery: Tensor, query_index: Tensor | None = None, gallery_index: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield parts of the score matrix as `score_chunks` does.

        ``query_index`` (N,), ``gallery_index`` (G,): positions of the embeddings in the protocol; None for all of them.
        """
        of_queries = torch.arange(len(queries)) if query_index is None else query_index
        places = torch.arange(len(gallery), device=gallery.device) if gallery_index is None else gallery_index
        column = torch.full((len(self.protocol.gallery),), -1, device=places.device)
        column[places] = torch.arange(len(places), device=places.device)
        for rows, scores in score_chunks(queries, gallery):
            for line, query in enumerate(of_queries[rows].tolist()):
                self._reorder(scores[line], query, places, column)
            yield rows, scores

    def _reorder(self, own: Tensor, query: int, places: Tensor, column: Tensor) -> None:
        allowed, reference = own.nan_to_num(nan=OUT), self.protocol.references[query]
        if self.protocol.exclude_reference and reference >= 0 and column[reference] >= 0:
            allowed[column[reference]] = OUT
        first = top_columns(allowed[None], min(self.reranking.first, len(own)))[0]  # (n,)
        first = first[allowed[first] != OUT]
        if not len(first):
            return
        pairs = self.pairs(query, places[first].tolist()).to(first.device, torch.float64)
        order = pairs.argsort(descending=True, stable=True)
        own[first[order]] = allowed.max() + torch.arange(len(first), 0, -1, device=own.device, dtype=own.dtype)
