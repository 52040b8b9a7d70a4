"""Rows of the leaderboard of scenes run as their study plans them, on a tiny model and few scenes."""

import json
from pathlib import Path

import pytest

from data_modules.scenes.writer import Size, write_scenes
from experiments.run import main
from experiments.study.file import read_plan
from experiments.study.plan import Variant
from experiments.study.results import FEWEST
from tests.helpers.paths import STUDIES

SIZE = Size(train_references=4, references=2, shared_references=2)
PLAN = read_plan(STUDIES / "leaderboard_scenes.yaml")
FEW = [
    "--data.phrases=SceneClauses",
    "--data.batch_size=8",
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    *(f"--data.size.{name}={value}" for name, value in vars(SIZE).items()),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


UNLIKE_OVERLAYS = ("weighted_sum", "pic2word", "searle", "lincir", "composer")  # test_cli.py runs all overlays


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(of, id=of.name, marks=[] if of.name == "composer" else pytest.mark.slow)
        for of in PLAN.variants
        if of.name in UNLIKE_OVERLAYS
    ],
)
def test_a_row_of_the_leaderboard_runs(
    variant: Variant, scenes: Path, small: list[str], tmp_path: Path, runs: Path
) -> None:
    setting = PLAN.tune.settings[variant.name][0]
    flags = [*variant.flags, *(f"--{name}={value}" for name, value in setting.items()), *small, *FEW]
    flags += [f"--data.root={scenes}", f"--data.features={tmp_path / 'features'}", "--seed_everything=1", "--name=row"]
    frozen = any(name in flag for flag in flags for name in ("pic2word", "searle", "lincir"))
    if not frozen:
        flags.append("--model.backbone.trainable_text_blocks=1")  # of the two that the tiny model has
    if variant.name == "searle":
        flags.append("--model.concept.init_args.steps=2")
    cli = main(["fit" if variant.train else "validate", *flags])
    checkpoint = [f"--ckpt_path={cli.trainer.checkpoint_callback.best_model_path}"] if variant.train else []
    if frozen:
        assert not any(parameter.requires_grad for parameter in cli.model.backbone.parameters())
    main(["test", *flags, *checkpoint])
    results = json.loads((runs / "row" / "id1" / "metrics.json").read_text())
    for split in ("test", "test_unseen", "hard"):
        assert set(results["test"][split]["rows"]["composed"]) >= {"recall_at_1", "subset_recall_at_1"}
    assert ("weight" in results["test"]["test"]) == (variant.name in ("weighted_sum", "slerp"))


def test_the_tuning_budget_is_equal_and_what_does_not_train_is_evaluated_once() -> None:
    trained = [variant.name for variant in PLAN.variants if variant.train]
    assert {len(PLAN.tune.settings[name]) for name in trained} == {2} and len(PLAN.seeds) >= FEWEST
    runs = PLAN.trials(dict.fromkeys((variant.name for variant in PLAN.variants), 0))
    assert len(runs) == PLAN.runs == len(PLAN.seeds) * len(trained) + 3 and len(trained) == 10
