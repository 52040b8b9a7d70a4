"""An embedder in the place of a trained model: the same metrics, callbacks and result files."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from callbacks.recall import BASELINES
from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.embedders.base import EmbeddingSource
from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.composition import CompositionMetric, average_figures
from contextcir.evaluation.protocol import Protocol, averaging_groups
from contextcir.phrases.parser import clean
from experiments.evaluate.data import as_it_is
from experiments.evaluate.rows import Rows

NEEDS = {"image_only": {"image"}, "text_only": {"text"}, "sum": {"image", "text"}}  # what rows are made of
MakeMetric = Callable[[Protocol, str, int], CompositionMetric]


class _Cleaner:
    """What callbacks ask of a tokenizer: the text as it is shown."""

    clean = staticmethod(clean)


class _Described:
    """What callbacks ask of a backbone."""

    def __init__(self, source: EmbeddingSource) -> None:
        self.widths = Widths(source.dimension, source.dimension, source.dimension)
        self.model_name, self.pretrained = source.name, source.revision
        self.tokenizer = _Cleaner()


class EmbedderModule(LightningModule):
    """Scores an `EmbeddingSource`; nothing in it is trained.

    Args:
        source: says of which model the embeddings are.
        rows: gives the embeddings of a protocol, by stage and position.
        metric: makes the metric of a protocol.
        told: more about the embeddings, for the result.
    """

    preprocess = staticmethod(as_it_is)

    def __init__(
        self,
        source: EmbeddingSource,
        rows: Callable[[str, int], Rows],
        metric: MakeMetric,
        told: dict[str, Any],
        parts: Sequence[str],
    ) -> None:
        super().__init__()
        self.source = source
        self.backbone = _Described(source)
        self.metrics = nn.ModuleList()
        self.baselines = [row for row in BASELINES if NEEDS[row] <= set(parts)]
        self._make_rows, self._make_metric, self._told = rows, metric, told
        self._rows: dict[int, Rows] = {}
        self._stage = ""

    def provenance(self) -> dict[str, Any]:
        """Return what made the figures, for ``metrics.json``."""
        described = self.source.describe()
        made = {"model": self.source.name, "pretrained": self.source.revision, "checkpoint": None, "weights": None}
        return {**made, "embedder": described, **self._told}

    def evaluate(self, batch: QueryBatch | GalleryBatch, dataloader_idx: int) -> QueryFeatures | ImageFeatures:
        """Embed a batch of either kind, and add it to the metric of its protocol (loaders alternate)."""
        position = dataloader_idx // 2
        rows = self.rows_of(position)
        metric = cast(CompositionMetric, self.metrics[position]) if self.metrics else None
        index = batch.index.tolist()
        if isinstance(batch, GalleryBatch):
            image = self._image(rows.gallery(index))
            if metric is not None:
                metric.update_gallery(batch.index, image.embedding)
            return image
        composed = rows.queries(index).to(self.device)
        if metric is not None:
            metric.update_queries(batch.index, composed)
        alone = {part: rows.part(part, index).to(self.device) for part in rows.parts}
        text = alone.get("text", composed)
        of_text = TextFeatures(text[:, None, :0], torch.ones(len(text), 1, dtype=torch.bool), text)
        return QueryFeatures(self._image(alone.get("image", composed)), of_text, Fused(composed, ()))

    def rows_of(self, position: int) -> Rows:
        """Return the embeddings of a protocol of this stage."""
        if position not in self._rows:
            self._rows[position] = self._make_rows(self._stage, position)
        return self._rows[position]

    # Lightning's hooks are annotated to return losses; these return features, which callbacks read.
    def validation_step(self, batch: QueryBatch | GalleryBatch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.evaluate(batch, dataloader_idx)

    test_step = validation_step
    predict_step = validation_step

    def on_validation_start(self) -> None:
        self._begin("val")

    def on_test_start(self) -> None:
        self._begin("test")

    def on_predict_start(self) -> None:
        self._begin("predict")

    def on_validation_epoch_end(self) -> None:
        self._log_metrics()

    on_test_epoch_end = on_validation_epoch_end

    def _begin(self, stage: str) -> None:
        self._stage, self._rows = stage, {}
        protocols = cast(Any, self.trainer).datamodule.protocols(stage)
        averaging_groups(protocols)  # raises now, not after the last image, if figures can't be averaged
        scored = [] if stage == "predict" else enumerate(protocols)
        made = [self._make_metric(protocol, stage, position).to(self.device) for position, protocol in scored]
        self.metrics = nn.ModuleList(made)

    def _image(self, embedding: Tensor) -> ImageFeatures:
        embedding = embedding.to(self.device)
        return ImageFeatures(embedding[:, None, :0], embedding)

    def _log_metrics(self) -> None:
        metrics = [cast(CompositionMetric, metric) for metric in self.metrics]
        protocols = [metric.protocol for metric in metrics]
        computed = [metric.figures() for metric in metrics]
        by_split = [
            (protocol.split, {name: figures[name] for name in protocol.logged_names() if name in figures})
            for protocol, figures in zip(protocols, computed, strict=True)
        ]
        for prefix, figures in (*by_split, *average_figures(protocols, computed).items()):
            self.log_dict({f"{prefix}_{name}": value for name, value in figures.items()}, sync_dist=True)
        self.metrics = nn.ModuleList()
