"""Deprecated names: any data module reads stored features, by its setting ``features``."""

from data_modules.base import CompositionDataModule
from data_modules.benchmarks import CIRR, Scenes
from data_modules.mixture import Mixture


class _Auto(CompositionDataModule):
    usual_features = "auto"


class FrozenScenes(_Auto, Scenes):
    """Scenes with ``features: auto``; deprecated."""


class FrozenCIRR(_Auto, CIRR):
    """CIRR with ``features: auto``; deprecated."""


class FrozenMixture(_Auto, Mixture):
    """Mixture with ``features: auto``; deprecated."""
