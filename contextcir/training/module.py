"""ConText-CIR as a LightningModule: steps and logging; encoders, fusion, losses and optimizer are its arguments."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins import hparams_mixin
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional

from contextcir.batch import Clauses, GalleryBatch, Phrases, QueryBatch, TripletBatch, check_pairs
from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import PhraseTexts, QueryFeatures
from contextcir.encoders.pretrained import weights_postponed
from contextcir.errors import InputError
from contextcir.evaluation.composition import CompositionMetric, average_figures
from contextcir.evaluation.protocol import averaging_groups
from contextcir.fusion import CrossAttentionFusion, Fusion
from contextcir.losses.contrastive import InfoNCE, TripletLoss, WithoutTriplets
from contextcir.losses.negatives import FurtherImages
from contextcir.losses.text_cc import ConceptLoss
from contextcir.renamed import current
from contextcir.training.checkpoint_loading import (
    check_resumable,
    fit_to,
    load_only_weights,
    read_checkpoint,
    refuse_misfit,
)
from contextcir.training.encoding import WholeBatch, encode_references
from contextcir.training.optim import AdamWWarmupCosine
from contextcir.weights import harmless


class ContextCIR(LightningModule):
    """Composed image retrieval: a reference image and a modification text retrieve the target image.

    Args:
        backbone: The two encoders.
        fusion: Class that composes a query from both encoders' tokens; called with the backbone's widths.
        contrastive: Loss between composed queries, targets and references; InfoNCE if null.
        concept: Text Concept-Consistency loss, added with its own weight; null trains without it.
        optimizer: Optimizer and schedule.
        encoding: How a training batch is encoded: null for all rows at once, or a GradientCache.

    Raises:
        InputError: if a loss needs what the backbone, the fusion or the encoding does not give.
    """

    def __init__(
        self,
        backbone: OpenCLIPBackbone,
        fusion: Callable[[Widths], Fusion] = CrossAttentionFusion,
        contrastive: TripletLoss | None = None,
        concept: ConceptLoss | None = None,
        optimizer: AdamWWarmupCosine | None = None,
        encoding: WholeBatch | None = None,
    ) -> None:
        super().__init__()
        # Under the command line this stores the configuration, from which `load_from_checkpoint` rebuilds all parts.
        # Elsewhere it would copy the parts themselves, with all weights, into every checkpoint.
        if hparams_mixin._given_hyperparameters.get() is not None:
            self.save_hyperparameters(logger=False)
        self.backbone = backbone
        self.fusion = fusion(backbone.widths)
        self.fusion.connect(backbone)
        self.contrastive = contrastive or InfoNCE()
        self.concept = concept
        self.optimizer = optimizer or AdamWWarmupCosine()
        self.encoding = encoding or WholeBatch()
        self.encoding.check(concept)
        if self.contrastive.negatives is not None:
            self.contrastive.negatives.check(backbone)
        self._check_maps()
        if concept is not None:
            concept.check(self.fusion)
        self._check_trained()
        self.metrics = nn.ModuleList()
        if not self.fusion.reads_text_embedding:
            backbone.freeze_text_projection()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """Return the model of a checkpoint of `experiments.run`: rebuilt from its settings, with its weights.

        As Lightning's, but the file has to be on this machine, nothing in it is run, and the encoders' own weights,
        which its weights replace, are neither read nor downloaded. Its settings name classes: trust it as a config.
        Classes that have moved since it was written are found at their new paths, with a warning.

        Raises:
            MissingFileError: if there is no such file.
            InputError: if it can't be used.
        """
        checkpoint = read_checkpoint(checkpoint_path, "checkpoint_path", mapped=True)
        settings, renamed = current(checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY) or {}, checkpoint_path)
        if not settings and not options:
            problem = "holds weights, but no settings to build a model from: give a checkpoint of experiments.run"
            raise InputError(problem, file=checkpoint_path, setting="checkpoint_path")
        if renamed and "hparams_file" not in options:
            told = ", ".join(f"{old} as {new}" for old, new in renamed.items())
            rank_zero_warn(f"{checkpoint_path} is of an earlier version: loading {told}")
            options = {**settings, **options}
        later = nullcontext() if options.get("strict") is False else weights_postponed()
        with later, harmless():
            options["weights_only"] = True
            return super().load_from_checkpoint(Path(checkpoint_path), *args, **options)

    def setup(self, stage: str) -> None:
        """Let the Trainer load nothing but weights."""
        load_only_weights(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take weights under the names that other programs give them.

        Raises:
            InputError: if they are broken or do not fit, or if training is to go on from weights alone.
        """
        trainer = self._trainer
        file = None if trainer is None else trainer.ckpt_path
        odd = fit_to(self, checkpoint, file or "the checkpoint")
        if self.strict_loading:
            refuse_misfit(odd, checkpoint, file)
        if trainer is not None and trainer.state.fn == "fit":
            check_resumable(checkpoint, file)

    @torch.no_grad()
    def _check_maps(self) -> None:
        """Refuse a concept loss that reads attention maps, with a fusion that has none; one phrase is looked at."""
        if self.concept is None or not self.concept.needs_maps:
            return
        rows, columns = self.backbone.grid
        widths, given = self.backbone.widths, next(self.fusion.parameters(), torch.empty(0))
        image, text = given.new_zeros(1, rows * columns + 1, widths.vision), given.new_zeros(1, 3, widths.text)
        with evaluating(self.fusion):
            maps = self.fusion.attention(image, text, torch.ones(1, 3, dtype=torch.bool, device=given.device))
        if not maps:
            raise InputError(
                f"{type(self.concept).__name__} compares attention maps, and {type(self.fusion).__name__} has none: "
                "choose another fusion, or train without this loss (model.concept: null)",
                setting="model.fusion",
            )

    def _check_trained(self) -> None:
        """Refuse a fusion without the loss that trains a part of it, and no loss at all."""
        needed = self.fusion.trained_by
        if needed is not None and type(self.concept).__name__ != needed:
            given = "none" if self.concept is None else type(self.concept).__name__
            problem = f"{type(self.fusion).__name__} is trained by {needed}, got {given}"
            raise InputError(problem, setting="model.concept")
        if isinstance(self.contrastive, WithoutTriplets) and self.concept is None:
            problem = "WithoutTriplets leaves training to model.concept, and there is none: give one of both"
            raise InputError(problem, setting="model.contrastive")

    @property
    def preprocess(self) -> Callable[..., Tensor]:
        """PIL image -> tensor (3, S, S), as the image tower expects it."""
        return self.backbone.preprocess

    def encode_query(self, batch: QueryBatch) -> QueryFeatures:
        """Encode references and captions, and compose them."""
        reference = encode_references(self.backbone, batch)
        return self.compose(reference, batch.captions, batch.phrases, batch.clauses)

    def encode_gallery(self, batch: GalleryBatch) -> ImageFeatures:
        """Encode the images of a batch, except for those whose embeddings are stored.

        With a store, all embeddings are rounded to its precision, so that figures do not depend on which of them were
        stored already. Tokens are not stored, and so are (B, 0, D).
        """
        if batch.stored is None:
            return self.backbone.encode_image(batch.image)
        embedding, missing = batch.stored
        if len(missing):
            encoded = self.backbone.encode_image(batch.image).embedding
            with torch.autocast(embedding.device.type, enabled=False):  # autocast can't combine two low precisions
                embedding = embedding.index_copy(0, missing, encoded.to(embedding.dtype))
        return ImageFeatures(embedding.new_empty(len(embedding), 0, self.backbone.widths.vision), embedding)

    def compose(
        self,
        image: ImageFeatures,
        captions: Sequence[str],
        phrases: Phrases | None,
        clauses: Clauses | None = None,
    ) -> QueryFeatures:
        """Compose encoded references with B captions; concept losses need ``phrases``, even if there are none.

        ``clauses``: for fusions that read clause by clause; None for captions that are one clause each.
        """
        check_pairs(len(image.embedding), captions, phrases)
        self.fusion.maps_at_once = self.training and self.concept is not None and self.concept.needs_maps
        text = self.fusion.encode_text(self.backbone, captions, clauses)
        texts = None if phrases is None else PhraseTexts(self.backbone, captions, phrases)
        return QueryFeatures(image, text, self.fusion(image, text, texts), texts, clauses)

    @torch.no_grad()
    def embed_query(
        self,
        images: Tensor,
        captions: Sequence[str],
        phrases: Phrases | None = None,
        clauses: Clauses | None = None,
    ) -> Tensor:
        """Preprocessed references (B, 3, S, S) and B captions -> composed queries (B, E), L2-normalised.

        ``phrases``: noun phrases of the captions, for fusions that read them; ``clauses``: their clauses, likewise
        (`contextcir.phrases`).
        """
        with evaluating(self):
            features = self.compose(self.backbone.encode_image(images), captions, phrases, clauses)
            return functional.normalize(features.fused.embedding, dim=-1)

    @torch.no_grad()
    def embed_image(self, images: Tensor) -> Tensor:
        """Preprocessed candidates (B, 3, S, S) -> (B, E), L2-normalised."""
        with evaluating(self):
            return functional.normalize(self.backbone.encode_image(images).embedding, dim=-1)

    @torch.no_grad()
    def attention_maps(
        self,
        images: Tensor,
        captions: Sequence[str],
        phrases: Phrases | None = None,
        clauses: Clauses | None = None,
    ) -> Tensor:
        """Attention of vision tokens to text tokens, (L, B, H, V, T); V begins with CLS, T with the start token.

        Fusions that read ``phrases`` have a further key for each, after the text.
        """
        with evaluating(self):
            image = self.backbone.encode_image(images)
            attention = self.compose(image, captions, phrases, clauses).fused.attention
        if not attention:
            raise InputError(f"{type(self.fusion).__name__} has no attention: choose another", setting="model.fusion")
        return torch.stack(attention)  # (L, B, H, V, T)

    def losses(self, batch: TripletBatch) -> dict[str, Tensor]:
        """Return ``loss`` and its parts: ``contrastive`` and, for a model with such a loss, ``concept``, unweighted."""
        encoded = self.encoding(self, batch)
        negatives = self.contrastive.negatives
        further = None if negatives is None else negatives.draw(self.backbone, batch.target, self.global_step)
        hard = None
        if batch.negatives is not None and encoded.negative is not None:
            hard = FurtherImages(encoded.negative, batch.negatives.image_id)
        sides = encoded.query, encoded.target, encoded.reference
        parts = {"contrastive": self.contrastive(*sides, batch.target_id, batch.reference_id, further, hard)}
        loss = parts["contrastive"]
        if self.concept is not None and encoded.concept is not None:
            parts["concept"] = encoded.concept
            loss = loss + self.concept.weight * parts["concept"]
        return {"loss": loss, **parts}

    def encode_chunk(self, encode: Callable[..., Any], *parts: Any) -> Any:
        """Encode a part of a batch: a pass of this module by itself, for weights that are gathered for each pass."""
        return encode(*parts)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Let the encoding decide what of a training batch is moved at once; ids and places stay on the host."""
        if isinstance(batch, TripletBatch):
            return names_on_host(self.encoding.move(batch, device), batch)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch: TripletBatch, batch_idx: int) -> Tensor:
        missing = None if self.concept is None else self.concept.missing(batch.query)
        if missing is not None:
            rank_zero_warn(  # shown once
                f"a batch without {missing}: the Text-CC loss is 0. Give the training records some, or train without "
                "that loss (model.concept: null)"
            )
        losses = self.losses(batch)
        size = len(batch.query.captions)
        self.log_dict(self._logged(losses), prog_bar=True, batch_size=size)
        return losses["loss"]

    def _logged(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses to log: where a logger takes them, their means over the ranks, in one small message."""
        names, values = [f"train_{name}" for name in losses], [value.detach() for value in losses.values()]
        every = cast(Any, self.trainer).log_every_n_steps  # given to it when it is built
        if self.trainer.world_size > 1 and every and (self.trainer.global_step + 1) % every == 0:
            joined = torch.stack([value.float() for value in values])
            values = list(self.trainer.strategy.reduce(joined, reduce_op="mean").unbind())
        return dict(zip(names, values, strict=True))

    def evaluate(self, batch: QueryBatch | GalleryBatch, dataloader_idx: int) -> QueryFeatures | ImageFeatures:
        """Encode a batch of either kind, and add it to the metric of its protocol (loaders alternate).

        Callbacks add other rows of queries to the same metrics, which hold the gallery once.
        """
        metric = cast(CompositionMetric, self.metrics[dataloader_idx // 2]) if self.metrics else None
        if isinstance(batch, GalleryBatch):
            image = self.encode_gallery(batch)
            if metric is not None:
                metric.update_gallery(batch.index, image.embedding)
            return image
        query = self.encode_query(batch)
        if metric is not None:
            metric.update_queries(batch.index, query.fused.embedding)
        return query

    # Lightning's hooks are annotated to return losses; these return features, which callbacks read.
    def validation_step(self, batch: QueryBatch | GalleryBatch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.evaluate(batch, dataloader_idx)

    test_step = validation_step
    predict_step = validation_step

    def on_validation_start(self) -> None:
        self._begin_metrics("val")

    def on_test_start(self) -> None:
        self._begin_metrics("test")

    def on_predict_start(self) -> None:
        self.metrics = nn.ModuleList()  # predictions have no labels

    def on_validation_epoch_end(self) -> None:
        self._log_metrics()

    def on_test_epoch_end(self) -> None:
        self._log_metrics()

    def _begin_metrics(self, stage: str) -> None:
        """Make empty metrics before any callback's ``on_*_epoch_start``: callbacks may add rows of queries to them."""
        protocols = cast(Any, self.trainer).datamodule.protocols(stage)
        averaging_groups(protocols)  # raises now, not after the last image, if figures can't be averaged
        self.metrics = nn.ModuleList(CompositionMetric(protocol).to(self.device) for protocol in protocols)

    def _log_metrics(self) -> None:
        metrics = [cast(CompositionMetric, metric) for metric in self.metrics]
        protocols = [metric.protocol for metric in metrics]
        computed = [metric.figures() for metric in metrics]
        by_prefix = [
            (protocol.split, {name: figures[name] for name in protocol.logged_names() if name in figures})
            for protocol, figures in zip(protocols, computed, strict=True)
        ]
        for prefix, figures in (*by_prefix, *average_figures(protocols, computed).items()):
            # The figures are equal on all ranks already; without sync_dist Lightning would warn.
            self.log_dict({f"{prefix}_{name}": value for name, value in figures.items()}, sync_dist=True)
        self.metrics = nn.ModuleList()

    def configure_optimizers(self) -> Any:  # Lightning's type for this dictionary can't be constructed from it
        steps = self.trainer.estimated_stepping_batches
        optimizer, schedule = self.optimizer(self.backbone, [self.fusion, self.contrastive], steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def names_on_host(moved: TripletBatch, batch: TripletBatch) -> TripletBatch:
    """Return a batch that was moved to a device, with all but its images as in the batch of the host.

    What says which images are the same, and where phrases are, is worked with on the host: read from a GPU, it would
    have to be waited for. So are rows of stored features, and numbers of images, in the place of images.
    """
    query = moved.query._replace(index=batch.query.index, phrases=batch.query.phrases, clauses=batch.query.clauses)
    if query.images is not None and batch.query.images is not None:
        query = query._replace(images=query.images._replace(image_id=batch.query.images.image_id))
    moved = moved._replace(query=query, reference_id=batch.reference_id, target_id=batch.target_id)
    if batch.negatives is not None and moved.negatives is not None:
        moved = moved._replace(negatives=moved.negatives._replace(image_id=batch.negatives.image_id))
    if batch.target.dtype == torch.int64:
        moved = moved._replace(target=batch.target, query=query._replace(reference=batch.query.reference))
        if batch.negatives is not None:
            moved = moved._replace(negatives=batch.negatives)
    return moved


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode for the block."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
