"""The precision of a config follows the machine."""

import time

import pytest
import torch

from experiments.command import has_fast_bfloat16
from experiments.run import settings_parser

CONFIGS = ["--config", "base", "--config", "scenes"]


def seconds_of_a_product(kind: torch.dtype) -> float:
    matrix = torch.ones(256, 256, dtype=kind)
    times = []
    for _ in range(5):
        start = time.process_time()
        matrix @ matrix
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares products of the processor")
def test_bfloat16_is_called_fast_where_a_product_takes_about_as_long_as_in_float32() -> None:
    slower = seconds_of_a_product(torch.bfloat16) / seconds_of_a_product(torch.float32)
    assert has_fast_bfloat16() == (slower < 8)


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_scenes_train_in_what_the_machine_multiplies_fast(
    fast: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.start.has_fast_bfloat16", lambda: fast)
    assert settings_parser().parse_args(["fit", *CONFIGS]).fit.trainer.precision == precision


def test_a_precision_that_is_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.start.has_fast_bfloat16", lambda: False)
    given = ["fit", *CONFIGS, "--trainer.precision=bf16-mixed"]
    assert settings_parser().parse_args(given).fit.trainer.precision == "bf16-mixed"
