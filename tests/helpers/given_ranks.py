"""Ranks that a test writes down, as tensors or as numpy arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from contextcir.evaluation.metrics import Graded, Ranks


@dataclass
class GivenRanks(Ranks):
    """Ranks (Q, K) of targets, rising, in the gallery and in subsets; ``graded``: ranks and relevance (Q, R)."""

    targets: Any = None
    target_counts: Any = None
    first_target: Any = None
    subset_targets: Any = None
    graded: Graded | None = None
    subset_graded: Graded | None = None

    def highest(self, values: Any) -> Any:
        return values.amax(1) if isinstance(values, torch.Tensor) else np.max(values, 1)
