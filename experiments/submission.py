"""Check and score submission files, without images and without a model.

python -m experiments.submission validate cirr submission/*.json --annotations datasets/CIRR --split test1
python -m experiments.submission score circo submission/circo_val.json --annotations datasets/CIRCO --split val
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from contextcir.errors import InputError, MissingFileError, one_line, printable
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.submission import FORMATS, SubmissionFormat, score
from contextcir.evaluation.submission_check import Submission, check, lists_of, parse, recognise
from contextcir.files import ordinary_file
from data_modules.circo import IMAGE_LIST, CIRCOReader
from data_modules.cirr import CIRRReader
from data_modules.reading.reader import BenchmarkReader
from experiments.failures import one_line_errors
from experiments.mistakes import PlainParser

MOST_BYTES = 200_000_000  # of a file; servers take a few millions
HOLDERS = ("annotations", "captions", "captions_ext", "image_splits")  # folders of annotation files, in benchmarks
READERS: dict[str, type[BenchmarkReader]] = {"cirr": CIRRReader, "circo": CIRCOReader}


class Checked(NamedTuple):
    """A file, and what is wrong with it; ``form`` and ``submission`` are None where it could not be read."""

    path: Path
    form: SubmissionFormat | None
    submission: Submission | None
    problems: list[str]


class Benchmark(NamedTuple):
    """What files are checked against. ``gallery_known``: whether an image can be told not to be in the gallery."""

    protocol: Protocol
    gallery_known: bool


def read_benchmark(name: str, annotations: Path, split: str, files: Iterable[Submission]) -> Benchmark:
    """Read the annotations of a split.

    COCO's list of images, which comes with the images, may be absent: CIRCO's gallery then is whatever images the
    annotations and ``files`` name.

    Raises:
        MissingFileError: if none of the `roots` has the annotations.
        InputError: if something in them is wrong.
    """
    found: Path | None = None
    first: MissingFileError | None = None
    for root in roots(annotations):
        try:
            return Benchmark(READERS[name](root).read_evaluation(split).protocol, True)
        except MissingFileError as error:
            if error.setting == "data.split":  # the right folder
                raise
            first = first or error
            if name == "circo" and IMAGE_LIST.name in str(error):
                found = found or root
    if found is not None:
        return Benchmark(circo_without_images(found, split, files), False)
    first.problem = one_line(first.problem, 240)  # it names all places where a file may be
    raise first


def roots(annotations: Path) -> list[Path]:
    """Return the folders that may be the benchmark's: the given one, the one around it, and those in it.

    People name the root, the folder of the annotation files in it, or the folder that their benchmarks are in.

    Raises:
        MissingFileError: if there is no such folder.
    """
    given = Path(os.path.expanduser(annotations))
    try:
        if not given.is_dir():
            what = "not a folder" if os.path.lexists(given) else "no folder"
            problem = f"{what}: {given}; expected the folder of the benchmark or of its annotation files"
            raise MissingFileError(problem, setting="data.root")
        around = [given.resolve().parent] if given.resolve().name in HOLDERS else []
        inside = [folder for folder in sorted(given.iterdir()) if any((folder / name).is_dir() for name in HOLDERS)]
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"can't be read: {reason}", file=given, setting="data.root") from None
    return [given, *around, *inside]


def circo_without_images(root: Path, split: str, files: Iterable[Submission]) -> Protocol:
    """Read CIRCO's annotations alone; the gallery holds the images that they name, and those of ``files``."""
    records = CIRCOReader(root).read_without_images(split)
    references = [record.reference_img_id for record in records]
    targets, strata = [], {}
    for position, record in enumerate(records):
        targets.append(tuple(record.targets()))
        for aspect in record.semantic_aspects or ():
            strata.setdefault(f"aspect_{aspect}", []).append(position)
    listed = (entry for one in files for value in one.fields.values() if isinstance(value, list) for entry in value)
    named = [*references, *(target for row in targets for target in row), *(str(x) for x in listed if type(x) is int)]
    index = {image: number for number, image in enumerate(dict.fromkeys(named))}
    return Protocol(
        benchmark="circo",
        split=split,
        gallery=tuple(index),
        query_ids=tuple(record.id for record in records),
        targets=tuple(tuple(index[target] for target in row) for row in targets),
        references=tuple(index[reference] for reference in references),
        exclude_reference=False,
        strata={name: tuple(strata[name]) for name in sorted(strata)},
    )


def check_files(name: str, paths: Sequence[Path], annotations: Path, split: str) -> tuple[Benchmark, list[Checked]]:
    """Read and check files; one that can't be read, or is no JSON object, has that as its only problem."""
    read: dict[Path, Submission | str] = {}
    for path in paths:
        try:
            read[path] = parse(ordinary_file(path, most=MOST_BYTES).read_bytes())
        except MissingFileError:
            read[path] = "can't be read (No such file or directory)"
        except InputError as error:
            read[path] = error.problem
        except OSError as error:
            read[path] = f"can't be read ({error.strerror})"
    submissions = [entry for entry in read.values() if isinstance(entry, Submission)]
    benchmark = read_benchmark(name, annotations, split, submissions)
    checked = []
    for path, entry in read.items():
        if isinstance(entry, Submission):
            form = recognise(FORMATS[name], entry)
            checked.append(Checked(path, form, entry, check(form, benchmark.protocol, entry)))
        else:
            checked.append(Checked(path, None, None, [entry]))
    return benchmark, checked


def verdict(file: Checked, benchmark: Benchmark) -> str:
    """Return the verdict on a file: one line, and one more for each problem."""
    if file.problems:
        return "\n  - ".join([f"INVALID {printable(str(file.path))}", *map(one_line, file.problems)])
    protocol, form = benchmark.protocol, file.form
    counts = {form.count(protocol, query) for query in range(len(protocol.query_ids))}
    images = f"{max(counts)} images" if len(counts) == 1 else f"{min(counts)} to {max(counts)} images"
    notes = []
    if min(counts) < form.length:
        notes.append(f"fewer than {form.length} images: there are no more to choose from")
    if not benchmark.gallery_known:
        notes.append(f"gallery membership not checked: no {IMAGE_LIST.name} in --annotations")
    what = " ".join(filter(None, (protocol.benchmark, protocol.split, form.name)))
    size = f"{len(protocol.query_ids):,} queries x {images}, {file.submission.size:,} bytes"
    return f"valid {printable(str(file.path))}: {what}, {size}" + "".join(f" ({note})" for note in notes)


def validate(benchmark: str, files: Sequence[Path], annotations: Path, split: str) -> None:
    """Check files for everything that the server rejects.

    Prints a verdict on each. The exit code is 1 if any of them has a problem.
    """
    against, checked = check_files(benchmark, files, annotations, split)
    for file in checked:
        print(verdict(file, against))
    if any(file.problems for file in checked):
        raise SystemExit(1)


def print_score(benchmark: str, files: Sequence[Path], annotations: Path, split: str) -> None:
    """Score files by the right answers in the annotations.

    Prints the figures, in percent, as JSON. Of CIRR one or both of the two files can be given.
    """
    against, checked = check_files(benchmark, files, annotations, split)
    protocol = against.protocol
    lists = {}
    for file in checked:
        if file.problems:
            raise InputError(f"{file.problems[0]} (`validate` lists all problems)", file=file.path)
        if file.form in lists:
            kind = file.form.name or benchmark
            raise InputError(f"{file.path} is a second {kind} file: score the files of one model at a time")
        lists[file.form] = lists_of(file.form, protocol, file.submission)
    result = {
        "benchmark": benchmark,
        "split": split,
        "queries": len(protocol.query_ids),
        "gallery": len(protocol.gallery) if against.gallery_known else None,
        "files": [str(file.path) for file in checked],
        "metrics": {name: round(value, 4) for name, value in score(protocol, lists).items()},
    }
    print(json.dumps(result, indent=2))


COMMANDS = {"validate": validate, "score": print_score}


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    parser = PlainParser(
        prog="python -m experiments.submission",
        description="Check and score submission files for the servers of CIRR and CIRCO.",
    )
    subcommands = parser.add_subparsers(dest="subcommand", metavar="{validate,score}", required=True)
    for name, command in COMMANDS.items():
        options = subcommands.add_parser(name, description=command.__doc__, help=command.__doc__.splitlines()[0])
        options.add_argument("benchmark", choices=list(FORMATS), help="whose files these are")
        options.add_argument("files", nargs="+", type=Path, help="submission files")
        options.add_argument(
            "--annotations", type=Path, required=True, help="folder of the benchmark, or of its annotations"
        )
        options.add_argument("--split", required=True, help="split that was ranked: test1, test or val")
    with one_line_errors():
        chosen = parser.parse_args(args)
        try:
            COMMANDS[chosen.subcommand](chosen.benchmark, chosen.files, chosen.annotations, chosen.split)
        except InputError as error:
            raise error.relocate("data.root", "annotations").relocate("data.split", "split") from None


if __name__ == "__main__":
    main()
