"""The record of a run: never overwritten, and the start of a new run with the same settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_modules.scenes.writer import write_scenes
from experiments.record import RecordSettings, as_template, claim_run_id
from experiments.run import main
from tests.helpers.resuming import EPOCHS, SIZE, command, write_overlay

ROOT = "/data/runs/one/id1"


def settings(**trainer: Any) -> dict[str, Any]:
    logger = [{"class_path": "WandbLogger", "init_args": {"group": "one", "save_dir": ROOT}}]
    return {"name": "one", "trainer": {"default_root_dir": ROOT, "logger": logger, **trainer}, "data": {"root": ROOT}}


def test_folders_of_the_run_become_those_of_the_next_and_nothing_else_changes() -> None:
    callbacks = [{"init_args": {"dirpath": f"{ROOT}/checkpoints", "filename": "{epoch}-{step}", "other": f"{ROOT}2"}}]
    trainer = as_template(settings(callbacks=callbacks), "id1")["trainer"]
    assert trainer["default_root_dir"] == "${oc.env:CIR_RUNS,'/data/runs'}/${name}/${oc.env:WANDB_RUN_ID}"
    assert trainer["logger"][0]["init_args"] == {"group": "${name}", "save_dir": "${trainer.default_root_dir}"}
    assert trainer["callbacks"][0]["init_args"] == {
        "dirpath": "${trainer.default_root_dir}/checkpoints", "filename": "{epoch}-{step}", "other": f"{ROOT}2",
    }  # fmt: skip
    assert as_template(settings(), "id1")["data"] == {"root": ROOT}  # data are where they were


def test_a_folder_that_was_chosen_by_hand_is_kept() -> None:
    assert as_template(settings(), "id7") == settings()


class Parser:
    """Dumps settings as they are."""

    def dump(self, config: dict[str, Any], skip_none: bool) -> str:
        return yaml.safe_dump(config)


def record(folder: Path, stage: str, **trainer: Any) -> None:
    RecordSettings(Parser(), settings(**trainer), save_to_log_dir=False)._write(folder, stage)


def test_the_record_of_a_fit_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "id1")
    record(tmp_path, "fit", max_steps=1)
    first = (tmp_path / "config.yaml").read_text()
    record(tmp_path, "fit", max_steps=1)  # the same command again
    for steps in (2, 2, 3):
        record(tmp_path, "fit", max_steps=steps)  # it goes on with other settings
    for stage in ("validate", "test", "test", "predict"):
        record(tmp_path, stage, max_steps=9)
    evaluations = ["config.predict.yaml", "config.test.yaml", "config.validate.yaml"]
    expected = ["config.2.yaml", "config.3.yaml", *evaluations, "config.yaml"]
    assert sorted(file.name for file in tmp_path.iterdir()) == expected
    assert (tmp_path / "config.yaml").read_text() == first
    steps = [yaml.safe_load((tmp_path / f"config.{n}.yaml").read_text())["trainer"]["max_steps"] for n in (2, 3)]
    assert steps == [2, 3]


def test_an_evaluation_of_a_record_belongs_to_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "id1")
    record(tmp_path, "fit")
    file, other = tmp_path / "config.yaml", tmp_path / "other.yaml"
    other.write_text("name: other\n")
    for args, expected in {
        ("test", f"--config={file}", "--config", str(other)): "id1",
        ("predict", "-c", str(file)): "id1",
        ("fit", f"--config={file}"): "7",
        ("test", f"--config={other}"): "7",
    }.items():
        monkeypatch.delenv("WANDB_RUN_ID")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        assert claim_run_id(args) == expected
    assert claim_run_id(["test", f"--config={file}"]) == "7"  # the launcher has chosen


def test_a_fit_of_a_record_is_a_new_run_with_its_settings(
    clip_folder: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenes(tmp_path / "scenes", 0, SIZE, workers=1)
    overlay = write_overlay(tmp_path / "overlay.yaml", tmp_path / "trace.jsonl", {"every_n_train_steps": 4})
    main([*command(clip_folder, tmp_path / "scenes", overlay, *EPOCHS, "--trainer.max_epochs=1"), "--name=one"])
    old = runs / "one" / "id1"
    last = old / "checkpoints" / "last.ckpt"
    main(["test", f"--config={old / 'config.yaml'}", f"--ckpt_path={last}"])
    assert (old / "config.test.yaml").is_file()
    left = {file: file.stat().st_mtime_ns for file in old.rglob("*") if file.is_file()}
    monkeypatch.setenv("WANDB_RUN_ID", "id2")
    cli = main(["fit", f"--config={old / 'config.yaml'}", "--model.contrastive.temperature=0.2"])
    new = runs / "one" / "id2"
    assert cli.model.contrastive.temperature == 0.2 and cli.trainer.global_step == 6
    assert {file: file.stat().st_mtime_ns for file in old.rglob("*") if file.is_file()} == left
    names = [sorted(file.name for file in (run / "checkpoints").iterdir()) for run in (old, new)]
    assert names[0] == names[1]
    one, two = (yaml.safe_load((run / "config.yaml").read_text()) for run in (old, new))
    assert two["model"]["contrastive"]["init_args"].pop("temperature") == 0.2
    assert one["model"]["contrastive"]["init_args"].pop("temperature") == 0.03
    assert one == two
