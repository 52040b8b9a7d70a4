"""Draw the scenes benchmark.

python -m experiments.scenes --root datasets/scenes --seed 0 --size.references 150
"""

import os
import time
from pathlib import Path

from jsonargparse import auto_cli

from data_modules.scenes.writer import Size, write_scenes


def scenes(root: Path = Path("datasets/scenes"), seed: int = 0, size: Size = Size(), workers: int = 0) -> None:  # noqa: B008
    """Draw the scenes benchmark in the layouts of CIRR and CIRCO; an interrupted run goes on where it stopped.

    Args:
        root: Folder to write to.
        seed: The same seed gives the same files.
        size: How much to draw.
        workers: Worker processes; 0 for one per core.
    """
    start = time.time()
    write_scenes(root, seed, size, workers or os.cpu_count() or 1)
    print(f"scenes with seed {seed} are in {root} ({time.time() - start:.0f} s)")


def main() -> None:
    """Parse the command line."""
    try:
        auto_cli(scenes, as_positional=False)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
