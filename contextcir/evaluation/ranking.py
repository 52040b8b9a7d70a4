"""Scores, and the ranks of the right answers by them: plain functions on tensors.

Ranks start at 1. A tie never favours the target: whatever scores as much as a target and is not one itself is ranked
before it, so that constant scores give no hits. NaN (a diverged model) counts as the worst case on both sides.
Excluded candidates have the score ``-inf``. A missing target has rank infinity.
Letters: Q queries, G gallery, K targets per query (rows padded with -1), M members of a subset (padded with -1).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OUT = -math.inf
PIECE = 1024  # gallery images that are converted to float32 at a time
TILE = 16  # sides of matrix products are multiples of this


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return ragged rows of indices as one (len(rows), longest) int64 tensor, padded with -1."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *(-1,) * (width - len(row))] for row in rows], dtype=torch.int64).view(len(rows), width)


def pad_values(rows: Sequence[Sequence[float]]) -> Tensor:
    """Return ragged rows of numbers as one (len(rows), longest) float32 tensor, padded with 0."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *(0.0,) * (width - len(row))] for row in rows]).view(len(rows), width)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 matrix products in full precision for a while, even if TF32 or bfloat16 products are allowed."""
    mkldnn: Any = torch.backends.mkldnn  # its attributes are set at run time
    backends = (torch.backends.cuda.matmul, mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@torch.no_grad()
def cosine_scores(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return the cosine (Q, G) in float32 of queries (Q, E) and gallery images (G, E), in any dtype and of any length.

    The gallery is converted and normalised `PIECE` images at a time: features in half precision are never held in
    float32 as a whole, and a piece is normalised while it is in the processor's cache. Equal images get equal scores
    to the last bit at any position: all products have sides of multiples of `TILE`, because a matrix product computes
    an incomplete tile at its border by another kernel.
    """
    rows, columns = len(queries), len(gallery)
    queries = F.pad(F.normalize(queries.float(), dim=-1), (0, 0, 0, -rows % TILE))  # (Q + padding, E)
    scores = queries.new_empty(len(queries), columns + -columns % TILE)
    for start in range(0, columns, PIECE):
        piece = F.normalize(gallery[start : start + PIECE].float(), dim=-1)
        piece = F.pad(piece, (0, 0, 0, -len(piece) % TILE))  # (G' + padding, E)
        with full_precision():  # autocast does not change a product with ``out``
            torch.mm(queries, piece.T, out=scores[:, start : start + len(piece)])
    return scores[:rows, :columns]


def score_chunks(queries: Tensor, gallery: Tensor, elements: int = 2**25) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of the cosine score matrix, at most about ``elements`` scores at a time (2^25 are 128 MB).

    ``queries`` (Q, E) and ``gallery`` (G, E) as in `cosine_scores`. Yields a slice of query rows and their scores
    (rows, G), which the caller may change in place.
    """
    chunks = min(len(queries), math.ceil(len(queries) * max(len(gallery), 1) / elements))
    start = 0
    for piece in queries.tensor_split(chunks) if chunks else ():
        yield slice(start, start + len(piece)), cosine_scores(piece, gallery)
        start += len(piece)


def pick(scores: Tensor, columns: Tensor) -> Tensor:
    """Return ``scores`` (Q, G) at ``columns`` (Q, M), -inf where the column is -1."""
    return scores.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, OUT)


def without(scores: Tensor, columns: Tensor) -> Tensor:
    """Return a copy of ``scores`` (Q, G) with -inf at ``columns`` (Q, M); -1 stands for no column."""
    rows, places = (columns >= 0).nonzero(as_tuple=True)
    scores = scores.clone()
    scores[rows, columns[rows, places]] = OUT
    return scores


def count_ahead(scores: Tensor, own: Tensor, elements: int = 2**18) -> Tensor:
    """Return how many of ``scores`` (Q, N) are not below each value of ``own`` (Q, K) in the same row, as (Q, K) int64.

    NaN among the scores is ahead of everything. A few rows are processed at a time, so that they stay in the
    processor's cache over the K comparisons: ten times faster at N = 125,000.
    """
    rows = max(1, elements // max(1, scores.shape[1]))
    pieces = zip(scores.split(rows), own.split(rows), strict=True)
    counts = [torch.stack([(part < at[:, None]).sum(1) for at in values.unbind(1)], 1) for part, values in pieces]
    return scores.shape[1] - torch.cat(counts)


def ranks_among(own: Tensor, ahead: Tensor) -> Tensor:
    """Return ranks (Q, K) of targets scored ``own`` (Q, K) that have ``ahead`` (Q, K) non-targets before them.

    Targets of equal score are ranked in the order of their columns.
    """
    order = own.nan_to_num(nan=OUT).argsort(dim=1, descending=True, stable=True)  # (Q, K)
    place = torch.arange(1, own.shape[1] + 1, device=own.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, place).add_(ahead)  # (Q, K)
    return ranks.float().masked_fill(own.isnan() | (own == OUT), math.inf)


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the rank (Q, K) in the gallery of every target; infinity where it is missing (-1) or excluded.

    ``scores`` (Q, G), with -inf for excluded images. ``targets`` (Q, K) columns, -1 for none, no repeats, K >= 1.
    """
    own = pick(scores, targets)  # (Q, K)
    return ranks_among(own, count_ahead(scores, own) - count_ahead(own, own))


def worst_ranks(scores: Tensor, images: Tensor, elements: int = 2**18) -> Tensor:
    """Return the rank (Q, W) of wrong answers, each before whatever else scores as much; infinity for none.

    Wrong answers of equal score are ranked in the order of their columns. One whose score is NaN comes first.
    ``scores`` (Q, G), with -inf for excluded images. ``images`` (Q, W) columns, -1 for none, no repeats.
    """
    own = pick(scores, images)  # (Q, W)
    known = own != OUT
    high = own.nan_to_num(nan=math.inf, posinf=math.inf, neginf=OUT)
    rows = max(1, elements // max(1, scores.shape[1]))
    pieces = zip(scores.split(rows), high.split(rows), strict=True)
    ahead = torch.cat([torch.stack([(part > at[:, None]).sum(1) for at in own.unbind(1)], 1) for part, own in pieces])
    same = (high[:, :, None] == high[:, None, :]) & known[:, None, :]  # (Q, W, W)
    return (ahead + same.cumsum(2).diagonal(0, 1, 2)).float().masked_fill(~known, math.inf)


def subset_ranks(scores: Tensor, targets: Tensor, subsets: Tensor) -> Tensor:
    """Return the rank (Q, K) of every target among its query's own candidates.

    ``scores`` (Q, G), with -inf for excluded images. ``targets`` (Q, K), K >= 1, compete whether or not they are listed
    in ``subsets`` (Q, M); -1 stands for none in both.
    """
    own = pick(scores, targets)  # (Q, K)
    listed = (subsets[:, :, None] == targets[:, None, :]).any(2)  # (Q, M)
    return ranks_among(own, count_ahead(pick(scores, subsets.masked_fill(listed, -1)), own))


def graded_ranks(scores: Tensor, own: Tensor, relevance: Tensor) -> Tensor:
    """Return the rank (Q, K) of images with a relevance, where among equal scores the less relevant come first.

    ``scores`` (Q, N) of all candidates, ``own`` (Q, K) those of the images, -inf for none, ``relevance`` (Q, K). Images
    of equal score and relevance share the first of their ranks. Infinity where the relevance is 0 or less: all such
    images count as equal, named or not.
    """
    relevant = relevance > 0
    same = (own[:, :, None] == own[:, None, :]) & relevant[:, None, :]  # (Q, K, K)
    not_behind = (same & (relevance[:, None, :] >= relevance[:, :, None])).sum(2)  # (Q, K), the image itself among them
    ranks = (count_ahead(scores, own) - not_behind + 1).float()
    return ranks.masked_fill(~relevant | own.isnan() | (own == OUT), math.inf)


def top_columns(scores: Tensor, k: int) -> Tensor:
    """Return the columns (Q, k) of the ``k`` highest of ``scores`` (Q, N), best first; ties by column. No NaN."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # `topk` takes any of the scores that tie at the last place: where one of them is left out, take the first ones.
    crowded = (values[:, k - 1 : k] == values[:, k:]).any(1)
    last, columns = values[:, k - 1 : k], columns[:, :k]
    for row in crowded.nonzero().flatten().tolist():
        above = columns[row][values[row, :k] > last[row]]
        tied = (scores[row] == last[row]).nonzero().flatten()
        columns[row] = torch.cat([above, tied[: k - len(above)]])
    columns = columns.sort(dim=1).values
    order = scores.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)
