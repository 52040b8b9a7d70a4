"""The demo: draw scenes, train on them, test, and say what came out.

    python -m experiments.demo [--key=value]

Flags go to both `fit` and `test` of experiments.run, after the configs of the demo.
"""

import sys
import time
from pathlib import Path

from contextcir.files import read_json
from experiments.failures import one_line_errors
from experiments.run import main

_FOLDER = Path(__file__).parent / "configs"
CONFIGS = [f"--config={_FOLDER / name}" for name in ("base.yaml", "scenes.yaml", "demo.yaml")]
WIDTH = 52  # of the first column


def summarise(folder: Path) -> list[str]:
    """Return a table of a few lines: composed queries on val, the best of their parts, and both before training."""
    results = read_json(folder / "metrics.json")
    lines = [f"{'val, percent':<{WIDTH}}{'R@1':>7}{'Rsub@1':>9}"]
    for phase, when in (("fit_end", "after training"), ("fit_start", "before training")):
        rows = results[phase]["val"]["rows"]
        best = max((name for name in rows if name != "composed"), key=lambda name: rows[name]["recall_at_1"])
        for name, told in (("composed", "composed query"), (best, f"best of its parts ({best.replace('_', ' ')})")):
            figures = rows[name]
            label = f"{told}, {when}"
            lines.append(f"{label:<{WIDTH}}{figures['recall_at_1']:>7.2f}{figures['subset_recall_at_1']:>9.2f}")
    return lines


def demo(flags: list[str]) -> Path:
    """Train and test on scenes; returns the folder of the run."""
    start = time.time()
    trained = main(["fit", *CONFIGS, "--data.draw=true", *flags])  # the word that drawing needs
    folder = Path(trained.trainer.default_root_dir)
    checkpoint = trained.trainer.checkpoint_callback.best_model_path
    main(["test", *CONFIGS, *flags, f"--ckpt_path={checkpoint}", "--trainer.logger=false"])
    lines = [
        "",
        *summarise(folder),
        "(Rsub@1: among the five other images of the set, by chance 20)",
        f"all figures: {folder / 'metrics.json'}, tables: {folder / 'recall_table.md'}",
        f"the whole demo took {time.time() - start:.0f} s",
    ]
    print("\n".join(lines))
    return folder


if __name__ == "__main__":
    with one_line_errors("the same command continues"):
        demo(sys.argv[1:])
