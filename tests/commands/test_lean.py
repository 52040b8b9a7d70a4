"""Lightning starts without what is only installed, and everything works afterwards. In processes of their own."""

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import PROJECT


def output(script: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


SKIPPED = ("torch._dynamo", "torchvision", "transformers", "scipy", "matplotlib", "wandb", "timm")


@pytest.mark.slow
def test_what_only_is_installed_is_not_imported() -> None:
    script = f"import sys, experiments.lean, lightning.pytorch; print([m for m in {SKIPPED} if m in sys.modules])"
    assert output(script) == ["[]"]


@pytest.mark.slow
def test_the_switch_imports_everything() -> None:
    script = "import sys, experiments.lean, torchmetrics; print('torchvision' in sys.modules)"
    assert output(script, CIR_LEAN_START="0") == ["True"]


@pytest.mark.slow
def test_everything_works_afterwards() -> None:
    script = """
import experiments.lean
import torch, sys
from lightning.pytorch.utilities.compile import to_uncompiled
from lightning.pytorch import LightningModule, Trainer
import torchvision.models, transformers, scipy.signal, matplotlib.figure  # as usual
from lightning.pytorch.loggers import WandbLogger
from lightning_utilities.core.imports import package_available
print(package_available("matplotlib"), package_available("scipy"))
class Module(LightningModule):
    def forward(self, x): return x
module = Module()
compiled = torch.compile(module, backend="eager")
print(isinstance(compiled, experiments.lean.OptimizedModule), isinstance(module, experiments.lean.OptimizedModule))
print(type(torch._dynamo).__name__, torch._dynamo.OptimizedModule is type(compiled))
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
results = _ResultCollection(training=True)
results.log("f", "loss", torch.tensor(2.0), on_step=True, on_epoch=False)
print(float(results["f.loss"].value))
"""
    assert output(script) == ["True True", "True False", "module True", "2.0"]


@pytest.mark.parametrize("package", ["torchvision", "torch"])
@pytest.mark.slow
def test_a_package_that_is_imported_already_stays(package: str) -> None:
    script = f"import sys, {package}; import experiments.lean; print({package}.__name__ in sys.modules)"
    assert output(script) == ["True"]


def test_a_package_is_hidden_only_within_the_block() -> None:
    script = """
import importlib.util, importlib.metadata
from experiments.lean import hidden
with hidden("rich"):
    try: import rich; print("found")
    except ModuleNotFoundError: print("hidden")
    try: print(importlib.metadata.version("rich"))
    except importlib.metadata.PackageNotFoundError: print("no version")
import rich
print("there", bool(importlib.metadata.version("rich")))
"""
    assert output(script, CIR_LEAN_START="0") == ["hidden", "no version", "there True"]
