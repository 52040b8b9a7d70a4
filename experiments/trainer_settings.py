"""Checks of the settings of a run that Lightning takes without a word, or trips over late: before anything is built.

What is checked is the parsed configuration, so that the settings of classes from other packages are covered too.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from contextcir.checks import fraction, not_negative, whole
from contextcir.errors import InputError, shown

Settings = Mapping[str, Any]
Check = Callable[[Any, str], Any]

# What a stage goes through: without any of it, the stage would end with exit status 0 and nothing done.
BATCHES = {
    "fit": "limit_train_batches",
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}
DURATION = re.compile(r"(\d{1,6}):(\d\d):(\d\d):(\d\d)")
HIGHEST_SEED = 2**32 - 1  # numpy's


def check_run(settings: Any, stage: str) -> None:
    """Check the parsed settings of a command.

    Args:
        settings: of the stage, with `trainer` and all else.
        stage: fit, validate, test or predict.

    Raises:
        InputError: for the first number that can't be meant; it names the setting.
    """
    plain = _plain(settings)
    for setting, value in numbers(plain):
        if not _finite(value):
            raise InputError(f"expected a finite number, got {shown(value)}", setting=setting)
    seed = plain.get("seed_everything")
    if not isinstance(seed, bool | None):  # true draws one, false leaves random numbers alone
        whole(seed, 0, "seed_everything", HIGHEST_SEED)
    trainer = plain.get("trainer") or {}
    for name, check in TRAINER.items():
        if trainer.get(name) is not None:
            check(trainer[name], f"trainer.{name}")
    for setting, value, check in _foreign(trainer):
        check(value, setting)
    if not trainer.get("fast_dev_run"):
        _check_work(trainer, stage)


def numbers(value: Any, setting: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers of some settings; those of an element of a list are named after its class."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield from numbers(value.get("init_args"), setting)
            yield from numbers(value.get("dict_kwargs"), setting)
            return
        for name, inner in value.items():
            yield from numbers(inner, f"{setting}.{name}".strip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            kind = _class_name(inner)
            yield from numbers(inner, f"{setting}.{kind}" if kind else setting)
    elif type(value) in (int, float):
        yield setting, value


def _plain(settings: Any) -> Any:
    """Return nested settings of jsonargparse as dictionaries and lists."""
    if hasattr(settings, "as_dict"):
        settings = settings.as_dict()
    return settings if isinstance(settings, Mapping) else {}


def _class_name(value: Any) -> str:
    path = value.get("class_path") if isinstance(value, Mapping) else None
    return path.rpartition(".")[2] if isinstance(path, str) else ""


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _check_work(trainer: Settings, stage: str) -> None:
    """Refuse a stage without anything to do, and a training without an end."""
    name = BATCHES.get(stage)
    if name is not None and trainer.get(name) == 0:
        raise InputError(f"expected more than 0, got 0: {stage} would do nothing", setting=f"trainer.{name}")
    if stage == "fit" and _endless(trainer):
        raise InputError(
            "the training has no end: set trainer.max_steps, trainer.max_epochs or trainer.max_time",
            setting="trainer.max_steps",
        )


def _endless(trainer: Settings) -> bool:
    limits = (trainer.get("max_steps"), trainer.get("max_epochs"))
    return trainer.get("max_time") is None and all(limit in (None, -1) for limit in limits)


def _count_or_minus_one(value: Any, setting: str) -> None:
    if type(value) is not int or (value != -1 and value < 1):
        raise InputError(f"expected a whole number from 1 on, or -1 for no limit, got {shown(value)}", setting=setting)


def _part(value: Any, setting: str) -> None:
    """Batches: a whole number of them, or a share."""
    if type(value) is int:
        whole(value, 0, setting)
    elif type(value) is not float or not 0 <= value <= 1:
        problem = f"expected a whole number of batches, or a share from 0.0 to 1.0, got {shown(value)}"
        raise InputError(problem, setting=setting)


def _interval(value: Any, setting: str) -> None:
    if type(value) is int:
        whole(value, 1, setting)
    elif type(value) is float:
        if not 0 < value <= 1:
            problem = f"expected a number of batches from 1 on, or a share of an epoch up to 1.0, got {value}"
            raise InputError(problem, setting=setting)
    else:
        _duration(value, setting)


def _duration(value: Any, setting: str) -> None:
    """A time above 0, as days, hours, minutes and seconds."""
    problem = f"expected a time above 0 as DD:HH:MM:SS, got {shown(value)}"
    try:
        if isinstance(value, str):
            match = DURATION.fullmatch(value.strip())
            given = (
                timedelta(**dict(zip(("days", "hours", "minutes", "seconds"), map(int, match.groups()), strict=True)))
                if match
                else None
            )
        else:
            given = value if isinstance(value, timedelta) else timedelta(**value)
    except (TypeError, OverflowError):
        given = None
    if given is None or given <= timedelta(0):
        raise InputError(problem, setting=setting)


def _devices(value: Any, setting: str) -> None:
    """A number of devices, a list of them, -1 or auto."""
    given = value
    if isinstance(given, str):
        words = [word.strip() for word in given.split(",")]
        if given.strip() == "auto":
            return
        if not all(re.fullmatch(r"-?\d{1,9}", word) for word in words if word) or not any(words):
            raise InputError(_DEVICES.format(shown(value)), setting=setting)
        listed = [int(word) for word in words if word]
        given = listed if "," in value else listed[0]
    if isinstance(given, list | tuple):
        good = bool(given) and all(type(one) is int and one >= 0 for one in given) and len(set(given)) == len(given)
    else:
        good = type(given) is int and (given == -1 or given >= 1)
    if not good:
        raise InputError(_DEVICES.format(shown(value)), setting=setting)


_DEVICES = "expected a number of devices from 1 on, a list of different ones from 0 on, -1 or auto, got {}"


def _whole_or_bool(value: Any, setting: str) -> None:
    if not isinstance(value, bool):
        whole(value, 0, setting)


def _name_of(*names: str) -> Check:
    def check(value: Any, setting: str) -> None:
        if value not in names:
            raise InputError(f"expected one of {', '.join(names)}, got {shown(value)}", setting=setting)

    return check


def _from(least: int) -> Check:
    return partial(_whole_from, least)


def _whole_from(least: int, value: Any, setting: str) -> None:
    whole(value, least, setting)


TRAINER: dict[str, Check] = {
    "devices": _devices,
    "num_nodes": _from(1),
    "fast_dev_run": _whole_or_bool,
    "max_steps": _count_or_minus_one,
    "max_epochs": _count_or_minus_one,
    "min_steps": _from(0),
    "min_epochs": _from(0),
    "max_time": _duration,
    "limit_train_batches": _part,
    "limit_val_batches": _part,
    "limit_test_batches": _part,
    "limit_predict_batches": _part,
    "overfit_batches": _part,
    "val_check_interval": _interval,
    "check_val_every_n_epoch": _from(1),
    "num_sanity_val_steps": _from(-1),
    "log_every_n_steps": _from(0),
    "accumulate_grad_batches": _from(1),
    "gradient_clip_val": not_negative,
    "gradient_clip_algorithm": _name_of("norm", "value"),
    "reload_dataloaders_every_n_epochs": _from(0),
}

# Settings of Lightning's callbacks that it does not check.
FOREIGN: dict[str, dict[str, Check]] = {
    "EMAWeightAveraging": {
        "decay": fraction,
        "update_every_n_steps": _from(1),
        "update_starting_at_step": _from(0),
        "update_starting_at_epoch": _from(0),
    },
    "EarlyStopping": {"patience": _from(0), "min_delta": not_negative},
    "ModelCheckpoint": {
        "save_top_k": _from(-1),
        "every_n_train_steps": _from(0),
        "every_n_epochs": _from(0),
        "train_time_interval": _duration,
    },
    "Timer": {"duration": _duration},
}


def _foreign(trainer: Settings) -> Iterator[tuple[str, Any, Check]]:
    callbacks = trainer.get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        name = _class_name(callback)
        given = callback.get("init_args") or {} if name in FOREIGN else {}
        for argument, check in FOREIGN.get(name, {}).items():
            if given.get(argument) is not None:
                yield f"trainer.callbacks.{name}.{argument}", given[argument], check
