"""Names that a package exports without importing the modules that define them."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package (PEP 562), which imports a module when one of its names is first used.

    Importing a package then costs nothing: a command that reads files does not load torch.

    Args:
        package: its ``__name__``.
        modules: the names that each of its modules, given relative to the package, defines.
    """
    owner = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in owner:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{owner[name]}"), name)

    return get
