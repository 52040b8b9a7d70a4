"""Gallery embeddings on disk: an evaluation of the same weights does not encode the gallery again."""

from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.checks import one_of
from contextcir.embeddings import GalleryFeatures, GalleryStore, Precision, weights_digest
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.errors import InputError


class StoreGallery(Callback):
    """Keep the embeddings of gallery images on disk, and read them from there.

    They are used again for the same weights of the image tower, precision of the Trainer, preprocessing and list of
    images; after an interruption, for the part that was encoded. An image whose size or mtime has changed is encoded
    again. While the image tower is being trained nothing is kept (it would fill the disk with embeddings of weights
    that are never used again), except the evaluation before training; with a frozen tower all evaluations are kept.

    Embeddings are rounded to what is stored in every evaluation, including the first, so that all give the same
    figures. The folder may be shared by runs and machines, and removed at any time between runs.

    Args:
        folder: of the embeddings of all models and galleries, each in a sub-folder; CIRCO's takes 253 MB at 1,024
            float16 numbers per image.
        precision: of the numbers on disk, float16 or float32.
    """

    def __init__(self, folder: str | Path, precision: Precision = "float16") -> None:
        one_of(precision, get_args(Precision), "trainer.callbacks.StoreGallery.precision")
        self.folder = Path(folder).expanduser()
        self.precision: Precision = precision
        self._store: GalleryStore | None = None
        self._evaluating = False
        self._weights: str | None = None
        self._written: dict[str, GalleryFeatures] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the store to the data module.

        Raises:
            InputError: if the data module has no ``gallery_store``.
        """
        if not hasattr(trainer.datamodule, "gallery_store"):
            raise InputError(
                f"StoreGallery can't be used with {type(trainer.datamodule).__name__}, which has no `gallery_store`: "
                "leave it out",
                setting="trainer.callbacks",
            )

        def weights() -> str | None:
            tower = pl_module.backbone.clip.visual
            training = trainer.state.fn == "fit" and not trainer.sanity_checking
            if not self._evaluating or (training and any(weight.requires_grad for weight in tower.parameters())):
                return None
            if self._weights is None:
                self._weights = weights_digest(tower, f"precision {trainer.precision}")
            return self._weights

        self._store = GalleryStore(self.folder, pl_module.backbone.widths.embed, self.precision, weights)
        trainer.datamodule.gallery_store = self._store

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the store away from the data module, which may be used again without this callback."""
        trainer.datamodule.gallery_store = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start: the weights may have changed, and are hashed once all callbacks have started."""
        self._evaluating, self._weights, self._written = True, None, {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: QueryFeatures | ImageFeatures,
        batch: QueryBatch | GalleryBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store what was encoded."""
        if isinstance(batch, GalleryBatch) and batch.stored is not None and len(batch.stored.missing):
            stage = {"validate": "val", "sanity_check": "val"}.get(trainer.state.stage.value, trainer.state.stage.value)
            split = trainer.datamodule.protocols(stage)[dataloader_idx // 2].split  # loaders come in pairs
            missing = batch.stored.missing
            self._written[split] = self._store.write(split, batch.index[missing], outputs.embedding[missing])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report how much is stored; the weights may change again."""
        for split, features in self._written.items():
            rank_zero_info(
                f"{split}: {features.count():,} of {len(features):,} gallery embeddings are in {features.folder}"
            )
        self._evaluating, self._written = False, {}

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> Any:
        """End the evaluation that was interrupted."""
        self._evaluating = False
