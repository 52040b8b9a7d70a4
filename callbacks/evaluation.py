"""The base of callbacks that follow an evaluation: validation and test call the same methods."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures


class EvaluationCallback(Callback):
    """Pass the hooks of validation (stage ``val``) and test on to `begin` and `add`.

    The figures of the last validation are part of checkpoints, as plain numbers and texts: a run that is resumed after
    it still reports them at its end.
    """

    _latest: dict[str, dict[str, Any]]

    def state_dict(self) -> dict[str, Any]:
        """Return the figures of the last validation."""
        return {"latest": self._latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the figures of the last validation."""
        self._latest = state_dict["latest"]

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare for an evaluation of the stage's protocols."""
        raise NotImplementedError

    def add(
        self,
        pl_module: LightningModule,
        outputs: QueryFeatures | ImageFeatures,
        batch: QueryBatch | GalleryBatch,
        protocol_index: int,
    ) -> None:
        """Add a batch of queries or gallery images, and the module's features of it; nothing, if not overridden."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare for a validation."""
        if trainer.state.fn != "fit":
            self._latest = {}  # restored figures belong to the training of the checkpoint
        self.begin(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare for a test."""
        self._latest = {}
        self.begin(trainer, pl_module, "test")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: QueryFeatures | ImageFeatures,
        batch: QueryBatch | GalleryBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        self.add(pl_module, outputs, batch, dataloader_idx // 2)  # loaders come in pairs: gallery, queries

    on_test_batch_end = on_validation_batch_end
