"""Send a trained model to the Hugging Face Hub, or write what would be sent.

python -m experiments.hub push RUN OWNER/NAME [--licence mit] [--dry-run]
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import experiments.lean  # noqa: F401  before the first import of Lightning: half of the start-up time
from contextcir.errors import InputError
from experiments.hub.client import check_name, send
from experiments.outputs import output_folder
from experiments.subcommands import Subcommands

DRY = Path("hub")  # where the files of a dry run go if no folder is given


def push(given: argparse.Namespace) -> None:
    """Write the files, and send them unless this is a dry run."""
    check_name(given.repository)
    out = given.out if given.out is not None else DRY / given.repository.replace("/", "--") if given.dry_run else None
    output_folder(out, "out")
    from experiments.hub.files import write_files  # seconds of imports

    with tempfile.TemporaryDirectory() as temporary:
        folder = out if out is not None else Path(temporary)
        files = write_files(given.run_folder, given.repository, folder, given.licence)
        for file in files:
            print(f"{file.name if out is None else file}: {file.stat().st_size:,} bytes")
        if given.dry_run:
            print(f'nothing was sent; contextcir.load("{folder}") loads it')
            return
        if out is not None and sorted(path.name for path in out.iterdir()) != sorted(file.name for file in files):
            raise InputError("holds other files too, which would be sent: empty it", file=out, setting="out")
        print(f'{send(folder, given.repository, given.private)}; contextcir.load("hf-hub:{given.repository}") loads it')


def build_parser() -> Subcommands:
    """Return the parser of the command line."""
    words = "Send a trained model to the Hugging Face Hub."
    parser = Subcommands("experiments.hub", words, ("push",), positional=("run", "repository", "model"))
    text = "Send the best checkpoint of a run, its settings, and a card of what it has measured."
    options = parser.add("push", push, text)
    options.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run")
    options.add_argument("repository", metavar="OWNER/NAME", help="of the repository, which is made if it is new")
    options.add_argument("--licence", help="of the weights, as the Hub names it: mit; known for scenes-vit")
    options.add_argument("--dry-run", action="store_true", help="write the files, list them, and send nothing")
    options.add_argument("--out", type=Path, metavar="FOLDER", help="keep the files (of a dry run: hub/OWNER--NAME)")
    options.add_argument("--private", action="store_true", help="a new repository is seen by its owner only")
    return parser


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    build_parser().run(args)


if __name__ == "__main__":
    main()
