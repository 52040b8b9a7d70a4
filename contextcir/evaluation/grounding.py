"""Grounding: whether the peak and the mass of a phrase's attention are on the object that the phrase names.

Boxes are ``x0, y0, x1, y1`` in fractions of the image's sides, NaN where unknown. Letters: B queries, P phrases,
N = rows x columns patches, row by row.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

# Overlaps below this share of a patch's side are rounding errors of boxes that end on a border between patches.
LEAST_OVERLAP = 1e-3


def touched_patches(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which patches (P, N) of a grid (rows, columns) lie at least partly in each box (P, 4); none for NaN."""
    high, wide = _overlaps(boxes, grid)
    return ((high > LEAST_OVERLAP)[:, :, None] & (wide > LEAST_OVERLAP)[:, None, :]).flatten(1)  # (P, N)


def covered_patches(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which share (P, N) of each patch's area lies in each box (P, 4); 0 for NaN."""
    high, wide = (overlap.nan_to_num(nan=0.0).clamp(min=0) for overlap in _overlaps(boxes, grid))
    return (high[:, :, None] * wide[:, None, :]).flatten(1)  # (P, N)


def attention_inside(maps: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the share (P,) of the mass of maps (P, N) that lies in boxes (P, 4); NaN for a map that is 0 or NaN.

    The mass of a patch is taken as spread evenly over it. A uniform map has the share of the box in the image's area.
    """
    return (maps * covered_patches(boxes, grid)).sum(1) / maps.sum(1)


def _overlaps(boxes: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Overlap of every box with each row (P, rows) and column (P, columns) of patches, in sides of one; < 0 apart."""
    rows, columns = grid
    x0, y0, x1, y1 = (boxes.float() * boxes.new_tensor([columns, rows, columns, rows]).float()).unbind(1)  # (P,) each
    left, top = torch.arange(columns, device=boxes.device), torch.arange(rows, device=boxes.device)
    wide = torch.minimum(x1[:, None], left + 1) - torch.maximum(x0[:, None], left)  # (P, columns)
    high = torch.minimum(y1[:, None], top + 1) - torch.maximum(y0[:, None], top)  # (P, rows)
    return high, wide


class PhraseMetric(Metric):
    """Means over phrases that name an object with a known place.

    Phrases without a box, or without a token in a cut caption, are left out; a query that arrives twice (padded
    samplers repeat samples) counts once. Subclasses name their two figures and measure them.

    Args:
        queries: number of queries in the protocol.
        grid: rows and columns of patches.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    figure: str

    score: Tensor
    chance: Tensor
    phrases: Tensor

    def __init__(self, queries: int, grid: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = grid
        # Sums per query. All ranks that saw a query hold the same sums, the others 0: the maximum merges them.
        for name in ("score", "chance", "phrases"):
            self.add_state(name, default=torch.zeros(queries), dist_reduce_fx="max")

    def measure(self, maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score of each map (P, N) on its box (P, 4), and that of an uninformed map: (P,) each, in 0..1."""
        raise NotImplementedError

    def update(self, index: Tensor, owner: Tensor, maps: Tensor, boxes: Tensor) -> None:
        """Add a batch.

        ``index`` (B,): positions of the queries in the protocol. Of the phrases: ``owner`` (P,) the row of the batch,
        ``maps`` (P, N), NaN where a phrase has no token, and ``boxes`` (P, 4).
        """
        score, chance = self.measure(maps, boxes)
        scored = touched_patches(boxes, self.grid).any(1) & maps.isfinite().all(1) & score.isfinite()  # (P,)
        for state, values in ((self.score, score), (self.chance, chance), (self.phrases, scored)):
            sums = torch.zeros(len(index), device=state.device)
            state[index] = sums.index_add_(0, owner, values.float().masked_fill(~scored, 0.0))

    def compute(self) -> dict[str, Tensor]:
        """Return the figure and ``FIGURE_chance`` in percent, means over the phrases; ``{}`` without any."""
        count = self.phrases.sum()
        if not count:
            return {}
        return {
            self.figure: 100 * self.score.sum() / count,
            f"{self.figure}_chance": 100 * self.chance.sum() / count,
        }


class PointingGame(PhraseMetric):
    """Count phrases whose attention map has its maximum on the phrase's box, and how often chance would hit it.

    The point is the centre of the best patch, and the box is allowed a margin of half a patch, since a map can't say
    where in a patch the maximum is: a hit is a best patch that lies at least partly in the box. Chance is the share of
    such patches. See `PhraseMetric`.
    """

    figure = "pointing_game"

    def measure(self, maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Hits, and the share of patches that would be hits."""
        touched = touched_patches(boxes, self.grid)  # (P, N)
        return touched.gather(1, maps.argmax(1, keepdim=True)).squeeze(1), touched.float().mean(1)


class AttentionInside(PhraseMetric):
    """Share of the attention of a phrase that lies in its box, and the share of the box in the image: chance."""

    figure = "attention_inside"

    def measure(self, maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the map, and that of a uniform one."""
        return attention_inside(maps, boxes, self.grid), covered_patches(boxes, self.grid).mean(1)
