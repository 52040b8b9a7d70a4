"""Write the new paths of classes that moved into configs of an earlier version.

python -m experiments.migrate own.yaml runs/NAME/ID/config.yaml
"""

import re
from collections.abc import Sequence
from pathlib import Path

from contextcir.errors import InputError
from contextcir.files import read_text, write_text, writing
from contextcir.renamed import moved, replaced
from experiments.failures import one_line_errors
from experiments.mistakes import PlainParser
from experiments.yaml_files import MOST_BYTES

_PATH = re.compile(r"(?<![\w./-])(?:contextcir|data_modules|callbacks|experiments)(?:\.\w+)+(?![\w/-])")


def migrate(file: Path) -> list[tuple[str, str]]:
    """Replace the old class paths in a file; all else, comments too, stays as it is. Return them, old and new.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no text, or names a class whose place another took, with settings of its own; then nothing
            is changed.
    """
    text = read_text(file, "files", MOST_BYTES)
    for path in _PATH.findall(text):
        if path in replaced():
            problem = f"{path} was replaced by {replaced()[path]}, which has settings of its own: change it by hand"
            raise InputError(problem, file=file, setting="files")
    found = list(dict.fromkeys(path for path in _PATH.findall(text) if path in moved()))
    if found:
        with writing(file, "files"):
            write_text(file, _PATH.sub(lambda match: moved().get(match[0], match[0]), text))
    return [(path, moved()[path]) for path in found]


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    parser = PlainParser(prog="python -m experiments.migrate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="YAML files; they are changed in place")
    with one_line_errors():
        for file in parser.parse_args(args).files:
            renamed = migrate(file)
            print(f"{file}: renamed class paths: {len(renamed)}")
            for old, new in renamed:
                print(f"  {old} -> {new}")


if __name__ == "__main__":
    main()
