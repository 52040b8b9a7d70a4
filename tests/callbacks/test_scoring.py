"""An evaluation that has nothing to score, or a monitor that nobody logs, is an error before any work."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from callbacks.scoring import ScoringCheck
from contextcir.errors import InputError
from contextcir.evaluation.metrics import RecallAt
from contextcir.evaluation.protocol import Protocol

ONE = {"gallery": ("a", "b"), "query_ids": (1,), "references": (-1,), "exclude_reference": False}


def protocol(split: str = "val", labelled: bool = True, averaged_as: str | None = None) -> Protocol:
    targets = ((1,),) if labelled else ((),)
    options = {"benchmark": "toy", "metrics": RecallAt.at(1, 5), "headline": "recall_at_5"}
    return Protocol(split=split, targets=targets, averaged_as=averaged_as, **ONE, **options)


def set_up(stage: str, protocols: list[Protocol], *callbacks: Any, **limits: float) -> None:
    data = SimpleNamespace(protocols=lambda stage: protocols)
    limits = {f"limit_{part}_batches": 1.0 for part in ("val", "test", "predict")} | limits
    trainer = SimpleNamespace(datamodule=data, callbacks=list(callbacks), **limits)
    ScoringCheck().setup(trainer, None, stage)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("protocols", [[], [protocol(labelled=False)]], ids=["no split", "no labels"])
def test_a_stage_that_scores_needs_something_to_score(stage: str, protocols: list[Protocol]) -> None:
    with pytest.raises(InputError, match="at least one split|no record of toy val has a target") as error:
        set_up(stage, protocols)
    assert error.value.setting == f"data.{'test' if stage == 'test' else 'val'}_splits"


@pytest.mark.parametrize(("stage", "part"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_an_evaluation_of_no_batches_is_none(stage: str, part: str) -> None:
    with pytest.raises(InputError, match="nothing would be evaluated"):
        set_up(stage, [protocol()], **{f"limit_{part}_batches": 0})


def test_what_need_not_be_scored_is_left_alone() -> None:
    set_up("fit", [protocol(labelled=False)], limit_val_batches=0)
    set_up("predict", [protocol(labelled=False)])
    set_up("validate", [protocol(labelled=False), protocol("other")])


PARTS = [protocol("val_dress", averaged_as="val"), protocol("val_shirt", averaged_as="val")]


@pytest.mark.parametrize(
    ("protocols", "headline"),
    [([protocol()], "val_recall_at_5"), (PARTS, "val_recall_at_5"), (PARTS[:1], "val_recall_at_5")],
)
def test_the_headline_follows_the_benchmark(protocols: list[Protocol], headline: str) -> None:
    watching = ModelCheckpoint(monitor="headline"), EarlyStopping(monitor="headline")
    set_up("fit", protocols, *watching)
    assert [callback.monitor for callback in watching] == [headline] * 2


@pytest.mark.parametrize("kind", [ModelCheckpoint, EarlyStopping])
def test_a_figure_that_is_not_logged_cannot_be_monitored(kind: type) -> None:
    with pytest.raises(InputError, match=r"monitors 'val_recall_at_2', but there are val_recall_at_1, val_recall_at_5"):
        set_up("fit", PARTS, kind(monitor="val_recall_at_2"))
    for known in ("val_recall_at_1", "val_dress_recall_at_1", "val_pointing_game", "train_loss", "val_sum_recall_at_1"):
        set_up("fit", PARTS, kind(monitor=known))
