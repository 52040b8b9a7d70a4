"""Settings of the trainer that Lightning takes in silence, or trips over late, are refused before anything is built."""

import math
from datetime import timedelta
from typing import Any

import pytest

from contextcir.errors import InputError
from experiments.trainer_settings import check_run

END = {"max_steps": 3}
REFUSED: list[tuple[str, list[Any]]] = [
    ("trainer.max_steps", [0, -2, math.nan, True]),
    ("trainer.max_epochs", [0, -2]),
    ("trainer.min_steps", [-1]),
    ("trainer.gradient_clip_val", [math.nan, -1, -0.5, math.inf, 10**400]),
    ("trainer.gradient_clip_algorithm", ["nonsense", ""]),
    ("trainer.accumulate_grad_batches", [0, -1, 1.5]),
    ("trainer.val_check_interval", [0, -1, 0.0, 1.5, math.nan, "nonsense", "", {"days": -1}, {"nonsense": 1}]),
    ("trainer.check_val_every_n_epoch", [0, -1]),
    ("trainer.log_every_n_steps", [-1]),
    ("trainer.limit_train_batches", [math.nan, -1, 2.5, -0.5, 0, 0.0]),
    ("trainer.limit_val_batches", [math.nan, -1, 2.5, math.inf]),
    ("trainer.limit_test_batches", [-1, 1.01]),
    ("trainer.limit_predict_batches", [-1, 1.01]),
    ("trainer.overfit_batches", [math.nan, -1, 2.5]),
    ("trainer.num_sanity_val_steps", [-5]),
    ("trainer.devices", [0, -2, [], [0, 0], [-1], "0", "-2", "nonsense", "", "1,1", ",", True, {}]),
    ("trainer.num_nodes", [0, -1]),
    ("trainer.fast_dev_run", [-1]),
    ("trainer.max_time", ["nonsense", "-1:00:00:00", "00:00:00:00", "", {"days": -1}, {"x": 1}, timedelta(0), [], 3]),
    ("trainer.reload_dataloaders_every_n_epochs", [-1]),
    ("seed_everything", [-1, 2**40, 2**32, 1.5]),
    ("model.anything.at_all", [math.nan, math.inf]),
]
FINE: list[dict[str, Any]] = [
    {"max_steps": -1, "max_epochs": 2},
    {"max_steps": -1, "max_epochs": None, "max_time": "00:01:00:00"},
    {"max_steps": -1, "fast_dev_run": True},
    END | {"devices": "auto"},
    END | {"devices": [0, 1]},
    END | {"devices": "0,1"},
    END | {"devices": "1,"},
    END | {"devices": -1},
    END | {"val_check_interval": 1.0, "limit_val_batches": 0, "num_sanity_val_steps": -1},
    END | {"val_check_interval": "00:01:00:00", "check_val_every_n_epoch": None},
    END | {"gradient_clip_val": 0, "log_every_n_steps": 0, "limit_train_batches": 0.5},
    END | {"callbacks": [{"class_path": "somewhere.EMAWeightAveraging", "init_args": {"decay": 0.9}}]},
    END | {"callbacks": None, "logger": False},
]


@pytest.mark.parametrize(("setting", "values"), REFUSED, ids=[setting for setting, _ in REFUSED])
def test_what_can_not_be_meant_is_refused_by_its_name(setting: str, values: list[Any]) -> None:
    *owners, name = setting.split(".")
    for value in values:
        settings: dict[str, Any] = {"trainer": dict(END)}
        inner = settings
        for owner in owners:
            inner = inner.setdefault(owner, {})
        inner[name] = value
        with pytest.raises(InputError) as refused:
            check_run(settings, "fit")
        assert refused.value.setting == setting, value
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize("trainer", FINE, ids=str)
def test_what_is_meant_passes(trainer: dict[str, Any]) -> None:
    check_run({"trainer": trainer, "seed_everything": True}, "fit")


@pytest.mark.parametrize("limits", [{}, {"max_steps": -1}, {"max_steps": -1, "max_epochs": -1}, {"max_epochs": None}])
def test_a_training_without_an_end_asks_for_one(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"has no end: set trainer\.max_steps, trainer\.max_epochs or"):
        check_run({"trainer": limits}, "fit")
    check_run({"trainer": limits}, "test")


@pytest.mark.parametrize(("stage", "part"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_a_stage_without_any_batch_is_refused(stage: str, part: str) -> None:
    with pytest.raises(InputError, match=rf"{stage} would do nothing \(trainer\.limit_{part}_batches\)$"):
        check_run({"trainer": {f"limit_{part}_batches": 0}}, stage)


@pytest.mark.parametrize(
    ("name", "settings", "setting"),
    [
        ("EMAWeightAveraging", {"decay": -1.0}, "decay"),
        ("EMAWeightAveraging", {"decay": 1.0}, "decay"),
        ("EMAWeightAveraging", {"update_every_n_steps": 0}, "update_every_n_steps"),
        ("EarlyStopping", {"patience": -1}, "patience"),
        ("EarlyStopping", {"min_delta": math.nan}, "min_delta"),
        ("ModelCheckpoint", {"save_top_k": -2}, "save_top_k"),
        ("ModelCheckpoint", {"every_n_epochs": -5}, "every_n_epochs"),
        ("Timer", {"duration": "nonsense"}, "duration"),
        ("SomebodyElses", {"rate": math.nan}, "rate"),
    ],
)
def test_callbacks_of_others_are_checked_too(name: str, settings: dict[str, Any], setting: str) -> None:
    callback = {"class_path": f"somewhere.{name}", "init_args": settings}
    with pytest.raises(InputError) as refused:
        check_run({"trainer": END | {"callbacks": [callback]}}, "fit")
    assert refused.value.setting == f"trainer.callbacks.{name}.{setting}"
