"""A short fit on drawn scenes, whose figures should be those of a CPU within seeds."""

from pathlib import Path
from tempfile import TemporaryDirectory

from experiments import run
from experiments.benchmarks.gpu.card import Card
from experiments.benchmarks.gpu.report import Budget, Report

COLUMNS = ["seed", "steps", "val R@1", "val R@5", "seconds"]
CONFIGS = Path(run.__file__).parent / "configs"


def measure_fit(card: Card, seeds: int, steps: int, references: int, report: Report, budget: Budget) -> None:
    """Fit the scenes configuration for some steps with each of the seeds, as far as the time goes."""
    with TemporaryDirectory() as place:
        needed = 0.0
        for seed in range(seeds):
            before = budget.left
            if before < max(needed, 5.0):
                report.left_out(f"the fit with seed {seed}", before, needed)
                continue
            flags = [f"--config={CONFIGS / name}.yaml" for name in ("base", "scenes")]
            flags += [f"--data.root={place}/scenes", "--data.draw=true", f"--data.size.train_references={references}"]
            flags += [f"--data.size.references={max(2, references // 8)}", "--data.size.shared_references=2"]
            flags += [
                f"--trainer.max_steps={steps}",
                f"--trainer.val_check_interval={steps}",
                f"--seed_everything={seed}",
            ]
            flags += ["--trainer.logger=false", "--trainer.callbacks=[]", "--trainer.num_sanity_val_steps=0"]
            flags += [
                f"--trainer.accelerator={card.device.type}",
                "--trainer.devices=1",
                "--trainer.max_time=00:00:03:00",
            ]
            flags += [f"--trainer.default_root_dir={place}/run{seed}", "--trainer.enable_checkpointing=false"]
            trainer = run.main(["fit", *flags]).trainer
            needed = before - budget.left
            found = [float(trainer.callback_metrics.get(f"val_recall_at_{k}", "nan")) for k in (1, 5)]
            report.row(str(seed), str(trainer.global_step), *(f"{value:.1f}" for value in found), f"{needed:.0f}")
