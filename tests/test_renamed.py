"""Class paths of earlier versions: what is told of them, what loads them, and what writes the new ones."""

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

import contextcir
from contextcir.errors import InputError
from contextcir.renamed import current, moved, replaced, told
from contextcir.training.hub_files import SETTINGS, save
from experiments.migrate import main as migrate
from experiments.mistakes import ArgumentMistake
from experiments.names import public_classes
from experiments.run import settings_parser
from tests.helpers.paths import PROJECT

OLD_LOSS, NEW_LOSS = "contextcir.concept.TextConceptConsistency", "contextcir.losses.text_cc.TextConceptConsistency"
PARTS = {
    "backbone": {"class_path": "contextcir.backbone.OpenCLIPBackbone", "init_args": {"model": "scenes-vit"}},
    "fusion": {"class_path": "contextcir.baselines.Sum"},
    "contrastive": {"class_path": "contextcir.contrastive.InfoNCE", "init_args": {"temperature": 0.03}},
}


def leads_to(path: str) -> Any:
    """Return what a path names, None if nothing."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return contextcir.load("scenes-vit").state_dict()


def test_every_new_path_leads_to_a_public_class_and_no_old_one_does() -> None:
    known = {f"{entry.module}.{name}" for name, entries in public_classes().items() for entry in entries}
    assert {*moved().values(), *replaced().values()} <= known
    assert all(isinstance(leads_to(path), type) for path in {*moved().values(), *replaced().values()})
    assert not [path for path in {*moved(), *replaced()} if "." in path and leads_to(path) is not None]
    assert not [name for name in replaced() if "." not in name and name in public_classes()]


def test_the_migration_page_lists_every_path() -> None:
    text = (PROJECT / "docs/migration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \| ((?:`\w+`(?:, )?)+) \|$", text, re.MULTILINE)
    listed = {f"{old}.{name}": f"{new}.{name}" for old, new, names in rows for name in re.findall(r"\w+", names)}
    assert listed == moved()
    commands = re.findall(r"^\| `(experiments[\w.]+)` \| `([\w.]+)` \|$", text, re.MULTILINE)
    assert len(commands) == 4
    for old, new in commands:
        assert importlib.util.find_spec(old) is None and importlib.util.find_spec(new) is not None


@pytest.mark.usefixtures("runs")
def test_an_old_path_in_a_config_is_told_with_the_new_one_the_file_and_the_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"model: {{concept: {{class_path: {OLD_LOSS}, init_args: {{weight: 0.1}}}}}}")
    parser, scenes = settings_parser(), ["fit", "--config=base", "--config=scenes"]
    line = f"{OLD_LOSS} was renamed: use {NEW_LOSS}"
    for flags, expected in {
        (f"--config={file}",): f"error: {file}: {line}; `python -m experiments.migrate FILE` writes all new paths "
        "(--model.concept)",
        (f"--model.concept={OLD_LOSS}",): f"error: {line} (--model.concept)",
        ("--model.concept", OLD_LOSS): f"error: {line} (--model.concept)",
        ("--trainer.callbacks+=callbacks.stopping.StopWhenAsked",): "error: callbacks.stopping.StopWhenAsked was "
        "renamed: use callbacks.checkpoints.StopWhenAsked (--trainer.callbacks)",
    }.items():
        with pytest.raises(ArgumentMistake):
            parser.parse_args([*scenes, *flags])
        assert " ".join(capsys.readouterr().err.split()) == expected


def test_a_class_whose_place_another_took_is_told_by_its_path_and_by_its_name() -> None:
    new = "contextcir.synthesis.models.batch_files.BatchFiles"
    for old in ("BatchEndpoint", "contextcir.synthesis.batch_folder.BatchFolder"):
        assert told(old) == f"{old} was replaced: use {new}, which has settings of its own"
    assert told("BatchFiles") is None and told(new) is None
    with pytest.raises(InputError, match="was replaced") as refused:
        current({"model": {"class_path": "BatchFolder"}}, "x.ckpt")
    assert (refused.value.file, refused.value.setting) == ("x.ckpt", "model")


def test_a_checkpoint_with_old_paths_loads_and_a_warning_names_the_new_ones(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    content = {
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": weights,
        "hyper_parameters": PARTS | {"_instantiator": "lightning.pytorch.cli.instantiate_module"},
    }
    torch.save(content, tmp_path / "old.ckpt")
    warning = r"old\.ckpt is of an earlier version: .*contextcir\.baselines\.Sum as contextcir\.fusion\.baselines\.Sum"
    with pytest.warns(UserWarning, match=warning):
        model = contextcir.load(tmp_path / "old.ckpt")
    assert (type(model.fusion).__module__, model.contrastive.temperature) == ("contextcir.fusion.baselines", 0.03)
    loaded = model.state_dict()
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_model_for_the_hub_is_written_with_new_paths_and_read_with_old_ones(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save(PARTS, weights, tmp_path)
    text = (tmp_path / SETTINGS).read_text()
    assert "contextcir.fusion.baselines.Sum" in text and "contextcir.baselines" not in text
    (tmp_path / SETTINGS).write_text(text.replace("contextcir.fusion.baselines.Sum", "contextcir.baselines.Sum"))
    assert type(contextcir.load(tmp_path).fusion).__module__ == "contextcir.fusion.baselines"


def test_migrate_changes_old_paths_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, text = tmp_path / "own.yaml", "# of {0}\na: {{class_path: {0}}}  # {0}.\nb: x/{1}.yaml\nc: {1}Two\n"
    file.write_text(text.format(OLD_LOSS, OLD_LOSS))
    migrate([str(file)])
    assert file.read_text() == text.format(NEW_LOSS, OLD_LOSS)
    migrate([str(file)])
    said = capsys.readouterr().out
    assert said.startswith(f"{file}: renamed class paths: 1\n  {OLD_LOSS} -> {NEW_LOSS}\n")
    assert said.endswith(f"\n{file}: renamed class paths: 0\n")


def test_migrate_changes_nothing_where_a_class_has_settings_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"a: {OLD_LOSS}\nb: contextcir.synthesis.batch_endpoint.BatchEndpoint\n"
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(SystemExit):
        migrate([str(tmp_path / "own.yaml")])
    assert (tmp_path / "own.yaml").read_text() == text and "change it by hand" in capsys.readouterr().err
