"""Norms of the gradients of each part of the model, before they are clipped."""

from collections.abc import Iterable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer


class GradientNorms(Callback):
    """Log the norms of the gradients of the fusion and of both towers, every log_every_n_steps.

    They are ``train_gradient_fusion``, ``train_gradient_text`` and ``train_gradient_image``, and ``train_gradient`` of
    all trained weights together, which the Trainer's ``gradient_clip_val`` limits: L2 norms of the gradient averaged
    over the ranks, before it is clipped. Parts that do not train are left out.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log, if it is due; float16 gradients have been unscaled by now."""
        if not trainer.log_every_n_steps or (trainer.global_step + 1) % trainer.log_every_n_steps:
            return
        visual = {id(weight) for weight in pl_module.backbone.clip.visual.parameters()}
        text = [weight for weight in pl_module.backbone.parameters() if id(weight) not in visual]
        parts = {
            "train_gradient": pl_module.parameters(),
            "train_gradient_fusion": pl_module.fusion.parameters(),
            "train_gradient_text": text,
            "train_gradient_image": pl_module.backbone.clip.visual.parameters(),
        }
        norms = {name: norm(weights) for name, weights in parts.items()}
        pl_module.log_dict({name: value for name, value in norms.items() if value is not None})


def norm(weights: Iterable[nn.Parameter]) -> Tensor | None:
    """Return the L2 norm of the gradients of these weights; None where there is none."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else None
