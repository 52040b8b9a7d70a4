"""Make a page of what a run finds and where it fails, or of two runs on the same queries.

python -m experiments.report RUN [RUN2] [--out report.html] [--splits+=val] [--examples 16] [--root DATA]

RUN is a run's folder, with the files of the callback QueryResults: ``queries.json`` and ``retrieved/``. No model is
loaded, and no image encoded. The page is one file: pictures are small copies inside of it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.files import write_text, writing
from experiments.arguments import Parser
from experiments.failures import one_line_errors
from experiments.outputs import output_file
from experiments.report.page import Look, render
from experiments.report.results import Run

MOST = 1000  # examples of a kind
MOST_IMAGES, MOST_SIDE = 10, 1024


def report(
    run: Path,
    second: Path | None = None,
    out: Path = Path("report.html"),
    splits: list[str] | None = None,
    examples: int = 16,
    of_group: int = 3,
    images: int = 5,
    side: int = 160,
    root: Path | None = None,
) -> None:
    """Write the page.

    Args:
        run: Folder of the run.
        second: Folder of another run on the same queries, that is compared with it: the second path of a command.
        out: File to write.
        splits: Which splits; all by default.
        examples: Queries to show of each kind: worst failures, near misses, and of two runs those won and lost. 0 for a
            page of tables alone.
        of_group: How many of each group at least, such as queries of four concepts.
        images: First images of each query.
        side: Pixels of the longer side of a picture.
        root: Folder of the benchmark, if it has moved since the run.
    """
    look = Look(
        examples=whole(examples, 0, "examples", MOST),
        of_group=whole(of_group, 0, "of_group", MOST) if examples else 0,
        images=whole(images, 1, "images", MOST_IMAGES),
        side=whole(side, 16, "side", MOST_SIDE),
    )
    output_file(out, "out")
    runs = [Run(folder, splits) for folder in (run, second) if folder is not None]
    page = render(runs, look, root)
    with writing(out, "out"):
        write_text(out, page)
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB")


def with_second(args: Sequence[str]) -> list[str]:
    """Return the arguments with the second path spelled out: an optional one can't stand by its place.

    Raises:
        InputError: if there are more than two paths.
    """
    paths: list[int] = []
    expects = False  # a value of the flag before
    for number, arg in enumerate(args):
        if arg.startswith("-"):
            expects = "=" not in arg and arg not in ("--help", "-h")
        elif expects:
            expects = False
        else:
            paths.append(number)
    if len(paths) > 2:
        raise InputError(f"expected one run or two, got {len(paths)}: {', '.join(args[number] for number in paths)}")
    return [f"--second={arg}" if paths[1:] == [number] else arg for number, arg in enumerate(args)]


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors():
        auto_cli(report, parser_class=Parser, args=with_second(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    main()
