"""Shared test set-up: one thread (forking after OpenMP has started hangs), and no network for W&B."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import AttentionFigures, RetrievalFigures
from tests.helpers import golden as golden_record
from tests.helpers import tiny
from tests.helpers.paths import PROJECT

torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "disabled")

SHARED = PROJECT.parent / "shared"


@pytest.fixture(scope="module", autouse=True)
def no_event_loop_is_left() -> Iterator[None]:
    """A module that leaves an event loop running, as an open browser does, breaks `asyncio.run` in all after it."""
    yield
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of the full record and of official annotation files; without it, tests that need it skip."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` beside the checkout (the full record and official annotation files)")
    return SHARED


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the recorded run of the published implementation."""
    packed = PROJECT / "tests" / "data" / "golden" / "reference_tiny"
    return golden_record.unpack(packed, tmp_path_factory.mktemp("golden"))


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


@pytest.fixture(autouse=True)
def one_figure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw one query where six are asked for: figures are a third of a small run. Their own tests are marked."""
    if request.node.get_closest_marker("all_figures"):
        return
    for callback in (AttentionFigures, RetrievalFigures):

        def draw(self: Any, *arguments: Any, of: Callable[..., None] = callback._draw) -> None:
            self.samples = min(self.samples, 1)
            of(self, *arguments)

        monkeypatch.setattr(callback, "_draw", draw)


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
