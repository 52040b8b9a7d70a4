"""Shared test set-up: one thread (forking after OpenMP has started hangs), and no network for W&B."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "disabled")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded values and official annotation files; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` beside the checkout (recorded values and official annotation files)")
    return SHARED
