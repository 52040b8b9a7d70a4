"""What an evaluation has spent on servers, in the run's folder: budgets count all restarts of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.files import read_json, write_json
from contextcir.synthesis.models.base import add, no_usage

FILE = "usage.json"


class Ledger:
    """Adds up usages of several models over the starts of a run.

    Args:
        folder: of the run.
        models: with ``spent`` and ``count_earlier``, as embedders and rerankers have; others are left out.
    """

    def __init__(self, folder: Path, models: Sequence[Any]) -> None:
        self._path = folder / FILE
        kept = read_json(self._path) or {}
        self._paid = {f"{type(m).__name__} {m.name}": m for m in models if getattr(m, "spent", lambda: None)()}
        self._content: dict[str, dict[str, float]] = {name: kept[name] for name in self._paid if name in kept}
        for name, model in self._paid.items():
            model.count_earlier([self._content.get(name, no_usage())])

    def write(self) -> None:
        """Write what was spent so far, with what earlier starts spent."""
        now = {name: model.spent() for name, model in self._paid.items()}
        if now and now != self._content:
            self._content = now
            write_json(self._path, now)


def total(folder: Path) -> dict[str, float]:
    """Return what a run has spent."""
    spent = no_usage()
    for usage in (read_json(folder / FILE) or {}).values():
        add(spent, usage)
    return spent
