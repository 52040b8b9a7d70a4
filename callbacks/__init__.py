"""Callbacks of a run. Imported together so that configs can name them without their module."""

from callbacks.attention import AttentionFigures
from callbacks.checkpoint_files import AtomicCheckpoints
from callbacks.checkpoints import ResumePoints
from callbacks.concept import ConceptMonitor
from callbacks.finite import StopWhenNotFinite
from callbacks.gallery import StoreGallery
from callbacks.gradients import GradientNorms
from callbacks.randomness import StepSeeds
from callbacks.recall import RecallTable
from callbacks.submission import SubmissionFiles
from callbacks.summary import RunSummary
from callbacks.throughput import TrainingSpeed

__all__ = [
    "AtomicCheckpoints",
    "AttentionFigures",
    "ConceptMonitor",
    "GradientNorms",
    "RecallTable",
    "ResumePoints",
    "RunSummary",
    "StepSeeds",
    "StopWhenNotFinite",
    "StoreGallery",
    "SubmissionFiles",
    "TrainingSpeed",
]
