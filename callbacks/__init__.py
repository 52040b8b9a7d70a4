"""Callbacks of a run. Imported together so that configs can name them without their module."""

from callbacks.attention import AttentionFigures
from callbacks.gallery import StoreGallery
from callbacks.recall import RecallTable
from callbacks.submission import SubmissionFiles

__all__ = ["AttentionFigures", "RecallTable", "StoreGallery", "SubmissionFiles"]
