"""What an evaluation can score, made sure of before anything is computed: no stage ends well without a figure."""

from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from contextcir.errors import InputError, shown
from contextcir.evaluation.protocol import Protocol, averaging_groups

HEADLINE = "headline"
STAGES = {"fit": "val", "validate": "val", "test": "test", "predict": "predict"}
OURS = ("callbacks", "contextcir", "data_modules", "experiments", "lightning")
# Figures of callbacks beside those of the protocols.
OTHER = ("pointing_game", "attention_inside", "target_before_", "first_", "image_only_", "text_only_", "sum_")


class ScoringCheck(Callback):
    """Refuse an evaluation that has nothing to score, and a checkpoint that is chosen by a figure that nobody logs.

    The monitor ``headline`` of ModelCheckpoint and EarlyStopping becomes the headline of the benchmark, of its mean
    where it has several parts. `experiments.run` adds this callback to every run.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check; all annotations have been read.

        Raises:
            InputError: if there is nothing to score, or a monitored figure does not exist.
        """
        limit = {"predict": trainer.limit_predict_batches, "test": trainer.limit_test_batches}.get(
            stage, trainer.limit_val_batches
        )
        of = STAGES[stage]
        protocols = trainer.datamodule.protocols(of) if hasattr(trainer.datamodule, "protocols") else None
        if protocols is not None and (limit or stage != "fit"):
            check_scored(protocols, of, limit)
        if protocols and stage == "fit":
            check_monitors(trainer, protocols)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there are figures.

        Raises:
            InputError: if ``validate`` has found none.
        """
        if trainer.state.fn != "fit" and not trainer.callback_metrics:
            part = "val" if trainer.state.fn == "validate" else "test"
            raise InputError(f"{part}: nothing was scored: not one query and one image", setting=f"data.{part}_splits")

    on_test_end = on_validation_end


def check_scored(protocols: Sequence[Protocol], stage: str, limit: float) -> None:
    """Check that the protocols of ``val``, ``test`` or ``predict`` give a result.

    Raises:
        InputError: if there are none, no batches are taken, or their labels are hidden.
    """
    setting = f"data.{'val' if stage == 'val' else 'test'}_splits"
    if not protocols:
        raise InputError("expected at least one split, got an empty list", setting=setting)
    if not limit:
        raise InputError("expected more than 0 batches: nothing would be evaluated", setting=f"limit_{stage}_batches")
    if stage != "predict" and not any(protocol.labelled for protocol in protocols):
        names = ", ".join(f"{protocol.benchmark} {protocol.split}" for protocol in protocols)
        problem = f"no record of {names} has a target, so there is nothing to score: choose a split with labels"
        raise InputError(problem, setting=setting)


def check_monitors(trainer: Trainer, protocols: Sequence[Protocol]) -> None:
    """Fill in the monitor ``headline``, and check all others that name a figure of a protocol.

    Raises:
        InputError: if there is no such figure.
    """
    words = averaging_groups(protocols)
    names = list(figures(protocols))
    prefixes = tuple(f"{word}_" for word in (*words, *(protocol.split for protocol in protocols)))
    first = next(iter(words), protocols[0].split)
    foreign = any(type(callback).__module__.partition(".")[0] not in OURS for callback in trainer.callbacks)
    for callback in trainer.callbacks:
        monitor: Any = getattr(callback, "monitor", None)
        if monitor == HEADLINE:
            callback.monitor = f"{first}_{protocols[0].headline}"
        elif isinstance(monitor, str) and monitor.startswith(prefixes) and monitor not in names and not foreign:
            rest = monitor.removeprefix(max((p for p in prefixes if monitor.startswith(p)), key=len))
            if not rest.startswith(OTHER):
                few = ", ".join([name for name in names if name.startswith(f"{first}_")][:8])
                kind = type(callback).__name__
                problem = f"{kind} monitors {shown(monitor)}, but there are {few}; or take {HEADLINE}"
                raise InputError(problem, setting="trainer.callbacks")


def figures(protocols: Sequence[Protocol]) -> Iterator[str]:
    """Yield the names of all logged figures of the protocols, those of their means first."""
    for word, members in averaging_groups(protocols).items():
        yield from (f"{word}_{name}" for name in protocols[members[0]].metric_names())
    for protocol in protocols:
        yield from (f"{protocol.split}_{name}" for name in protocol.logged_names())
