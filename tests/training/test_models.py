"""`contextcir.load` finds the model of whatever it is given: files, runs, folders, repositories, names."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import contextcir
from contextcir.encoders import pretrained
from contextcir.errors import InputError, MissingFileError
from contextcir.fusion import ClauseSum, CrossAttentionFusion, Sum
from contextcir.training import models
from contextcir.training.models import best_checkpoint
from contextcir.training.module import ContextCIR

MONITOR = "ModelCheckpoint{'monitor': 'val_recall_at_1'}"


def checkpoint(file: Path, clip_folder: Path, scale: float = 1.0, best: str | None = None) -> Path:
    """Write a checkpoint as ``experiments.run`` does, with a scale that tells it from others."""
    backbone = {"model": f"local-dir:{clip_folder}", "pretrained": None}
    settings = {
        "backbone": {"class_path": "contextcir.encoders.OpenCLIPBackbone", "init_args": backbone},
        "fusion": {"class_path": "contextcir.fusion.ClauseSum", "init_args": {"scale": scale}},
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
    }
    model = ContextCIR(contextcir.load(clip_folder).backbone, lambda widths: ClauseSum(widths, scale))
    content: dict[str, Any] = {
        "pytorch-lightning_version": "2.6.4",
        "state_dict": model.state_dict(),
        "hyper_parameters": settings,
        "callbacks": {} if best is None else {"Other": {"best": 1}, MONITOR: {"best_model_path": best}},
        "epoch": 0,
        "global_step": 1,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file


def scale(model: ContextCIR) -> float:
    return round(float(model.fusion.log_scale.detach().exp()), 4)


def test_a_checkpoint_is_rebuilt_and_what_it_replaces_is_not_read(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = checkpoint(tmp_path / "a.ckpt", clip_folder, 0.5)
    expected = contextcir.load(clip_folder).backbone.clip.visual.proj
    monkeypatch.setattr(pretrained.Source, "find", lambda self: pytest.fail("read"))
    model = contextcir.load(file)
    assert isinstance(model.fusion, ClauseSum) and scale(model) == 0.5 and not model.training
    assert torch.equal(model.backbone.clip.visual.proj, expected)
    assert model.backbone._source is None


def test_the_best_checkpoint_of_a_run_is_taken(clip_folder: Path, tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "run" / "checkpoints"
    with pytest.raises(MissingFileError, match="no file or folder"):
        contextcir.load(run)
    kept.mkdir(parents=True)
    with pytest.raises(MissingFileError, match="no checkpoint in the folder"):
        contextcir.load(run)
    checkpoint(kept / "resume-step=9.ckpt", clip_folder, 0.1)
    (kept / "last.ckpt").symlink_to("resume-step=9.ckpt")
    assert scale(contextcir.load(run)) == 0.1  # there is nothing better
    checkpoint(kept / "epoch=1-step=5.ckpt", clip_folder, 0.2)
    assert scale(contextcir.load(run)) == scale(contextcir.load(kept)) == 0.2
    best = "/elsewhere/checkpoints/epoch=1-step=5.ckpt"
    checkpoint(kept / "epoch=2-step=9.ckpt", clip_folder, 0.3, best)  # the newest one notes which is the best
    assert scale(contextcir.load(str(run))) == 0.2
    checkpoint(kept / "epoch=3-step=12.ckpt", clip_folder, 0.4, "/elsewhere/gone.ckpt")
    assert best_checkpoint(run).name == "epoch=3-step=12.ckpt"


def test_a_folder_of_open_clip_and_a_shipped_clip_are_the_sum_of_both_embeddings(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = contextcir.load(clip_folder)
    assert type(model.fusion) is Sum and model.backbone.model_name == f"local-dir:{clip_folder}" and not model.training
    built: list[str] = []
    monkeypatch.setattr(models, "_plain", built.append)
    contextcir.load("scenes-vit")
    assert built == ["scenes-vit"]


def test_published_checkpoints_load_as_before(golden: Path) -> None:
    model = contextcir.load(golden)
    assert isinstance(model.fusion, CrossAttentionFusion) and not model.training
    file = contextcir.load(golden / "state_dict.safetensors")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), file.parameters(), strict=True))


def test_settings_of_another_program_make_no_checkpoint_of_this_one(golden: Path, tmp_path: Path) -> None:
    shutil.copy(golden / "case.json", tmp_path)
    weights = load_file(golden / "state_dict.safetensors")
    torch.save({"state_dict": weights, "hyper_parameters": {"lr": 1e-5}}, tmp_path / "published.ckpt")
    assert isinstance(contextcir.load(tmp_path / "published.ckpt").fusion, CrossAttentionFusion)


@pytest.mark.parametrize("kind", ["own", "published", "published without settings"])
def test_a_repository_of_the_hub_that_holds_a_checkpoint(
    kind: str, clip_folder: Path, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "own":
        checkpoint(tmp_path / "model.ckpt", clip_folder, 0.7)
    else:
        shutil.copy(golden / "state_dict.safetensors", tmp_path)
        if kind == "published":
            shutil.copy(golden / "case.json", tmp_path)
    asked: list[tuple[str, tuple[str, ...]]] = []

    def fake(repository: str, names: tuple[str, ...], *words: str) -> Path:
        asked.append((repository, names))
        for name in names:
            if (tmp_path / name).exists():
                return tmp_path / name
        raise InputError(f"{words[0]} are not there", setting=words[-1])

    monkeypatch.setattr(models, "hub_file", fake)
    if kind == "published without settings":  # its tiny widths are those of no published CLIP
        with pytest.raises(InputError, match="put a case.json beside it"):
            contextcir.load("hf-hub:me/mine")
    else:
        model = contextcir.load("hf-hub:me/mine")
        assert isinstance(model.fusion, ClauseSum if kind == "own" else CrossAttentionFusion)
    assert {repository for repository, _ in asked} == {"me/mine"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "empty text"),
        ("scenes-vot", "no file or folder scenes-vot, and no model of this name"),
        ("none/such.ckpt", "no file or folder"),
    ],
)
def test_what_is_no_model_is_told(given: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        contextcir.load(given)


def test_an_error_names_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"PK nonsense")
    with pytest.raises(InputError) as refused:
        contextcir.load(tmp_path / "a.ckpt")
    assert refused.value.setting == "model" and "a.ckpt" in str(refused.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as refused:
        contextcir.load("hf-hub:nobody/nothing-of-this-name")
    assert refused.value.setting == "model"
