"""Is a benchmark complete? Counts, missing, damaged and duplicate images, broken records: exit code 1 on any problem.

python -m experiments.check_data cirr --root datasets/CIRR
python -m experiments.check_data circo --root datasets/CIRCO --split val --no-decode --json
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from contextcir.checks import whole
from contextcir.errors import LONGEST, InputError, one_line
from contextcir.processors import available_processors
from data_modules.checking.images import unwatched
from data_modules.checking.inspection import Report, inspect
from data_modules.readers import READERS
from experiments.arguments import Parser
from experiments.failures import one_line_errors
from experiments.flags import flag

KINDS = {
    "layout": "files or folders not found",
    "file": "unusable files",
    "record": "broken records",
    "count": "numbers that differ from the official ones",
    "missing": "missing images",
    "damaged": "damaged images",
    "duplicate": "groups of images with the same bytes",
}


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="python -m experiments.check_data", description="Is a benchmark complete?")
    parser.add_argument("benchmark", choices=list(READERS), help="which one")
    parser.add_argument("--root", type=str, required=True, help="its folder, as for --data.root")
    parser.add_argument("--split", type=str, nargs="+", default=[], help="splits to check; all of them by default")
    parser.add_argument("--file", type=str | None, default=None, help="of a manifest, as for --data.file")
    parser.add_argument("--json", action="store_true", help="print a JSON object with all problems, and nothing else")
    parser.add_argument("--no-decode", action="store_true", help="do not read images to their end: fast")
    parser.add_argument("--allow-duplicates", action="store_true", help="images with the same bytes are no problem")
    parser.add_argument("--allow-links", action="store_true", help="links may lead out of the folder")
    parser.add_argument("--show", type=int, default=20, help="problems of each kind to print; 0 for all")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images; 0 for one per core")
    return parser


def show_progress(values: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """Return the values; show on standard error how many of them have been taken."""
    from rich.console import Console  # here, as JSON is printed without it
    from rich.progress import track

    return track(values, title, total=total, console=Console(stderr=True), transient=True) if total else values


def print_report(report: Report, most: int) -> None:
    """Print the numbers as a table, and the first ``most`` problems of each kind."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    title = escape(one_line(f"{report.benchmark} in {report.root}"))
    table = Table("split", "what", "found", "official", "", title=title)
    for split, counts in report.counts.items():
        for what, number in counts.items():
            official = report.expected[split].get(what)
            verdict = "" if official is None else "ok" if number == official else "[red]differs[/red]"
            table.add_row(split, what, f"{number:,}", "" if official is None else f"{official:,}", verdict)
    looked_at = "all read to their end" if report.decoded else "not decoded (--no-decode)"
    table.add_section()
    table.add_row("all", "image files", f"{report.images:,}", "", looked_at)
    table.add_section()
    for kind, words in KINDS.items():
        number = len(report.of_kind(kind))
        table.add_row("all", words, f"{number:,}", "", f"[red]{kind}[/red]" if number else "ok")
    console.print(table)
    for kind, words in KINDS.items():
        problems = report.of_kind(kind)
        if problems:
            console.print(f"{words}: {len(problems):,}", style="bold red", markup=False)
        shown = problems[: most or None]
        for problem in shown:
            line = one_line(f"{problem.split}{': ' if problem.split else ''}{problem.message}", LONGEST - 2)
            console.print(f"  {line}", markup=False)
        if len(problems) > len(shown):
            console.print(f"  ... and {len(problems) - len(shown):,} more (--show 0 or --json lists all)", markup=False)


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, check, print; leave with exit code 1 if there is a problem."""
    with one_line_errors():
        settings = build_parser().parse_args(args)
        if settings.file is not None and settings.benchmark != "manifest":
            raise InputError(f"only a manifest has a file of its own, not {settings.benchmark}", setting="file")
        whole(settings.show, 0, "show")
        whole(settings.workers, 0, "workers", most=512)
        report = inspect(
            settings.benchmark,
            settings.root,
            settings.split,
            decode=not settings.no_decode,
            workers=settings.workers or available_processors(),
            watch=unwatched if settings.json else show_progress,
            name_setting=lambda setting: flag(setting.replace("_", "-")),
            allow_links=settings.allow_links,
            **({} if settings.file is None else {"file": settings.file}),
        )
        problems = [p for p in report.problems if not (settings.allow_duplicates and p.kind == "duplicate")]
        if settings.json:
            print(json.dumps({**report.as_dict(), "ok": not problems}, indent=1))
        else:
            print_report(report, settings.show)
            found = f"error: {len(problems):,} problem{'s' if problems[1:] else ''} of this folder, listed above"
            print(found if problems else "no problem found", file=sys.stderr)
        raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
