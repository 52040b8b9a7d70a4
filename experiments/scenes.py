"""Draw the scenes benchmark.

python -m experiments.scenes --root datasets/scenes --seed 0 --size.references 150 --report true
"""

import time
from collections import Counter
from pathlib import Path

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.processors import available_processors
from data_modules.scenes import ScenesReader
from data_modules.scenes.answerable import KINDS
from data_modules.scenes.writer import ADDED_SPLITS, SPLITS, VERSION, Size, write_scenes
from experiments.command import command
from experiments.outputs import output_folder


def scenes(
    root: Path = Path("datasets/scenes"),
    seed: int = 0,
    size: Size = Size(),  # noqa: B008
    version: int = VERSION,
    workers: int = 0,
    report: bool = False,
) -> None:
    """Draw the scenes benchmark in the layouts of CIRR and CIRCO; an interrupted run resumes.

    Args:
        root: Folder to write to.
        seed: The same seed gives the same files.
        size: How much to draw.
        version: Version 2 has all files of version 1, and adds the split hard and the kinds of queries. A folder of
            version 1 gets what it lacks.
        workers: Worker processes; 0 for one per core.
        report: Print as a table how many queries of each split and number of concepts need what to be answered.
    """
    output_folder(root, "root")
    start = time.time()
    whole(workers, 0, "workers")
    try:
        write_scenes(root, seed, size, workers or available_processors(), version)
    except InputError as error:
        raise (
            error.relocate("data.root", "root").relocate("data.seed", "seed").relocate("data.version", "version")
        ) from None
    print(f"scenes with seed {seed} are in {root} ({time.time() - start:.0f} s)")
    if report:
        print(kinds_table(ScenesReader(root, version=version)))


def kinds_table(reader: ScenesReader) -> str:
    """Return the numbers of queries of each kind, by split and number of concepts, as a table in Markdown."""
    lines = [f"| split | concepts | {' | '.join(KINDS)} |", f"| --- | ---: |{' ---: |' * len(KINDS)}"]
    for split in (*SPLITS[1:], *ADDED_SPLITS):
        kinds = reader.read_kinds(split)
        if not kinds:
            continue
        protocol = reader.read_evaluation(split).protocol
        groups = {name.removeprefix("concepts_"): queries for name, queries in protocol.strata.items()}
        groups = {name: queries for name, queries in groups.items() if name.isdigit()}
        for name, queries in {**groups, "all": range(len(protocol.query_ids))}.items():
            found = Counter(kinds[protocol.query_ids[query]] for query in queries)
            lines.append(f"| {split} | {name} | {' | '.join(str(found[kind]) for kind in KINDS)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line."""
    command(scenes)


if __name__ == "__main__":
    main()
