"""A study from its YAML to its tables, by real runs of the command line."""

import csv
import importlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from experiments.study.__main__ import main
from experiments.study.plan import Trial
from experiments.study.results import RESULT
from experiments.study.runner import Runner
from experiments.study.trial import code_digest, run_trial
from tests.commands.test_readme import commands
from tests.helpers.paths import PROJECT, STUDIES


def small_flags(clip_folder: Path, data: Path) -> list[str]:
    return [f"--model.backbone.model=local-dir:{clip_folder}", f"--data.root={data}", "--trainer.precision=32-true"]


@pytest.mark.slow  # six processes, each of which imports everything
@pytest.mark.timeout(900)
def test_the_smoke_study_runs_and_is_not_run_again(
    tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*small_flags(clip_folder, tmp_path / "scenes"), "--model.backbone.trainable_text_blocks=1"]
    monkeypatch.chdir(tmp_path)  # the commands are those of the page on studies
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    shown = [shlex.split(line) for line in commands("docs/writing_studies.md", "python -m experiments.")]
    listed, run, published, *further = shown
    out = tmp_path / "runs" / "studies" / "smoke"
    monkeypatch.setattr(sys, "argv", ["study.py", *run[3:], *flags])
    for words in (listed, run, published):
        main([*words[3:], *flags])
    for _, _, module, *words in further:
        importlib.import_module(f"{module}.__main__").main(words)
    row = json.loads((tmp_path / "results" / "smoke" / "a.json").read_text())
    assert row["seeds"] == [1, 2] and (tmp_path / "leaderboard.html").exists()
    assert "low" not in row["tables"][0]["rows"]["composed"]["recall_at_1"]  # of two seeds
    text = (tmp_path / "docs" / "studies" / "smoke.md").read_text()
    assert not re.search(r"\d ± \d", text) and "takes 3 seeds or more" in text
    assert "4 of 4 runs are done" in text and "| a - none |" in text and "target before swapped" in text
    assert "## Answers" in text and "| Does the loss help? | a - none |" in text and "## Cost" in text
    assert "python -m experiments.study smoke --jobs 2 --model" in text
    rows = list(csv.DictReader((tmp_path / "docs" / "studies" / "smoke.csv").open()))
    assert {row["metric"] for row in rows} >= {
        "R@1, 3 and 4",
        "R@1, 4 concepts",
        "inside",
        "target before wrong object",
    }
    result = json.loads((out / "study" / "a" / "seed-2" / RESULT).read_text())
    assert set(result["metrics"]) == {"fit_end", "test"} and result["threads"] == 1
    tuning = json.loads((out / "tune" / "none" / "setting-0" / "seed-101" / RESULT).read_text())
    assert set(tuning["metrics"]) == {"fit_end"}
    assert json.loads((out / "choices.json").read_text())["chosen"] == {"none": 0, "a": 0}
    capsys.readouterr()
    main([*run[3:], *flags])
    assert "[" not in capsys.readouterr().out  # nothing was run


def test_a_trial_writes_what_it_measured_and_what_made_it(
    tmp_path: Path, clip_folder: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_modules.scenes.writer import Size, write_scenes
    from experiments.study.file import read_plan

    monkeypatch.setenv("WANDB_RUN_ID", "x")
    write_scenes(tmp_path / "scenes", 0, Size(8, 3, 2), workers=1)
    extra = [*small_flags(clip_folder, tmp_path / "scenes"), "--model.backbone.trainable_text_blocks=1"]
    plan = read_plan(STUDIES / "smoke.yaml", extra)
    trial: Trial = plan.trials({"none": 0, "a": 0})[0]
    folder = tmp_path / trial.name
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(trial.__dict__ | {"threads": 1}))
    run_trial(folder)
    result = json.loads((folder / RESULT).read_text())
    assert result["flags"] == list(trial.flags) and result["code"] == code_digest()
    assert {"val", "circo_val"} <= set(result["metrics"]["fit_end"])
    assert result["metrics"]["test"]["test_unseen"]["target_before_swapped"] >= 0
    assert (folder / "run" / "checkpoints" / "last.ckpt").exists()
    shutil.rmtree(folder / "run")
    runner = Runner(tmp_path, command=lambda folder: [sys.executable, "-c", "raise SystemExit('not to be run')"])
    runner.run([trial])
    assert runner.failed == {}
