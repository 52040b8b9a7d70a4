"""Loading of checkpoints by a Trainer: from files on this machine, and only what runs no code."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy

from contextcir.errors import InputError
from contextcir.weights import WeightsFile, checked, local_file, misfits, read_weights, state_of, under
from contextcir.weights.states import listed

SETTING = "ckpt_path"
VERSION = "pytorch-lightning_version"
RESUME = ("optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")  # what training continues from
AVERAGED = "current_model_state"  # where weight averaging keeps the weights that are being trained


def read_checkpoint(path: str | Path, setting: str | None = SETTING, mapped: bool = False) -> dict[str, Any]:
    """Return a checkpoint as Lightning takes it; of a file of bare weights, one that can be evaluated.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is not on this machine, no file of weights, damaged, or holds more than weights.
    """
    found = read_weights(path, setting, mapped)
    content = found.content
    if isinstance(content, Mapping) and VERSION in content and isinstance(content.get("state_dict"), Mapping):
        return dict(content)
    state = state_of(found, setting)
    return {
        VERSION: lightning.__version__,
        "state_dict": state,
        "epoch": 0,
        "global_step": 0,
        "callbacks": {},
    }


def load_only_weights(trainer: Trainer) -> None:
    """Let a Trainer load checkpoints by `read_checkpoint`, whatever plugins and arguments it has.

    By default Lightning fetches addresses, and runs the code in what it gets. Strategies that load parts of a model in
    a way of their own keep it, for files on this machine, and without code.
    """
    strategy: Any = trainer.strategy
    if "load_checkpoint" in vars(strategy):
        return
    own: Callable[..., Any] | None = None
    if type(strategy).load_checkpoint is not Strategy.load_checkpoint:
        own = strategy.load_checkpoint

    def load(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        if own is None:
            return read_checkpoint(checkpoint_path)
        return own(local_file(checkpoint_path, SETTING), weights_only=True)

    strategy.load_checkpoint = load


def check_resumable(checkpoint: Mapping[str, Any], file: str | Path | None = None) -> None:
    """Check that training can go on from a checkpoint.

    Raises:
        InputError: if it has weights only.
    """
    lacking = [name for name in RESUME if name not in checkpoint or checkpoint[name] in ({}, [])]
    if "optimizer_states" in lacking or "loops" in lacking:
        raise InputError(
            f"has weights, but no {' and '.join(lacking[:2])} to go on from: fit needs a resume point; to begin from a "
            "CLIP's weights give them as model.backbone.pretrained",
            file=file,
            setting=SETTING,
        )


def fit_to(model: Any, checkpoint: dict[str, Any], file: str | Path = "the checkpoint") -> list[str]:
    """Put the weights of a checkpoint under the names of a model; return what keeps them from being loaded.

    Raises:
        InputError: if one is no weight, or not finite.
    """
    own = model.state_dict()
    found = WeightsFile(Path(file), "a checkpoint", checkpoint)
    for key in ("state_dict", AVERAGED):
        if key == "state_dict" or isinstance(checkpoint.get(key), Mapping):
            state = checked(checkpoint.get(key, {}), found, SETTING)
            anchor = next((name for name in own if name.endswith("visual.conv1.weight")), next(iter(own)))
            checkpoint[key] = state if state.keys() == own.keys() else under(state, anchor, found, SETTING)
    return misfits(checkpoint["state_dict"], own)


def refuse_misfit(odd: list[str], checkpoint: Mapping[str, Any], file: str | Path | None, hint: str = "") -> None:
    """Raise an InputError if there is anything that keeps weights from being loaded."""
    if odd:
        more = f" (and {len(odd) - 1} more)" if odd[1:] else ""
        held = hint or f"its weights are {listed(checkpoint['state_dict'], 2)}"
        raise InputError(f"does not fit the model of this command: {odd[0]}{more}; {held}", file=file, setting=SETTING)
