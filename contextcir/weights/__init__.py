"""Files of weights, read without running anything that they hold, and their tensors under the names of a model."""

from contextcir.weights.checksums import damage, state_digest
from contextcir.weights.reading import WeightsFile, harmless, local_file, read_weights
from contextcir.weights.states import checked, misfits, state_of, under

__all__ = [
    "WeightsFile",
    "checked",
    "damage",
    "harmless",
    "local_file",
    "misfits",
    "read_weights",
    "state_digest",
    "state_of",
    "under",
]
