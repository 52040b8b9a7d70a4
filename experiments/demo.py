"""The demo: draw scenes, train on them, test, and say what came out.

    python -m experiments.demo [--key=value]

Flags go to both `fit` and `test` of experiments.run, after the configs of the scenes experiment.
"""

import sys
import time
from pathlib import Path

from contextcir.files import read_json
from experiments.failures import one_line_errors
from experiments.run import main

_FOLDER = Path(__file__).parent / "configs"
CONFIGS = [f"--config={_FOLDER / name}" for name in ("base.yaml", "scenes.yaml")]


def best_baseline(rows: dict[str, dict[str, float]]) -> tuple[str, float]:
    """Return the name and R@1 of the best row but the composed one."""
    others = {name: figures["recall_at_1"] for name, figures in rows.items() if name != "composed"}
    best = max(others, key=others.get)
    return best.replace("_", " "), others[best]


def summarise(folder: Path) -> list[str]:
    """Say in a few lines what the figures of a run mean: composed query against its parts, on val."""
    results = read_json(folder / "metrics.json")
    composed = results["fit_end"]["val"]["rows"]["composed"]
    # The baselines by whichever encoder does them better: as pretrained, or as trained.
    name, value = max(
        (best_baseline(results[phase]["val"]["rows"]) for phase in ("fit_start", "fit_end")), key=lambda row: row[1]
    )
    ratio = f"{composed['recall_at_1'] / value:.1f} times" if value else "against none of"
    return [
        f"val R@1: composed {composed['recall_at_1']:.2f}, {ratio} the best baseline ({name}, {value:.2f})",
        f"val Rsub@1: composed {composed['subset_recall_at_1']:.2f} (chance 20)",
        f"val pointing game: {results['fit_end']['val']['pointing_game']:.2f} "
        f"(chance {results['fit_end']['val']['pointing_game_chance']:.2f})",
    ]


def demo(flags: list[str]) -> Path:
    """Train and test on scenes; returns the folder of the run."""
    start = time.time()
    trained = main(["fit", *CONFIGS, "--data.draw=true", *flags])  # the word that drawing needs
    folder = Path(trained.trainer.default_root_dir)
    checkpoint = trained.trainer.checkpoint_callback.best_model_path
    main(["test", *CONFIGS, *flags, f"--ckpt_path={checkpoint}", "--trainer.logger=false"])
    lines = [
        *summarise(folder),
        f"figures of attention: {folder / 'attention'}",
        f"all figures: {folder / 'metrics.json'}, tables: {folder / 'recall_table.md'}",
        f"the whole demo took {time.time() - start:.0f} s",
    ]
    print("\n".join(lines))
    return folder


if __name__ == "__main__":
    with one_line_errors("the same command continues"):
        demo(sys.argv[1:])
