"""Import Lightning without what it loads only because it is installed. Import this module before Lightning.

Two imports cost more than half of the start-up time of a command, and no command needs them to start:

- torchmetrics imports every optional package that is installed: torchvision's models, transformers, SciPy, Matplotlib.
  Only metrics that this project does not use need them. They count as not installed while torchmetrics is imported;
  afterwards, anyone can import them as usual.
- Lightning imports TorchDynamo for a class that recognises compiled models and for a decorator of two methods. A class
  that recognises the same objects stands in for the first, torch's own lazy form of the decorator for the second; torch
  imports TorchDynamo itself as soon as something is compiled, optimised or logged.

torchmetrics' metrics that are built on those packages (FID, BERTScore, ...) report a missing package in such a process.
For a callback of your own that uses one, set ``CIR_LEAN_START=0``: then this module changes nothing.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.metadata import DistributionFinder, PackageNotFoundError
from types import ModuleType
from typing import Any

import torch

OPTIONAL = ("torchvision", "transformers", "scipy", "matplotlib")  # what torchmetrics imports if it is installed
DYNAMO = "torch._dynamo"


class _Hide(MetaPathFinder):
    """First in the search for some packages, and the end of it: neither their modules nor their metadata are found."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Return None for all other packages, so that Python tries its next finder."""
        if fullname.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"{fullname} is hidden during this import", name=fullname)

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Sequence[Any]:
        """Return no distribution for all other packages, so that Python tries its next finder."""
        if context is not None and context.name in self.packages:
            raise PackageNotFoundError(context.name)
        return ()


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Let packages count as not installed, except those that are imported already."""
    from lightning_utilities.core.imports import module_available, package_available

    finder = _Hide([package for package in packages if package not in sys.modules])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for cached in (package_available, module_available):
            cached.cache_clear()  # "not installed" must not be remembered


class _RecognisesCompiled(type):
    def __instancecheck__(cls, value: Any) -> bool:
        # Nothing is compiled before TorchDynamo is loaded.
        dynamo = sys.modules.get(DYNAMO)
        return dynamo is not None and isinstance(value, dynamo.OptimizedModule)


class OptimizedModule(metaclass=_RecognisesCompiled):
    """Has the instances of ``torch._dynamo.OptimizedModule``, without importing it."""


class _Placeholder(ModuleType):
    """Stands for TorchDynamo while Lightning is imported; any name that it does not have loads the real one."""

    OptimizedModule = OptimizedModule

    @staticmethod
    def disable(function: Any = None, recursive: bool = True, *, reason: str | None = None, **_: Any) -> Any:
        """Return the function as ``torch._dynamo.disable`` does, at its first call."""
        return torch._disable_dynamo(function, recursive)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(DYNAMO) is self:
            del sys.modules[DYNAMO]
        return getattr(importlib.import_module(DYNAMO), name)


@contextmanager
def without_dynamo() -> Iterator[None]:
    """Do not load TorchDynamo for its class of compiled modules; nothing changes if it is loaded already."""
    placeholder = sys.modules.setdefault(DYNAMO, _Placeholder(DYNAMO))
    try:
        yield
    finally:
        if isinstance(placeholder, _Placeholder) and sys.modules.get(DYNAMO) is placeholder:
            del sys.modules[DYNAMO]


if os.environ.get("CIR_LEAN_START", "1") != "0":
    with hidden(*OPTIONAL):
        import torchmetrics  # noqa: F401
    with without_dynamo():
        import lightning.pytorch.cli  # noqa: F401
