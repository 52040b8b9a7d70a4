"""Numbers of commands beside training: the small CLIP's, of measurements, studies and trials of sweeps."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contextcir.errors import InputError
from experiments.clip.__main__ import Batches, Phase, train_clip
from experiments.quality.faulty_describer import Rates
from experiments.quality.synthesis_precision import synthesis_precision
from experiments.study.file import read_plan
from experiments.trial import main as trial

REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (train_clip, {"edited": Phase(-1)}, "edited.steps"),
    (train_clip, {"edited": Phase(1)}, "edited.steps"),
    (train_clip, {"looks": Phase(10, lr=math.nan)}, "looks.lr"),
    (train_clip, {"looks": Phase(10, warmup=0)}, "looks.warmup"),
    (train_clip, {"looks": Phase(10, warmup=10)}, "looks.warmup"),
    (train_clip, {"names": Phase(10, warmup=2, naming=-1.0)}, "names.naming"),
    (train_clip, {"batches": Batches(size=0)}, "batches.size"),
    (train_clip, {"batches": Batches(size=10**9)}, "batches.size"),
    (train_clip, {"batches": Batches(per_base=12)}, "batches.per_base"),
    (train_clip, {"batches": Batches(stories=math.nan)}, "batches.stories"),
    (train_clip, {"edited_bases": 0}, "edited_bases"),
    (train_clip, {"save_every": 0}, "save_every"),
    (train_clip, {"threads": 0}, "threads"),
    (train_clip, {"seed": -1}, "seed"),
    (Rates, {"swapped": math.nan}, "model.rates.swapped"),
    (Rates, {"invented": -0.1}, "model.rates.invented"),
    (Rates, {"swapped": 0.6, "left_out": 0.6}, "model.rates"),
    (synthesis_precision, {"examples": -1}, "examples"),
]


@pytest.mark.parametrize(("function", "settings", "setting"), REFUSED, ids=[setting for *_, setting in REFUSED])
def test_a_number_that_can_not_be_meant_is_refused(function: Callable, settings: dict, setting: str) -> None:
    with pytest.raises(InputError) as refused:
        function(**settings)
    assert refused.value.setting == setting


@pytest.mark.parametrize("seeds", ["[-1]", "[4294967296]", "[1.5]", "[.nan]", "[true]", "[]", "[1, 1]", "3"])
def test_seeds_of_a_study_are_what_a_run_can_take(seeds: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"configs: [base.yaml]\nvariants: {{a: {{}}}}\nmetrics: {{R: a}}\nseeds: {seeds}\n")
    with pytest.raises(InputError, match="seeds must be a list of different seeds"):
        read_plan(file)


def test_a_trial_says_what_it_can_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"SLURM_JOB_ID": "1", "SLURM_NNODES": "x", "PATH": "/nowhere"})
    with pytest.raises(InputError, match="expected a command to start"):
        trial([])
    with pytest.raises(InputError, match="environment variable SLURM_NTASKS_PER_NODE, got ''"):
        trial(["true"])
    os.environ["SLURM_NTASKS_PER_NODE"] = "2"
    with pytest.raises(InputError, match="environment variable SLURM_NNODES, got 'x'"):
        trial(["true"])
    del os.environ["SLURM_JOB_ID"]
    with pytest.raises(InputError, match="can't start '/no/such/command': No such file"):
        trial(["/no/such/command"])
