"""The demo: draw scenes, train on them, test, and say what came out, beside a sum that was trained the same way.

    python -m experiments.demo [--key=value]

Flags go to all runs of experiments.run, after the configs of the demo.
"""

import sys
import time
from pathlib import Path

from contextcir.files import read_json
from experiments.failures import one_line_errors
from experiments.run import main

_FOLDER = Path(__file__).parent / "configs"
CONFIGS = [f"--config={_FOLDER / name}" for name in ("base.yaml", "scenes.yaml", "demo.yaml")]
PLAIN = ["--model.fusion=Sum", "--model.optimizer.rates=null"]  # what the model is compared with
WIDTH = 48


def best_part(folder: Path) -> tuple[str, dict[str, float]]:
    """Return name and figures of the best row of a run before training, which is a part of the query or their sum."""
    rows = read_json(folder / "metrics.json")["fit_start"]["val"]["rows"]
    best = max((name for name in rows if name != "composed"), key=lambda name: rows[name]["recall_at_1"])
    return best.replace("_", " "), rows[best]


def composed(folder: Path) -> dict[str, float]:
    """Return the figures of the composed queries of a run, after training."""
    return read_json(folder / "metrics.json")["fit_end"]["val"]["rows"]["composed"]


def summarise(folder: Path, plain: Path) -> list[str]:
    """Return a table of a few lines: the model's queries on val, those of the plain sum, and of the best part.

    Args:
        folder: of the model's run.
        plain: of the run of the trained sum.
    """
    name, part = best_part(folder)
    rows = {
        "image + clauses, trained": composed(folder),
        "image + caption, trained as long": composed(plain),
        f"before training: {name}": part,
    }
    head = f"{'val, percent':<{WIDTH}}{'R@1':>7}{'Rsub@1':>9}"
    return [head] + [
        f"{row:<{WIDTH}}{figures['recall_at_1']:>7.2f}{figures['subset_recall_at_1']:>9.2f}"
        for row, figures in rows.items()
    ]


def demo(flags: list[str]) -> Path:
    """Train and test on scenes; returns the folder of the run."""
    start = time.time()
    trained = main(["fit", *CONFIGS, "--data.draw=true", *flags])  # the word that drawing needs
    folder = Path(trained.trainer.default_root_dir)
    checkpoint = trained.trainer.checkpoint_callback.best_model_path
    main(["test", *CONFIGS, *flags, f"--ckpt_path={checkpoint}", "--trainer.logger=false"])
    name = f"{trained.config.fit.name}_plain"
    plain = main(
        [
            "fit",
            *CONFIGS,
            *PLAIN,
            *flags,
            f"--name={name}",
            "--trainer.num_sanity_val_steps=0",
            "--trainer.logger=false",
        ]
    )
    lines = [
        "",
        *summarise(folder, Path(plain.trainer.default_root_dir)),
        "(Rsub@1: among the five other images of the set, by chance 20)",
        f"all figures: {folder / 'metrics.json'}, tables: {folder / 'recall_table.md'}",
        f"the whole demo took {time.time() - start:.0f} s",
    ]
    print("\n".join(lines))
    return folder


if __name__ == "__main__":
    with one_line_errors("the same command continues"):
        demo(sys.argv[1:])
