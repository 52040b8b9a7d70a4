"""Steps of equal cost, by hand; and which runs are timed."""

from pathlib import Path

import pytest

from callbacks import training_record
from experiments.study import plan as plans
from experiments.study.file import read_plan
from experiments.study.timing import planned_steps, timing_text

STUDY = """
configs: [base.yaml]
overrides: {trainer.max_steps: 1000}
variants: {slow: {}, fast: {trainer.max_steps: 600}, fixed: {x: 1}}
untrained: [fixed]
seeds: [4, 5]
tune: {metric: val.composed.recall_at_1, seeds: [9], settings: [{lr: 1}, {lr: 2}]}
metrics: {R@1: val.composed.recall_at_1}
"""


def test_every_variant_that_trains_is_timed_with_its_first_setting(tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(STUDY)
    trials = read_plan(tmp_path / "it.yaml").timing_trials(30)
    assert [trial.name for trial in trials] == ["timing-30/slow/seed-4", "timing-30/fast/seed-4"]
    assert trials[0].subcommands == ("fit",) and "--lr=1" in trials[0].flags
    assert trials[0].flags[-2:] == ("--trainer.max_steps=40", "--trainer.limit_val_batches=0")
    assert [planned_steps(trial.flags) for trial in trials] == [1000, 600]


def test_the_steps_not_counted_are_those_of_the_record() -> None:
    assert plans.WARM_STEPS == training_record.WARM_STEPS


def test_equal_cost_is_that_of_the_dearest_training() -> None:
    def result(variant: str, rate: float | None, steps: int) -> dict:
        flags = [f"--trainer.max_steps={steps}", "--trainer.max_steps=40"]
        return {"variant": variant, "flags": flags, "machine": "m", "training": {"cpu_seconds_per_step": rate}}

    text = timing_text([result("slow", 0.25, 1000), result("fast", 0.1, 600), result("none", None, 5)])
    assert "| slow | 250.0 | 1,000 | 250 | 1,000 |" in text
    assert "| fast | 100.0 | 600 | 60 | 2,500 |" in text
    assert "steps that cost as much as slow" in text and "none" not in text and "On m." in text


@pytest.mark.parametrize("flags", [[], ["--trainer.max_steps=40"], ["--trainer.max_steps=x", "--trainer.max_steps=40"]])
def test_steps_that_only_a_config_tells_are_unknown(flags: list[str]) -> None:
    assert planned_steps(flags) is None
