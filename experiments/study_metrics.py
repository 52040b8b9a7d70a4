"""Figures of a trial by name, from its ``metrics.json``: ``test.composed.recall_at_1_concepts_3``."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

PHASES = ("fit_end", "validate", "test")  # of metrics.json, the most wanted last
POOLED = re.compile(r"(?P<stem>.+_)(?P<parts>\d+(?:\+\d+)+)$")  # ..._concepts_3+4


class Figures:
    """All numbers of a run, named ``SPLIT.ROW.METRIC`` (recall tables) and ``SPLIT.METRIC`` (anything else).

    ``SPLIT.ROW.METRIC_concepts_3+4`` is the mean over the queries of both groups.

    Args:
        results: content of ``metrics.json``. What was measured before training is left out.
    """

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.values: dict[str, float] = {}
        self.sizes: dict[str, Mapping[str, int]] = {}  # queries of each group, by split
        self.tested: set[str] = set()  # splits that only `test` has seen
        for phase in PHASES:
            for split, entry in results.get(phase, {}).items():
                if phase == "test" and split not in self.sizes:
                    self.tested.add(split)
                self.sizes[split] = entry.get("protocol", {}).get("strata", {})
                for row, figures in entry.get("rows", {}).items():
                    self.values |= {f"{split}.{row}.{name}": value for name, value in figures.items()}
                self.values |= {
                    f"{split}.{name}": value
                    for name, value in entry.items()
                    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
                }

    def get(self, name: str) -> float | None:
        """Return one figure, None where there is none of this name."""
        pooled = POOLED.match(name)
        if name in self.values or not pooled:
            return self.values.get(name)
        sizes = self.sizes.get(name.split(".", 1)[0], {})
        total, count = 0.0, 0
        for part in pooled["parts"].split("+"):
            value = self.values.get(pooled["stem"] + part)
            size = next(
                (size for group, size in sizes.items() if f"{pooled['stem']}{part}".endswith(f"_{group}")), None
            )
            if value is None or size is None:
                return None
            total, count = total + value * size, count + size
        return total / count

    def names(self, pattern: str) -> dict[str, str]:
        """Return what stands for the ``*`` of a pattern, and the whole name of the figure, sorted.

        The ``*`` never covers the name of a group: ``first_*`` is every ``first_ROLE``, but not those by concepts.
        Without a ``*`` it is one name, which may be that of pooled groups.
        """
        if "*" not in pattern:
            return {"": pattern} if self.get(pattern) is not None else {}
        before, _, behind = pattern.partition("*")
        found = {
            name[len(before) : len(name) - len(behind)]: name
            for name in sorted(self.values)
            if fnmatchcase(name, pattern)
        }
        groups = {group for of in self.sizes.values() for group in of}
        return {what: name for what, name in found.items() if not what.endswith(tuple(f"_{g}" for g in groups))}

    def is_test(self, name: str) -> bool:
        """Tell whether a figure comes from a split that only ``test`` has seen."""
        return name.split(".", 1)[0] in self.tested
