"""The weight of image and text, chosen on val."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.results import add_results
from contextcir.batch import GalleryBatch
from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.evaluation.composition import CompositionMetric, average_figures
from contextcir.evaluation.protocol import averaging_groups
from contextcir.fusion.interpolation import Interpolation

MOST_STEPS = 1000
SETTING = "trainer.callbacks.WeightChoice"


class WeightChoice(Callback):
    """Choose the weight of an `Interpolation` on val, before ``validate``, ``test`` and ``predict``.

    Image and text of each query of val, and the gallery, are embedded once; then each weight is a further row of
    queries of the same protocol. The weight with the highest headline figure of val is taken (of equal ones the
    smallest), so that ``test`` and ``predict`` need the images of val too. ``fit`` trains with the weight that is set.

    ``metrics.json`` has the weight in the entry of every split that is evaluated with it, as ``weight``, and in
    ``weight_choice`` the figure that decided, the split, and its value at all weights.

    Args:
        steps: the weights are 0, 1 / steps, ..., 1.

    Raises:
        InputError: if there is no step, or the fusion has no weight.
    """

    def __init__(self, steps: int = 20) -> None:
        self.steps = whole(steps, 1, f"{SETTING}.steps", MOST_STEPS)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the fusion."""
        if not isinstance(pl_module.fusion, Interpolation):
            name = type(pl_module.fusion).__name__
            problem = f"WeightChoice needs a fusion with a weight (WeightedSum, Slerp), and {name} has none"
            raise InputError(problem, setting="model.fusion")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose, unless a training is validated."""
        if trainer.state.fn == "validate":
            self._choose(trainer, pl_module, "validate", "val")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose."""
        self._choose(trainer, pl_module, "test", "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose; predictions have no figures, so that the weight is only printed."""
        self._choose(trainer, pl_module, None, "predict")

    def _choose(self, trainer: Trainer, module: LightningModule, phase: str | None, stage: str) -> None:
        name, figures = self._figures(trainer, module)
        weight = max(figures, key=lambda share: (figures[share], -share))
        module.fusion.weight.fill_(weight)
        rank_zero_info(f"weight of the text: {weight:.3f}, chosen on val by {name} ({figures[weight]:.2f})")
        if phase is not None and trainer.is_global_zero:
            choice = {
                "chosen_on": "val",
                "by": name,
                "figures": {f"{share:.3f}": round(value, 4) for share, value in figures.items()},
            }
            for protocol in trainer.datamodule.protocols(stage):
                entry = {"weight": weight, "weight_choice": choice}
                add_results(Path(trainer.default_root_dir), phase, protocol.split, entry)

    @torch.no_grad()
    def _figures(self, trainer: Trainer, module: LightningModule) -> tuple[str, dict[float, float]]:
        """Return the name of the headline figure of val, and its value in percent at each weight; a collective call."""
        data: Any = trainer.datamodule
        protocols = data.protocols("val")
        if not protocols or not all(protocol.labelled for protocol in protocols):
            raise InputError("the weight is chosen on val: expected splits with labels", setting="data.val_splits")
        weights = [step / self.steps for step in range(self.steps + 1)]
        metrics = [CompositionMetric(protocol).to(module.device) for protocol in protocols]
        for metric in metrics:
            for weight in weights:
                metric.add_row(_row(weight))
        for number, loader in enumerate(data.val_dataloader()):  # in pairs: gallery, queries
            metric = metrics[number // 2]
            for given in loader:
                batch = trainer.strategy.batch_to_device(given, module.device)
                with trainer.precision_plugin.val_step_context():
                    if isinstance(batch, GalleryBatch):
                        metric.update_gallery(batch.index, module.encode_gallery(batch).embedding)
                        continue
                    features = module.encode_query(batch)
                for weight in weights:
                    mixed = module.fusion.mix(features.image.embedding, features.text.embedding, weight)
                    metric.update_queries(batch.index, mixed, _row(weight))
        computed = [metric.compute() for metric in metrics]
        headline = protocols[0].headline
        word = next(iter(averaging_groups(protocols)), None)
        figures = {}
        for weight in weights:
            of_splits = [rows[_row(weight)] for rows in computed]
            figures[weight] = float(
                (of_splits[0] if word is None else average_figures(protocols, of_splits)[word])[headline]
            )
        return f"{word or protocols[0].split}_{headline}", figures


def _row(weight: float) -> str:
    return f"weight_{weight:.4f}".replace(".", "_")
