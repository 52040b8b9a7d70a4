"""Callbacks of a run. Imported together so that configs can name them without their module."""

from callbacks.attention import AttentionFigures
from callbacks.recall import RecallTable

__all__ = ["AttentionFigures", "RecallTable"]
