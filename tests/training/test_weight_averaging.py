"""An exponential moving average of the weights: evaluated, kept in checkpoints, and gone on with by a resumed run."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine
from data_modules import CIRR
from tests.helpers.make_data import make_cirr
from tests.helpers.watch import new_model

DECAY = 0.6


class Steps(Callback):
    """Keeps one weight after every step, and as evaluations meet it."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.evaluated: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.trained.append(weight(pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(trainer.default_root_dir + "/half.ckpt")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == dataloader_idx == 0:
            self.evaluated.append(weight(pl_module))


def weight(module: LightningModule) -> Tensor:
    return module.fusion.projection.weight.detach().clone()


def fit(folder: Path, data: Path, epochs: int, checkpoint: Path | None = None) -> tuple[ContextCIR, Steps]:
    model, steps = new_model(), Steps()
    model.optimizer = AdamWWarmupCosine(lr=0.1, warmup_steps=0, final_lr_scale=1.0)  # the same rate at every step
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[EMAWeightAveraging(decay=DECAY), steps],
    )  # fmt: skip
    trainer.fit(model, CIRR(data, batch_size=2, num_workers=0), ckpt_path=checkpoint)
    return model, steps


def average(weights: list[Tensor]) -> Tensor:
    """The first weights count in full: the average starts from them."""
    mean = weights[0]
    for later in weights[1:]:
        mean = DECAY * mean + (1 - DECAY) * later
    return mean


def test_evaluations_and_the_end_hold_the_average_and_training_goes_on_from_its_own(tmp_path: Path) -> None:
    model, steps = fit(tmp_path, make_cirr(tmp_path / "data"), 2)
    per_epoch = len(steps.trained) // 2
    assert len(steps.evaluated) == 2 and per_epoch > 1
    torch.testing.assert_close(steps.evaluated[0], average(steps.trained[:per_epoch]))
    torch.testing.assert_close(steps.evaluated[1], average(steps.trained))
    torch.testing.assert_close(weight(model), average(steps.trained))
    assert (weight(model) - steps.trained[-1]).abs().max() > 1e-3


def test_a_resumed_run_keeps_the_average(tmp_path: Path) -> None:
    data, file = make_cirr(tmp_path / "data"), tmp_path / "half.ckpt"
    whole, expected = fit(tmp_path, data, 2)
    half = len(expected.trained) // 2
    stored = torch.load(file, weights_only=False)
    name = "fusion.projection.weight"
    torch.testing.assert_close(stored["state_dict"][name], average(expected.trained[:half]))
    torch.testing.assert_close(stored["current_model_state"][name], expected.trained[half - 1])
    resumed, later = fit(tmp_path, data, 2, file)
    for found, value in zip(later.trained, expected.trained[half:], strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=0)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0, msg=key)
