"""A table that grows while it is measured, within a time that is not exceeded."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.command import table


class Budget:
    """Seconds that a part of the measurements may take, of those that all of them may.

    Args:
        seconds: From now on.
        now: Clock, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._end = now, now() + seconds

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._end - self._now()

    def part(self, share: float) -> "Budget":
        """Return the budget of a part that may take a share of what is left."""
        return Budget(max(0.0, self.left * share), self._now)


class Report:
    """Sections in Markdown; the file is written anew with every row, so that what was measured stays.

    Args:
        head: What is measured, and on what.
        file: For the text; None to only print it.
    """

    def __init__(self, head: str, file: Path | None) -> None:
        self._head, self._file = head, file
        self._sections: list[tuple[str, list[str], list[list[str]], list[str]]] = []
        self._write()

    def section(self, title: str, columns: Sequence[str]) -> None:
        """Begin a table."""
        self._sections.append((title, list(columns), [], []))
        self._write()

    def row(self, *cells: str) -> None:
        """Add a row to the newest table."""
        self._sections[-1][2].append(list(cells))
        print(" | ".join(cells), flush=True)
        self._write()

    def note(self, text: str) -> None:
        """Add a sentence below the newest table."""
        self._sections[-1][3].append(text)
        print(text, flush=True)
        self._write()

    def left_out(self, name: str, left: float, needed: float) -> None:
        """Say what was dropped for lack of time."""
        self.note(f"Left out for lack of time: {name} (about {needed:.0f} s needed, {max(0.0, left):.0f} s left).")

    def text(self) -> str:
        """Return all of it."""
        parts = [f"{self._head}\n"]
        for title, columns, rows, notes in self._sections:
            parts.append(f"\n## {title}\n\n{table(columns, rows)}")
            parts += [f"\n{note}\n" for note in notes]
        return "".join(parts)

    def _write(self) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(self.text(), encoding="utf-8")


def number(value: float | None, form: str) -> str:
    """Return a number by a format, or a dash for one that is not known."""
    return "-" if value is None else format(value, form)
