"""Optimizer and schedule: AdamW in groups, linear warm-up, cosine decay."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


class AdamWWarmupCosine:
    """AdamW with one learning rate for the backbone and one for everything else.

    The rates rise linearly over ``warmup_steps`` and fall along a cosine to ``final_lr_scale`` times their height at
    the last step. Norms, biases, embeddings, learned queries and temperatures are not decayed. ``fused``: the update as
    one kernel for all parameters; None leaves the choice of kernels to torch.
    """

    def __init__(
        self,
        lr: float = 1e-4,
        backbone_lr: float = 1e-5,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        final_lr_scale: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {warmup_steps} (--model.optimizer.warmup_steps)")
        self.lr = lr
        self.backbone_lr = backbone_lr
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.betas = (betas[0], betas[1])
        self.eps = eps
        self.final_lr_scale = final_lr_scale
        self.fused = fused

    def __call__(
        self, backbone: nn.Module, head: nn.Module | Iterable[nn.Module], total_steps: int
    ) -> tuple[AdamW, LambdaLR]:
        """Optimizer of the trainable parameters of `backbone` and of the `head` (or heads), and its schedule by step.

        Raises ValueError where nothing trains, or the number of steps is not known.
        """
        if not 0 < total_steps < math.inf:
            raise ValueError(
                f"the schedule needs to know its end, got {total_steps} steps: set --trainer.max_steps or "
                "--trainer.max_epochs"
            )
        heads = [head] if isinstance(head, nn.Module) else list(head)
        groups, seen = [], set()
        for name, modules, rate in (("backbone", [backbone], self.backbone_lr), ("head", heads, self.lr)):
            decayed, plain = split_by_decay(modules, seen)
            groups.append({"name": name, "params": decayed, "lr": rate, "weight_decay": self.weight_decay})
            groups.append({"name": f"{name}_no_decay", "params": plain, "lr": rate, "weight_decay": 0.0})
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise ValueError(
                "nothing to train: all parameters are frozen (--model.backbone.trainable_image_blocks, "
                "--model.backbone.trainable_text_blocks)"
            )
        optimizer = AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=self.fused)
        # A fused optimizer can undo the scaling of float16 gradients by itself, and Lightning refuses to clip those of
        # one that says so. It need not: where there is a scaler, that will do it.
        optimizer._step_supports_amp_scaling = False
        return optimizer, LambdaLR(optimizer, lambda step: self.scale(step, total_steps))

    def scale(self, step: int, total_steps: int) -> float:
        """Factor of the learning rates at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))
        return self.final_lr_scale + (1 - self.final_lr_scale) * (1 + math.cos(math.pi * progress)) / 2


class AdamWWarmupRestarts(AdamWWarmupCosine):
    """The schedule of the published code: after the warm-up, cosines one after the other, each longer than the last.

    The first takes ``cycle_steps``, each further one ``cycle_growth`` times as long as the one before it; all fall from
    full height to ``final_lr_scale`` (Loshchilov and Hutter, SGDR, ICLR 2017). The last need not reach its end.
    """

    def __init__(
        self,
        lr: float = 1e-5,
        backbone_lr: float = 1e-5,
        weight_decay: float = 0.01,
        warmup_steps: int = 500,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        final_lr_scale: float = 0.0,
        cycle_steps: int = 2500,
        cycle_growth: int = 2,
        fused: bool | None = None,
    ) -> None:
        super().__init__(lr, backbone_lr, weight_decay, warmup_steps, betas, eps, final_lr_scale, fused)
        if cycle_steps < 1 or cycle_growth < 1:
            raise ValueError(
                f"cycle_steps and cycle_growth must be at least 1, got {cycle_steps} and {cycle_growth} "
                "(--model.optimizer.cycle_steps, --model.optimizer.cycle_growth)"
            )
        self.cycle_steps = cycle_steps
        self.cycle_growth = cycle_growth

    def scale(self, step: int, total_steps: int) -> float:
        """Factor of the learning rates at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        step, length = step - self.warmup_steps, self.cycle_steps
        while step >= length:
            step, length = step - length, length * self.cycle_growth
        return self.final_lr_scale + (1 - self.final_lr_scale) * (1 + math.cos(math.pi * step / length)) / 2


def split_by_decay(modules: Iterable[nn.Module], seen: set[int]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters that are decayed, and those that are not, without those in `seen`; the rest is noted there.

    Not decayed: parameters with at most one dimension (norms, biases, temperatures), embeddings, and what a module
    lists in its method ``no_weight_decay`` (timm's convention, which open_clip follows for its embeddings).
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for root in modules:
        exempt = {id(p) for module in root.modules() for p in exempted(module)}
        for parameter in root.parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                (plain if parameter.ndim <= 1 or id(parameter) in exempt else decayed).append(parameter)
    return decayed, plain


def exempted(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of this module that are not to be decayed whatever their shape."""
    if isinstance(module, nn.Embedding):
        return [module.weight]
    listed = module.no_weight_decay() if hasattr(module, "no_weight_decay") else ()
    return [module.get_parameter(name) for name in listed]
