"""Training: the LightningModule, how batches are encoded, the optimizer, and published checkpoints."""

from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine, AdamWWarmupRestarts
from contextcir.training.reference import load, load_checkpoint

__all__ = [
    "AdamWWarmupCosine",
    "AdamWWarmupRestarts",
    "ContextCIR",
    "GradientCache",
    "WholeBatch",
    "load",
    "load_checkpoint",
]
