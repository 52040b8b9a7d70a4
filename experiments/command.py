"""What the commands of all benchmarks share: a function as a command line, and a table for the screen and a file."""

from collections.abc import Callable
from pathlib import Path

from jsonargparse import auto_cli


def command(benchmark: Callable[..., None]) -> None:
    """Run a function with the flags of the command line; what went wrong is told in one line."""
    try:
        auto_cli(benchmark, as_positional=False)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None


def publish(text: str, markdown: Path | None) -> None:
    """Print a table, and write it to a file if one is given."""
    print(text)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(text, encoding="utf-8")
