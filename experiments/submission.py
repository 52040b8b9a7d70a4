"""Check and score submission files, without images and without a model.

python -m experiments.submission validate cirr submission/*.json --annotations datasets/CIRR --split test1
python -m experiments.submission score circo submission/circo_val.json --annotations datasets/CIRCO --split val
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from contextcir.errors import InputError, MissingFileError
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.submission import FORMATS, SubmissionFormat, score
from contextcir.evaluation.submission_check import Submission, check, lists_of, parse, recognise
from contextcir.files import ordinary_file
from data_modules.circo import IMAGE_LIST, CIRCOReader
from data_modules.cirr import CIRRReader
from data_modules.reading.reader import BenchmarkReader
from experiments.failures import one_line_errors
from experiments.mistakes import PlainParser

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
    """
    reader = READERS[name](annotations)
    if not reader.root.is_dir():
        raise MissingFileError(f"no folder {reader.root}: expected the folder of the benchmark", setting="data.root")
    try:
        return Benchmark(reader.read_evaluation(split).protocol, True)
    except MissingFileError as error:
        if name != "circo" or IMAGE_LIST.name not in str(error):
            raise
        return Benchmark(circo_without_images(annotations, split, files), False)


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
            read[path] = parse(ordinary_file(path).read_bytes())
        except InputError as error:
            read[path] = error.problem
        except OSError as error:
            read[path] = f"can't be read ({error.strerror})"
        except ValueError as error:
            read[path] = str(error)
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
        return "\n  - ".join([f"INVALID {file.path}", *file.problems])
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
    return f"valid {file.path}: {what}, {size}" + "".join(f" ({note})" for note in notes)


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
            raise ValueError(f"{file.path}: {file.problems[0]} (`validate` lists all problems)")
        if file.form in lists:
            kind = file.form.name or benchmark
            raise ValueError(f"{file.path} is a second {kind} file: score the files of one model at a time")
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
        options.add_argument("--annotations", type=Path, required=True, help="folder with the official annotations")
        options.add_argument("--split", required=True, help="split that was ranked: test1, test or val")
    with one_line_errors():
        chosen = parser.parse_args(args)
        try:
            COMMANDS[chosen.subcommand](chosen.benchmark, chosen.files, chosen.annotations, chosen.split)
        except InputError as error:
            raise error.relocate("data.root", "annotations").relocate("data.split", "split") from None


if __name__ == "__main__":
    main()
