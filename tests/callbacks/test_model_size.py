"""The table of the model's parts: their parameters counted by hand, in the place of Lightning's summary."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary, RichModelSummary
from torch import nn

from callbacks.model_size import ModelSize
from callbacks.progress import show_progress

OPTIONS = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}


def test_parts_with_parameters_are_counted_and_no_column_is_all_zeros(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 3))
    for weight in model[0].parameters():
        weight.requires_grad = False
    ModelSize().on_fit_start(SimpleNamespace(is_global_zero=True), model)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[:2] == [["Model"], ["part", "class", "parameters", "trained"]]
    assert rows[3:] == [
        ["0", "Linear", "2,200", "0"],
        ["2", "Linear", "603", "603"],
        ["all", "Sequential", "2,803", "603"],
    ]


def test_other_ranks_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ModelSize().on_fit_start(SimpleNamespace(is_global_zero=False), nn.Linear(1, 1))
    assert capsys.readouterr().out == ""


def test_the_trainers_own_summary_is_replaced_and_one_of_another_class_or_none_stays(tmp_path: Path) -> None:
    own = Trainer(default_root_dir=tmp_path, **OPTIONS)
    assert any(type(callback) is RichModelSummary for callback in own.callbacks)
    plain = Trainer(default_root_dir=tmp_path, callbacks=[ModelSummary()], **OPTIONS)
    without = Trainer(default_root_dir=tmp_path, enable_model_summary=False, **OPTIONS)
    for trainer in (own, plain, without):
        show_progress(trainer)
    kinds = [
        [type(callback) for callback in trainer.callbacks if isinstance(callback, ModelSummary)]
        for trainer in (own, plain, without)
    ]
    assert kinds == [[ModelSize], [ModelSummary], []]
