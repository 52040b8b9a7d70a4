"""Composed image retrieval with text concept-consistency (ConText-CIR): the model, its losses and its evaluation.

The package exports its main nouns; everything else is imported from its own module.
"""

from typing import TYPE_CHECKING, Any

from contextcir.lazy import lazy_exports

if TYPE_CHECKING:
    from contextcir.evaluation.composition import CompositionMetric
    from contextcir.evaluation.protocol import Protocol
    from contextcir.search.searcher import Searcher
    from contextcir.training.models import load
    from contextcir.training.module import ContextCIR

    __version__: str

__all__ = ["CompositionMetric", "ContextCIR", "Protocol", "Searcher", "__version__", "load"]

_export = lazy_exports(
    __name__,
    {
        "evaluation.composition": ["CompositionMetric"],
        "evaluation.protocol": ["Protocol"],
        "search.searcher": ["Searcher"],
        "training.models": ["load"],
        "training.module": ["ContextCIR"],
    },
)


def __getattr__(name: str) -> Any:
    # Lazy, since ContextCIR imports torch and Lightning, which take seconds.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("contextcir")
        except PackageNotFoundError:
            return "0+checkout"  # used from a folder, without being installed
    return _export(name)
