"""Make a leaderboard of a folder of results.

python -m experiments.leaderboard results [--out leaderboard.html] [--markdown leaderboard.md]

The folder has rows (``.json``) and bundles (``.zip``) of `experiments.bundle`. A table has rows of one protocol only.
Figures of a bundle are computed again from its ranks, and one that differs ends the command.
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli

from contextcir.files import write_text, writing
from experiments.arguments import Parser
from experiments.failures import one_line_errors
from experiments.leaderboard.entries import REPORTED_FILE, read_folder, read_reported
from experiments.leaderboard.markdown import markdown as markdown_of
from experiments.leaderboard.page import render
from experiments.leaderboard.tables import make_tables
from experiments.outputs import output_file

TITLE = "Composed image retrieval: results by protocol"


def leaderboard(
    folder: Path,
    out: Path = Path("leaderboard.html"),
    markdown: Path | None = None,
    reported: Path | None = REPORTED_FILE,
    title: str = TITLE,
) -> None:
    """Write the page, and the tables in Markdown.

    Args:
        folder: Of rows and bundles, in folders below it too.
        out: The page to write: one file, which loads nothing.
        markdown: The file to write tables in Markdown to.
        reported: Published figures, for tables of their own; null for none.
        title: Of the page.
    """
    output_file(out, "out")
    output_file(markdown, "markdown")
    entries = read_folder(folder)
    tables = make_tables([*entries, *(read_reported(reported) if reported is not None else [])])
    with writing(out, "out"):
        write_text(out, render(tables, title))
    if markdown is not None:
        with writing(markdown, "markdown"):
            write_text(markdown, markdown_of(tables))
    print(f"{out}: {len(tables)} tables, {len(entries)} reproduced results")


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors():
        auto_cli(leaderboard, parser_class=Parser, args=args)


if __name__ == "__main__":
    main()
