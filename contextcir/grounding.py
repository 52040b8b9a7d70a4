"""The pointing game: does the attention of a phrase peak on the object that the phrase names?

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
    rows, columns = grid
    x0, y0, x1, y1 = (boxes.float() * boxes.new_tensor([columns, rows, columns, rows]).float()).unbind(1)  # (P,) each
    left, top = torch.arange(columns, device=boxes.device), torch.arange(rows, device=boxes.device)
    wide = torch.minimum(x1[:, None], left + 1) - torch.maximum(x0[:, None], left)  # (P, columns)
    high = torch.minimum(y1[:, None], top + 1) - torch.maximum(y0[:, None], top)  # (P, rows)
    return ((high > LEAST_OVERLAP)[:, :, None] & (wide > LEAST_OVERLAP)[:, None, :]).flatten(1)  # (P, N)


class PointingGame(Metric):
    """Count phrases whose attention map has its maximum on the phrase's box, and how often chance would hit it.

    The point is the centre of the best patch, and the box is allowed a margin of half a patch, since a map can't say
    where in a patch the maximum is: a hit is a best patch that lies at least partly in the box. Chance is the share of
    such patches. Phrases without a box, or without a token in a cut caption, are left out; a query that arrives twice
    (padded samplers repeat samples) counts once.

    Args:
        queries: number of queries in the protocol.
        grid: rows and columns of patches.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    hits: Tensor
    chance: Tensor
    phrases: Tensor

    def __init__(self, queries: int, grid: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = grid
        # Sums per query. All ranks that saw a query hold the same sums, the others 0: their maximum is the answer.
        for name in ("hits", "chance", "phrases"):
            self.add_state(name, default=torch.zeros(queries), dist_reduce_fx="max")

    def update(self, index: Tensor, owner: Tensor, maps: Tensor, boxes: Tensor) -> None:
        """Add a batch.

        ``index`` (B,): positions of the queries in the protocol. Of the phrases: ``owner`` (P,) the row of the batch,
        ``maps`` (P, N), NaN where a phrase has no token, and ``boxes`` (P, 4).
        """
        touched = touched_patches(boxes, self.grid)  # (P, N)
        scored = touched.any(1) & maps.isfinite().all(1)  # (P,)
        hit = touched.gather(1, maps.argmax(1, keepdim=True)).squeeze(1)  # (P,)
        for state, values in ((self.hits, hit), (self.chance, touched.float().mean(1)), (self.phrases, scored)):
            sums = torch.zeros(len(index), device=state.device)
            state[index] = sums.index_add_(0, owner, (values * scored).float())

    def compute(self) -> dict[str, Tensor]:
        """Return ``pointing_game`` and ``pointing_game_chance`` in percent of the phrases; ``{}`` without any."""
        count = self.phrases.sum()
        if not count:
            return {}
        return {
            "pointing_game": 100 * self.hits.sum() / count,
            "pointing_game_chance": 100 * self.chance.sum() / count,
        }
