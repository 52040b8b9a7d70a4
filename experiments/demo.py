"""The demo: draw scenes, train on them, train the plain sum beside it, test, and say what came out.

    python -m experiments.demo [--key=value]

Flags go to both `fit` and `test` of experiments.run, after the configs of the demo, and to the training of the sum.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from contextcir.files import read_json
from experiments.failures import one_line_errors
from experiments.run import main
from experiments.study.plan import Trial
from experiments.study.results import read_result
from experiments.study.runner import LOG, Runner

_FOLDER = Path(__file__).parent / "configs"
CONFIGS = [f"--config={_FOLDER / name}" for name in ("base.yaml", "scenes.yaml", "demo.yaml")]
PLAIN_SUM = ("--model.fusion=Sum", "--model.optimizer.init_args.rates=null")
QUICK = ("--trainer.logger=false", "--trainer.num_sanity_val_steps=0")  # of its training nothing is kept but figures
WIDTH = 56  # of the first column


class SumBeside(Callback):
    """Trains the plain sum of both embeddings in a process of its own, while the run that this belongs to trains.

    It begins when the images are there, and each of both has half of the threads. It ends with this process.

    Args:
        flags: arguments of experiments.run that both have.
    """

    def __init__(self, flags: Sequence[str]) -> None:
        self._trial = Trial("plain_sum", "plain_sum", 0, (*CONFIGS, *flags, *PLAIN_SUM, *QUICK), ("fit",))
        self._runner: Runner | None = None
        self._thread = threading.Thread()
        self._threads = torch.get_num_threads()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the other training."""
        half = max(1, self._threads // 2)
        torch.set_num_threads(half)
        self._start(trainer, half)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take all threads back."""
        torch.set_num_threads(self._threads)

    def wait(self, trainer: Trainer) -> Mapping[str, Any] | None:
        """Return the metrics of the sum once it is trained; None if that failed, and the end of its log is printed.

        Where the run was trained before, by a command that was interrupted later, the sum is trained now.
        """
        runner = self._runner or self._start(trainer, self._threads)
        self._thread.join()
        for reason in runner.failed.values():
            log = runner.root / self._trial.name / LOG
            print(f"the plain sum was not trained: {reason} ({log})", file=sys.stderr)
            return None
        result = read_result(self._trial, runner.root)
        return None if result is None else result["metrics"]

    def _start(self, trainer: Trainer, threads: int) -> Runner:
        folder = Path(trainer.default_root_dir) / "beside"
        self._runner = Runner(folder, jobs=1, threads=threads, report=lambda line: None)
        self._thread = threading.Thread(target=self._runner.run, args=([self._trial],), daemon=True)
        self._thread.start()
        return self._runner


def summarise(results: Mapping[str, Any], plain_sum: Mapping[str, Any] | None) -> list[str]:
    """Return a table of a few lines: composed queries on val, a sum that was trained as long, and both untrained.

    ``results`` and ``plain_sum`` are the metrics of two runs; None for those of a sum that there are not.
    """
    told = [("composed query, trained", results, "fit_end", "composed")]
    if plain_sum is not None:
        told.append(("plain sum, trained as long", plain_sum, "fit_end", "composed"))
    for phase, when in (("fit_end", "same towers"), ("fit_start", "before training")):
        rows = results[phase]["val"]["rows"]
        best = max((name for name in rows if name != "composed"), key=lambda name: rows[name]["recall_at_1"])
        told.append((f"best without composing, {when} ({best.replace('_', ' ')})", results, phase, best))
    lines = [f"{'val, percent':<{WIDTH}}{'R@1':>7}{'Rsub@1':>9}"]
    for label, metrics, phase, row in told:
        figures = metrics[phase]["val"]["rows"][row]
        lines.append(f"{label:<{WIDTH}}{figures['recall_at_1']:>7.2f}{figures['subset_recall_at_1']:>9.2f}")
    return lines


def demo(flags: list[str]) -> Path:
    """Train and test on scenes; returns the folder of the run."""
    start = time.time()
    beside = SumBeside(flags)
    trained = main(["fit", *CONFIGS, "--data.draw=true", *flags], callbacks=[beside])  # the word that drawing needs
    folder = Path(trained.trainer.default_root_dir)
    checkpoint = trained.trainer.checkpoint_callback.best_model_path
    main(["test", *CONFIGS, *flags, f"--ckpt_path={checkpoint}", "--trainer.logger=false"])
    plain_sum = beside.wait(trained.trainer)
    lines = [
        "",
        *summarise(read_json(folder / "metrics.json"), plain_sum),
        "(Rsub@1: among the five other images of the set, by chance 20)",
        f"all figures: {folder / 'metrics.json'}, tables: {folder / 'recall_table.md'}",
        f"the whole demo took {time.time() - start:.0f} s",
    ]
    print("\n".join(lines))
    return folder


if __name__ == "__main__":
    with one_line_errors("the same command continues"):
        demo(sys.argv[1:])
