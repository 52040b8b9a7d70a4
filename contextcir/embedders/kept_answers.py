"""Answers of models in a file, so that none is asked for, and paid, twice."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from contextcir.errors import InputError
from contextcir.files import parse_json

Value = TypeVar("Value")


class KeptAnswers(Generic[Value]):
    """Answers by key: read when first needed, and appended to a file of JSON lines as they come.

    Args:
        file: None keeps them in memory only.
        field: of a line that holds the answer.
        kind: makes an answer of what the field holds.
    """

    def __init__(self, file: str | Path | None, field: str, kind: Callable[[Any], Value]) -> None:
        self.file = None if file is None else Path(file).expanduser()
        self.field = field
        self.kind = kind
        self._known: dict[str, Value] | None = None

    def known(self) -> dict[str, Value]:
        """Return all answers; a line that a kill has cut off counts as none."""
        if self._known is None:
            self._known = {}
            if self.file is not None and self.file.exists():
                for line in self.file.read_text(encoding="utf-8").splitlines():
                    try:
                        entry = parse_json(line)
                        self._known[str(entry["key"])] = self.kind(entry[self.field])
                    except (InputError, ValueError, KeyError, TypeError):
                        continue
        return self._known

    def keep(self, answers: Mapping[str, Value]) -> None:
        """Add answers."""
        self.known().update(answers)
        if self.file is not None and answers:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps({"key": key, self.field: value}) + "\n" for key, value in answers.items())
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(f"\n{lines}")  # on lines of their own, whatever a kill has left of the last one
