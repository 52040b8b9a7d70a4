"""What all commands share: errors in one line, functions as command lines, shards, and tables."""

import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from contextcir.errors import InputError
from experiments.failures import one_line_errors
from experiments.flags import flag as flag


def command(function: Callable[..., None]) -> None:
    """Run a function with its parameters as flags; errors are told in one line, those in arguments with status 2."""
    from jsonargparse import auto_cli  # here, so that commands with a parser of their own start without it

    from experiments.arguments import Parser

    with one_line_errors():
        auto_cli(function, as_positional=False, parser_class=Parser)


def read_shard(text: str | None, setting: str = "shard") -> tuple[int, int] | None:
    """Return I and N of ``I/N``, the part I of N, from 0 on.

    Raises:
        InputError: if the text is not of this form, or I is not below N.
    """
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"expected I/N with I from 0 to N - 1, got {text!r}", setting=setting)
    return int(index), int(count)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; the first ``left`` columns are aligned to the left, all others to the right."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def publish(text: str, markdown: Path | None) -> None:
    """Print a table, and write it to a file if one is given."""
    print(text)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(text, encoding="utf-8")


def processor() -> str:
    """Return the name of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def has_fast_bfloat16() -> bool:
    """Tell whether torch multiplies bfloat16 matrices on this machine by kernels for them.

    For a processor without AVX-512 it has none and adds up one product after the other, 50 times slower than in float32
    (an AMD EPYC with AVX2: 1.3 against 69 GFLOP/s on one core).
    """
    import torch  # here, because most commands start without it

    return torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
