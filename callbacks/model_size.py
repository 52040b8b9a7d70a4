"""The parts of the model and their parameters, printed before training."""

from collections.abc import Iterator

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from torch import nn

from callbacks.results import Sheet, show


class ModelSize(ModelSummary):
    """Print the parameters of each part, and how many of them are trained.

    Lightning's own summary has columns of FLOPs and modes, which it leaves at zero and at "train" for this model.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, on rank 0 only."""
        if trainer.is_global_zero:
            rows = [_row(*part) for part in _parts(pl_module)]
            show(Sheet("Model", ["part", "class", "parameters", "trained"], rows), left=2)


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the direct parts that have parameters, and the whole."""
    for name, part in model.named_children():
        if next(part.parameters(), None) is not None:
            yield name, part
    yield "all", model


def _row(name: str, module: nn.Module) -> list[str]:
    total = sum(weight.numel() for weight in module.parameters())
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    return [name, type(module).__name__, f"{total:,}", f"{trained:,}"]
