"""Callbacks of a run."""

from typing import TYPE_CHECKING

from contextcir.lazy import lazy_exports

if TYPE_CHECKING:
    from callbacks.attention import AttentionFigures
    from callbacks.checkpoint_files import AtomicCheckpoints
    from callbacks.checkpoints import ResumePoints
    from callbacks.concept import ConceptMonitor
    from callbacks.finite import StopWhenNotFinite
    from callbacks.gallery import StoreGallery
    from callbacks.gradients import GradientNorms
    from callbacks.query_results import QueryResults
    from callbacks.randomness import StepSeeds
    from callbacks.recall import RecallTable
    from callbacks.retrieval import RetrievalFigures
    from callbacks.submission import SubmissionFiles
    from callbacks.summary import RunSummary
    from callbacks.throughput import TrainingSpeed
    from callbacks.training_record import TrainingRecord
    from callbacks.weight import WeightChoice

__all__ = [
    "AtomicCheckpoints",
    "AttentionFigures",
    "ConceptMonitor",
    "GradientNorms",
    "QueryResults",
    "RecallTable",
    "ResumePoints",
    "RetrievalFigures",
    "RunSummary",
    "StepSeeds",
    "StopWhenNotFinite",
    "StoreGallery",
    "SubmissionFiles",
    "TrainingRecord",
    "TrainingSpeed",
    "WeightChoice",
]

# Lazy: each imports Lightning, and some need packages that others do not.
__getattr__ = lazy_exports(
    __name__,
    {
        "attention": ["AttentionFigures"],
        "checkpoint_files": ["AtomicCheckpoints"],
        "checkpoints": ["ResumePoints"],
        "concept": ["ConceptMonitor"],
        "finite": ["StopWhenNotFinite"],
        "gallery": ["StoreGallery"],
        "gradients": ["GradientNorms"],
        "query_results": ["QueryResults"],
        "randomness": ["StepSeeds"],
        "recall": ["RecallTable"],
        "retrieval": ["RetrievalFigures"],
        "submission": ["SubmissionFiles"],
        "summary": ["RunSummary"],
        "throughput": ["TrainingSpeed"],
        "training_record": ["TrainingRecord"],
        "weight": ["WeightChoice"],
    },
)
