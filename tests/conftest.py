"""Shared test set-up: one thread (forking after OpenMP has started hangs), and no network for W&B."""

import os
from pathlib import Path

import pytest
import torch

from tests.helpers import tiny

torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "disabled")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded values and official annotation files; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` beside the checkout (recorded values and official annotation files)")
    return SHARED


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of a few thousand weights, for ``local-dir:``."""
    return tiny.clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs of the command line go, each named ``id1``."""
    monkeypatch.setenv("CIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_RUN_ID", "id1")
    return tmp_path / "runs"


@pytest.fixture
def small(clip_folder: Path) -> list[str]:
    """Flags that make any experiment small."""
    return [
        f"--model.backbone.model=local-dir:{clip_folder}",
        "--model.backbone.pretrained=null",
        "--data.num_workers=0",
        "--data.eval_batch_size=16",
        "--trainer.precision=32-true",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]
