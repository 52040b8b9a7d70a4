"""The classes of a package, found by walking it, for tests that every one of them has to pass."""

import inspect
import pkgutil
from importlib import import_module
from types import ModuleType
from typing import TypeVar

Kind = TypeVar("Kind")


def concrete_classes(package: ModuleType, base: type[Kind]) -> list[type[Kind]]:
    """All classes that are defined anywhere in a package, derived from ``base``, and can be built, by name."""
    modules = [import_module(info.name) for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    classes = {
        value.__name__: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    }
    return [kind for _, kind in sorted(classes.items()) if not inspect.isabstract(kind)]
