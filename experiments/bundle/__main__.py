"""Bundle what a run has measured, and check a bundle.

python -m experiments.bundle RUN --out FILE.zip [--licence MIT]
python -m experiments.bundle verify FILE.zip [--figures]
python -m experiments.bundle row RUN_OR_FILE.zip --out results/NAME.json
python -m experiments.bundle study FOLDER --out results/NAME
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contextcir.files import write_json, writing
from experiments.outputs import output_file, output_folder
from experiments.subcommands import Subcommands

COMMANDS = ("make", "verify", "row", "study")
LICENCE = "licence of the model's weights, such as Apache-2.0"


def _make(given: argparse.Namespace) -> None:
    from experiments.bundle.archive import write_archive
    from experiments.bundle.contents import content_of
    from experiments.bundle.verify import check_bundle, refuse_different, report

    output_file(given.out, "out")
    files = content_of(given.run_folder, given.licence)
    bundle = check_bundle(files, given.out)
    refuse_different(bundle, given.run_folder)
    with writing(given.out, "out"):
        write_archive(given.out, files)
    for line in bundle.head["left_out"]:
        print(f"left out: {line}")
    print(f"{given.out}: {len(files)} files, {given.out.stat().st_size:,} bytes; {report(bundle)[-1]}")


def _verify(given: argparse.Namespace) -> None:
    from experiments.bundle.verify import read_bundle, refuse_different, report

    bundle = read_bundle(given.bundle)
    print("\n".join(report(bundle, given.figures)))
    refuse_different(bundle, given.bundle)


def _row(given: argparse.Namespace) -> None:
    from experiments.bundle.contents import content_of
    from experiments.bundle.rows import row_of
    from experiments.bundle.verify import check_bundle, read_bundle, refuse_different

    output_file(given.out, "out")
    source = given.run_folder
    bundle = check_bundle(content_of(source, given.licence), source) if source.is_dir() else read_bundle(source)
    refuse_different(bundle, source)
    with writing(given.out, "out"):
        write_json(given.out, row_of(bundle, given.name), indent=1)
    print(given.out)


def _study(given: argparse.Namespace) -> None:
    from experiments.bundle.studies import rows_of_study

    output_folder(given.out, "out")
    for name, row in rows_of_study(given.study, given.licence).items():
        path = given.out / f"{name}.json"
        with writing(path, "out"):
            write_json(path, row, indent=1)
        print(path)


def build_parser() -> Subcommands:
    """Return the parser of the command line."""
    words = "Bundle what a run has measured, with the ranks behind every figure, and check a bundle."
    parser = Subcommands("experiments.bundle", words, COMMANDS, positional=("bundle", "run"))
    make = parser.add("make", _make, "Make the bundle of a run; the word make may be left out.")
    make.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run, or of a study's trial")
    make.add_argument("--out", type=Path, required=True, metavar="FILE.zip", help="file to write")
    make.add_argument("--licence", help=LICENCE)

    verify = parser.add("verify", _verify, "Compute every figure of a bundle again from its ranks.")
    verify.add_argument("bundle", type=Path, metavar="FILE.zip", help="the bundle")
    verify.add_argument("--figures", action="store_true", help="a line for every figure")

    row = parser.add("row", _row, "Write the row of a leaderboard: a small JSON of a run or of a bundle.")
    row.add_argument("run_folder", type=Path, metavar="RUN_OR_FILE.zip", help="folder of the run, or the bundle")
    row.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="file to write")
    row.add_argument("--name", help="of the row (default: the model and its fusion)")
    row.add_argument("--licence", help=LICENCE)

    study = parser.add("study", _study, "Write the rows of all variants of a study, over its seeds.")
    study.add_argument("study", type=Path, metavar="FOLDER", help="folder of the study")
    study.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write to")
    study.add_argument("--licence", help=LICENCE)
    return parser


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    given = list(sys.argv[1:] if args is None else args)
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        given.insert(0, "make")
    build_parser().run(given)


if __name__ == "__main__":
    main()
