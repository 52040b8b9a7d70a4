"""Gradient caching under Lightning's Trainer: mixed precision, clipping, accumulation, checkpoints, ranks."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine
from tests.helpers.gradient_cases import CACHE, new_batch, new_model

BATCHES = [new_batch(7, torch.float32, seed=seed) for seed in range(4)]


def fit(
    folder: Path, encoding: WholeBatch, checkpoint: str | None = None, **settings: Any
) -> tuple[ContextCIR, Trainer]:
    """Train on four batches, twice, and save the end."""
    model = new_model("Text-CC", encoding, torch.float32)
    # With a large epsilon, AdamW's steps are in proportion to the gradient: else it would make full steps of rounding
    # errors where the gradient is zero.
    model.optimizer = AdamWWarmupCosine(lr=5.0, backbone_lr=5.0, warmup_steps=1, eps=1.0)
    options = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "logger": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(default_root_dir=folder, **(options | settings))
    trainer.fit(model, DataLoader(BATCHES, batch_size=None), ckpt_path=checkpoint)
    return model, trainer


def change(model: ContextCIR) -> Tensor:
    """How far the trained weights are from the first ones, all in a row."""
    first = new_model("Text-CC", WholeBatch(), torch.float32).parameters()
    both = zip(model.parameters(), first, strict=True)
    return torch.cat([(now - then).detach().flatten() for now, then in both if now.requires_grad])


def assert_same_training(found: ContextCIR, expected: ContextCIR, tolerance: float) -> None:
    a, b = change(found), change(expected)
    assert b.norm() > 1e-2 and (a - b).norm() <= tolerance * b.norm(), (a - b).norm() / b.norm()


SETTINGS = {
    "plain": ({}, 1e-4),
    "clipped": ({"gradient_clip_val": 0.05}, 1e-4),
    "accumulated": ({"accumulate_grad_batches": 2}, 1e-4),
    "bf16": ({"precision": "bf16-mixed", "gradient_clip_val": 0.05}, 0.1),
    "all bf16": ({"precision": "bf16-true"}, 0.3),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_that_of_the_whole_batch(tmp_path: Path, name: str) -> None:
    settings, tolerance = SETTINGS[name]
    (found, trainer), (expected, _) = (fit(tmp_path, encoding, **settings) for encoding in (CACHE, WholeBatch()))
    assert trainer.global_step == (4 if name == "accumulated" else 8)
    assert_same_training(found, expected, tolerance)


@pytest.mark.skipif(platform.system() == "Darwin", reason="forked ranks are flaky on macOS")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_on_two_ranks_is_that_of_the_whole_batch(tmp_path: Path, accumulate: int) -> None:
    settings = {"devices": 2, "strategy": "ddp_fork", "accumulate_grad_batches": accumulate, "gradient_clip_val": 0.1}
    (found, _), (expected, _) = (fit(tmp_path, encoding, **settings) for encoding in (CACHE, WholeBatch()))
    assert_same_training(found, expected, 1e-4)


def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path, CACHE, max_steps=-1)
    _, stopped = fit(tmp_path, CACHE, max_epochs=1)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed, trainer = fit(tmp_path, CACHE, checkpoint=str(tmp_path / "half.ckpt"))
    assert trainer.global_step == 8
    assert not torch.equal(change(resumed), change(stopped.lightning_module))
    # The schedule of the stopped run ended earlier, so the weights differ; the keys are those of any checkpoint.
    plain, _ = fit(tmp_path, WholeBatch(), checkpoint=str(tmp_path / "half.ckpt"))
    assert_same_training(resumed, plain, 1e-4)
    assert whole.state_dict().keys() == plain.state_dict().keys()


class Moves(TorchFunctionMode):
    """Notes how many images at a time are moved by `Tensor.to`, and their device."""

    def __init__(self) -> None:
        self.images: list[int] = []

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.to and args[0].shape[1:] == (3, 32, 32):
            self.images.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_images_stay_where_they_are_and_move_chunk_by_chunk() -> None:
    batch, elsewhere = new_batch(12, torch.float32), torch.device("meta")
    cached, whole = (new_model("Text-CC", encoding, torch.float32) for encoding in (GradientCache(3), WholeBatch()))
    moved = cached.transfer_batch_to_device(batch, elsewhere, 0)
    assert moved.target.device.type == moved.query.reference.device.type == "cpu"
    assert moved.target_id.device.type == moved.query.phrases.owner.device.type == "cpu"  # worked with on the host
    assert torch.equal(moved.target, batch.target) and torch.equal(moved.query.reference, batch.query.reference)
    assert moved.query.captions == batch.query.captions
    assert whole.transfer_batch_to_device(batch, elsewhere, 0).target.device == elsewhere
    assert cached.transfer_batch_to_device(batch.query, elsewhere, 0).reference.device == elsewhere
    with Moves() as moves:  # the mode does not reach into backward, where the same function moves them again
        cached.losses(batch)
    images = len(torch.cat([batch.reference_id, batch.target_id]).unique())
    assert images <= sum(moves.images) <= images + 3, "not each once, but for a reference at the border of two chunks"
    assert max(moves.images) <= 3 and len(moves.images) == 2 * 4  # references and targets of 4 chunks


def test_the_trainer_leaves_images_to_the_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    move = GradientCache.move
    monkeypatch.setattr(GradientCache, "move", lambda self, *given: asked.append(given[1]) or move(self, *given))
    fit(tmp_path, CACHE, max_steps=3)
    assert asked == [torch.device("cpu")] * 3


def test_a_low_precision_loss_is_close_to_the_full_one(tmp_path: Path) -> None:
    batch = BATCHES[0]
    model = new_model("Text-CC", CACHE, torch.float32)
    full = model.losses(batch)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.losses(batch)
    low["loss"].backward()  # outside of it, as Lightning has it
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    for name, value in full.items():
        torch.testing.assert_close(low[name], value, rtol=0.05, atol=0.01)
    assert low["loss"] != full["loss"]
