"""Submission files of the reranked row, beside those of the composed one."""

from collections.abc import Callable, Sequence

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.submission import EmbeddedProtocol, EmbeddedRanking, SubmissionFiles
from contextcir.embedders.reranking import PairScores, Reordered, Reranking
from contextcir.evaluation.nearest import ranked_lists
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.submission import SubmissionFormat

FOLDER = "submission_reranked"


class RerankedSubmission(SubmissionFiles):
    """Write what ``predict`` ranks once more, with the first images in the order of the reranker.

    Benchmarks without a server get nothing.

    Args:
        reranking: see there.
        pairs: makes the function that scores pairs of a protocol, by its position.
    """

    def __init__(self, reranking: Reranking, pairs: Callable[[Protocol, int], PairScores]) -> None:
        super().__init__()
        self.reranking, self.pairs = reranking, pairs

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty."""
        super().on_predict_epoch_start(trainer, pl_module)
        for position, embedded in enumerate(self._embedded):
            protocol = embedded.protocol
            skipped = isinstance(embedded, EmbeddedRanking)
            ordered = Reordered(protocol, self.reranking, remembered(self.pairs(protocol, position)))
            self._embedded[position] = (_Nothing(protocol) if skipped else _Reranked(protocol, ordered)).to(
                pl_module.device
            )


class _Reranked(EmbeddedProtocol):
    folder, what = FOLDER, "reranked submission file"

    def __init__(self, protocol: Protocol, ordered: Reordered) -> None:
        super().__init__(protocol)
        self.ordered = ordered

    def lists(self, form: SubmissionFormat, queries: Tensor, gallery: Tensor) -> list[list[int]]:
        """Return the images of every query, best first."""
        return ranked_lists(form, self.protocol, queries, gallery, self.ordered.chunks)


class _Nothing(EmbeddedProtocol):
    def files(self, what: str, queries: Tensor, gallery: Tensor) -> dict[str, str]:
        """Return no file."""
        return {}


def remembered(pairs: PairScores) -> PairScores:
    """Return the same function, which computes nothing twice: a benchmark may have several files."""
    known: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def scores(query: int, images: Sequence[int]) -> Tensor:
        key = query, tuple(images)
        if key not in known:
            known[key] = pairs(query, images)
        return known[key]

    return scores
