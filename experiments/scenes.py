"""Draw the scenes benchmark.

python -m experiments.scenes --root datasets/scenes --seed 0 --size.references 150
"""

import os
import time
from pathlib import Path

from contextcir.checks import whole
from contextcir.errors import InputError
from data_modules.scenes.writer import VERSION, Size, write_scenes
from experiments.command import command
from experiments.outputs import output_folder


def scenes(
    root: Path = Path("datasets/scenes"),
    seed: int = 0,
    size: Size = Size(),  # noqa: B008
    version: int = VERSION,
    workers: int = 0,
) -> None:
    """Draw the scenes benchmark in the layouts of CIRR and CIRCO; an interrupted run resumes.

    Args:
        root: Folder to write to.
        seed: The same seed gives the same files.
        size: How much to draw.
        version: Version 2 has all files of version 1, and adds the split hard and the kinds of queries. A folder of
            version 1 gets what it lacks.
        workers: Worker processes; 0 for one per core.
    """
    output_folder(root, "root")
    start = time.time()
    whole(workers, 0, "workers")
    try:
        write_scenes(root, seed, size, workers or os.cpu_count() or 1, version)
    except InputError as error:
        raise (
            error.relocate("data.root", "root").relocate("data.seed", "seed").relocate("data.version", "version")
        ) from None
    print(f"scenes with seed {seed} are in {root} ({time.time() - start:.0f} s)")


def main() -> None:
    """Parse the command line."""
    command(scenes)


if __name__ == "__main__":
    main()
