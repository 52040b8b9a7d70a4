"""Optimizer and schedule: AdamW in groups, linear warm-up, cosine decay."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from contextcir.checks import between, fraction, not_negative, positive, whole
from contextcir.errors import InputError, shown

RATES = "model.optimizer.rates"


class AdamWWarmupCosine:
    """AdamW with one learning rate for the backbone and one for everything else.

    The rates rise linearly over ``warmup_steps`` and fall along a cosine to ``final_lr_scale`` times their maximum at
    the last step. Norms, biases, embeddings, learned queries and temperatures have no weight decay. A rate of 0
    keeps a part as it is.

    Args:
        lr: learning rate of all but the backbone.
        backbone_lr: learning rate of both towers.
        weight_decay: of AdamW, multiplied by the learning rate.
        warmup_steps: optimizer steps until the rates are reached.
        betas: decay of the running means of gradients and of their squares.
        eps: added to the root of the latter.
        final_lr_scale: what the rates end at, as a share of their maximum.
        fused: update all parameters in one kernel; None leaves the choice of kernels to torch.
        rates: learning rates of groups of parameters in the place of these two, by name: ``image_tower``,
            ``text_tower``, and what a fusion or loss names in its method ``parameter_groups``, such as ``scales``.

    Raises:
        InputError: if a number is outside of its range, all learning rates are 0, or no module names a group.
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
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.lr = not_negative(lr, "model.optimizer.lr")
        self.backbone_lr = not_negative(backbone_lr, "model.optimizer.backbone_lr")
        if rates is not None and not isinstance(rates, Mapping):
            raise InputError(f"expected a rate by name, got {shown(rates)}", setting=RATES)
        self.rates = {name: not_negative(value, f"{RATES}.{name}") for name, value in (rates or {}).items()}
        rate = max(lr, backbone_lr, *self.rates.values())
        if not rate:
            raise InputError("all learning rates are 0: nothing would train", setting="model.optimizer.lr")
        self.weight_decay = not_negative(weight_decay, "model.optimizer.weight_decay")
        if rate * weight_decay >= 1:  # a step multiplies the weights by 1 less this
            problem = f"expected less than {1 / rate:g}, the inverse of the largest learning rate, got {weight_decay}"
            raise InputError(f"{problem}: a step would turn weights around", setting="model.optimizer.weight_decay")
        self.warmup_steps = whole(warmup_steps, 0, "model.optimizer.warmup_steps")
        self.betas = _betas(betas)
        self.eps = positive(eps, "model.optimizer.eps")
        self.final_lr_scale = between(final_lr_scale, 0, 1, "model.optimizer.final_lr_scale")
        self.fused = fused

    def __call__(
        self, backbone: nn.Module, head: nn.Module | Iterable[nn.Module], total_steps: float
    ) -> tuple[AdamW, LambdaLR]:
        """Return the optimizer of the trainable parameters of a backbone and its head (or heads), and its schedule.

        Raises:
            InputError: if nothing trains, or the number of steps is unknown.
        """
        if not 0 < total_steps < math.inf:
            raise InputError(
                f"the schedule needs a number of steps, got {total_steps}: set the steps or the epochs of the trainer",
                setting="trainer.max_steps",
            )
        if self.warmup_steps > total_steps:
            rank_zero_warn(
                f"the warm-up takes {self.warmup_steps:,} steps, and the training only {total_steps:,g}: the learning "
                "rates do not reach their maximum (model.optimizer.warmup_steps)"
            )
        heads = [head] if isinstance(head, nn.Module) else list(head)
        groups: list[dict[str, Any]] = []
        seen: set[int] = set()
        everything = [backbone, *heads]
        named = named_groups(everything)
        for unknown in sorted(self.rates.keys() - named.keys()):
            problem = f"no module has parameters called {shown(unknown)}; there are {', '.join(sorted(named))}"
            raise InputError(problem, setting=RATES)
        kinds: list[tuple[str, list[nn.Module], float, set[int] | None]] = [
            (name, everything, rate, named[name]) for name, rate in self.rates.items()
        ]
        kinds += [("backbone", [backbone], self.backbone_lr, None), ("head", heads, self.lr, None)]
        for name, modules, rate, members in kinds:
            decayed, plain = split_by_decay(modules, seen, members)
            groups.append({"name": name, "params": decayed, "lr": rate, "weight_decay": self.weight_decay})
            groups.append({"name": f"{name}_no_decay", "params": plain, "lr": rate, "weight_decay": 0.0})
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise InputError(
                "nothing to train: all parameters are frozen; train blocks of the image or the text tower",
                setting="model.backbone.trainable_image_blocks",
            )
        optimizer = AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=self.fused)
        # A fused optimizer can unscale float16 gradients by itself, and Lightning refuses to clip the gradients of an
        # optimizer that does. With this off, the gradient scaler unscales them, and clipping works.
        optimizer._step_supports_amp_scaling = False
        return optimizer, LambdaLR(optimizer, lambda step: self.scale(step, total_steps))

    def scale(self, step: int, total_steps: float) -> float:
        """Return the factor of the learning rates at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))
        return self.final_lr_scale + (1 - self.final_lr_scale) * (1 + math.cos(math.pi * progress)) / 2


class AdamWWarmupRestarts(AdamWWarmupCosine):
    """The schedule of the published code: after the warm-up, cosine cycles with restarts, each longer than the last.

    The first cycle takes ``cycle_steps``, each further one ``cycle_growth`` times as long as the one before it; all
    fall from the maximum to ``final_lr_scale`` (Loshchilov and Hutter, SGDR, ICLR 2017). The last may be incomplete.

    Args:
        lr: learning rate of all but the backbone.
        backbone_lr: learning rate of both towers.
        weight_decay: as that of AdamWWarmupCosine.
        warmup_steps: as those of AdamWWarmupCosine.
        betas: as those of AdamWWarmupCosine.
        eps: as that of AdamWWarmupCosine.
        final_lr_scale: as that of AdamWWarmupCosine.
        cycle_steps: optimizer steps of the first cycle.
        cycle_growth: how many times as long as the one before it a cycle is.
        fused: as that of AdamWWarmupCosine.
        rates: as those of AdamWWarmupCosine.

    Raises:
        InputError: if ``cycle_steps`` or ``cycle_growth`` is less than 1.
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
        rates: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(lr, backbone_lr, weight_decay, warmup_steps, betas, eps, final_lr_scale, fused, rates)
        self.cycle_steps = whole(cycle_steps, 1, "model.optimizer.cycle_steps")
        self.cycle_growth = whole(cycle_growth, 1, "model.optimizer.cycle_growth")

    def scale(self, step: int, total_steps: float) -> float:
        """Return the factor of the learning rates at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        step, length = step - self.warmup_steps, self.cycle_steps
        while step >= length:
            step, length = step - length, length * self.cycle_growth
        return self.final_lr_scale + (1 - self.final_lr_scale) * (1 + math.cos(math.pi * step / length)) / 2


def _betas(given: Sequence[float]) -> tuple[float, float]:
    if len(given) != 2:
        raise InputError(f"expected two numbers, got {shown(given)}", setting="model.optimizer.betas")
    first, second = (fraction(beta, "model.optimizer.betas") for beta in given)
    return first, second


def named_groups(modules: Iterable[nn.Module]) -> dict[str, set[int]]:
    """Return the ids of the parameters that modules name in their method ``parameter_groups``, by group."""
    groups: dict[str, set[int]] = {}
    for module in (module for root in modules for module in root.modules()):
        method = getattr(module, "parameter_groups", None)
        for name, members in (method() if callable(method) else {}).items():
            groups.setdefault(name, set()).update(id(module.get_parameter(member)) for member in members)
    return groups


def split_by_decay(
    modules: Iterable[nn.Module], seen: set[int], members: set[int] | None = None
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable parameters with weight decay, and those without; both are added to ``seen``, once each.

    ``members``: ids of those to choose from; None for all. Without decay: parameters with at most one dimension (norms,
    biases, temperatures), embeddings, and those that a module lists in its method ``no_weight_decay`` (timm's
    convention, which open_clip follows for its embeddings).
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for root in modules:
        exempt = {id(p) for module in root.modules() for p in exempted(module)}
        for parameter in root.parameters():
            chosen = members is None or id(parameter) in members
            if chosen and parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                (plain if parameter.ndim <= 1 or id(parameter) in exempt else decayed).append(parameter)
    return decayed, plain


def exempted(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of this module that have no weight decay whatever their shape."""
    names: Iterable[str] = ("weight",) if isinstance(module, nn.Embedding) else ()
    method = getattr(module, "no_weight_decay", None)
    if callable(method):
        names = method()
    return [module.get_parameter(name) for name in names]
