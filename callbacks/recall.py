"""The recall table: the composed query beside its parts, at the start and the end of a run."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from callbacks.evaluation import EvaluationCallback
from callbacks.results import Sheet, add_results, make_sheets, provenance
from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.metrics import CompositionMetric, average_figures
from contextcir.evaluation.protocol import Protocol, averaging_groups
from contextcir.fusion.baselines import ImageOnly, Sum, TextOnly

BASELINES = {"image_only": ImageOnly, "text_only": TextOnly, "sum": Sum}
# Of the baselines only these, the headline and the means go to the loggers: the rest is in metrics.json.
LOGGED = ("recall_at_1", "subset_recall_at_1", "map_at_5")


class RecallTable(EvaluationCallback):
    """Score the composed query beside image only, text only and their sum; print the table, and save it.

    All rows rank the same gallery, and no image or text is encoded for the baselines. The table is printed before
    training (from a sanity check over everything, ``--trainer.num_sanity_val_steps=-1``), after training (from the last
    validation), and after ``validate`` and ``test``. It goes to ``metrics.json`` and ``recall_table.md`` in the run's
    folder, figures in percent; the baselines' headline figures also go to the loggers, as ``val_sum_recall_at_1``.
    Protocols that are averaged (``Protocol.averaged_as``) have one more entry and table for their mean. Every entry
    states the protocol with all its options, what made the figures (see `provenance`), and how many images the data
    module went without (``missing_images``).
    """

    def __init__(self) -> None:
        self._baselines: dict[str, nn.Module] = {}
        self._metrics: list[dict[str, CompositionMetric]] = []
        self._latest: dict[str, dict[str, Any]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the baselines for the model's widths."""
        self._baselines = {row: baseline(pl_module.backbone.widths) for row, baseline in BASELINES.items()}
        self._metrics, self._latest = [], {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why there will be no table before training, if so."""
        if trainer.num_sanity_val_steps != float("inf"):
            rank_zero_info("no recall table before training: it needs --trainer.num_sanity_val_steps=-1")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the rows, and publish them unless training goes on."""
        results = self._compute(trainer, pl_module)
        if trainer.sanity_checking:
            self._publish(trainer, "fit_start", results)
            return
        self._log(pl_module, results)
        if trainer.state.fn == "fit":
            self._latest = results
        else:
            self._publish(trainer, "validate", results)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and publish the rows."""
        results = self._compute(trainer, pl_module)
        self._log(pl_module, results)
        self._publish(trainer, "test", results)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the last validation."""
        self._publish(trainer, "fit_end", self._latest)

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with empty metrics."""
        self._metrics = []
        if trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf"):
            return  # a few batches of the gallery: figures would be meaningless
        for protocol in trainer.datamodule.protocols(stage):
            rows = ("composed", *self._baselines)
            self._metrics.append({row: CompositionMetric(protocol).to(pl_module.device) for row in rows})

    @torch.no_grad()
    def add(
        self,
        pl_module: LightningModule,
        outputs: QueryFeatures | ImageFeatures,
        batch: QueryBatch | GalleryBatch,
        protocol_index: int,
    ) -> None:
        """Add a batch to all rows of its protocol."""
        if not self._metrics:
            return
        metrics = self._metrics[protocol_index]
        if isinstance(batch, GalleryBatch):
            for metric in metrics.values():
                metric.update_gallery(batch.index, outputs.embedding)
            return
        metrics["composed"].update_queries(batch.index, outputs.fused.embedding)
        for row, baseline in self._baselines.items():
            metrics[row].update_queries(batch.index, baseline(outputs.image, outputs.text).embedding)

    def _compute(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, dict[str, Any]]:
        """Return the results by split, then of the means; all ranks take part. Hidden labels give none."""
        protocols = [metrics["composed"].protocol for metrics in self._metrics]
        computed = [{row: metric.compute() for row, metric in metrics.items()} for metrics in self._metrics]
        if not any(rows["composed"] for rows in computed):
            self._metrics = []
            return {}
        made = provenance(trainer, pl_module) | {"epoch": trainer.current_epoch, "step": trainer.global_step}
        missing_images = getattr(trainer.datamodule, "missing_images", lambda split: 0)
        results = {}
        for protocol, metrics, rows in zip(protocols, self._metrics, computed, strict=True):
            if rows["composed"]:
                results[protocol.split] = {
                    "protocol": protocol.describe(),
                    "seen": _check_coverage(metrics["composed"]),
                    "missing_images": missing_images(protocol.split),
                    **made,
                    "rows": {row: _plain(figures) for row, figures in rows.items()},
                }
        averages = {row: average_figures(protocols, [rows[row] for rows in computed]) for row in self._metrics[0]}
        for word, members in averaging_groups(protocols).items():
            if word in averages["composed"]:
                of = [protocols[member] for member in members]
                results[word] = {
                    "protocol": _describe_mean(of),
                    "mean_of": [protocol.split for protocol in of],
                    "missing_images": sum(results[protocol.split]["missing_images"] for protocol in of),
                    **made,
                    "rows": {row: _plain(averages[row][word]) for row in averages},
                }
        self._metrics = []
        return results

    def _log(self, pl_module: LightningModule, results: Mapping[str, dict[str, Any]]) -> None:
        for split, entry in results.items():
            chosen = {*LOGGED, entry["protocol"]["headline"], *entry["protocol"]["means"]}
            for row in self._baselines:
                figures = entry["rows"][row]
                values = {f"{split}_{row}_{name}": value for name, value in figures.items() if name in chosen}
                # Equal on all ranks already; saying so keeps Lightning from warning about it.
                pl_module.log_dict(values, sync_dist=True)

    def _publish(self, trainer: Trainer, phase: str, results: Mapping[str, dict[str, Any]]) -> None:
        if not trainer.is_global_zero:
            return
        for split, entry in results.items():
            add_results(Path(trainer.default_root_dir), phase, split, entry)
            for sheet in make_sheets(phase, split, entry):
                show(sheet)


def show(sheet: Sheet) -> None:
    """Print a table to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for position, name in enumerate(sheet.header):
        table.add_column(name, justify="right" if position else "left", no_wrap=True)
    for cells in sheet.rows:
        table.add_row(*cells, style="bold" if cells[0] == "composed" else None)
    # In a log file there is no terminal to ask for its width, and rich would squeeze the columns.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(sheet.title, style="bold", highlight=False)
    console.print(table)


def _check_coverage(metric: CompositionMetric) -> dict[str, int]:
    """Return what was seen, and warn unless it was everything."""
    protocol, coverage = metric.protocol, metric.coverage()
    queries, gallery = len(protocol.query_ids), len(protocol.gallery)
    if coverage != (queries, gallery):
        rank_zero_warn(
            f"{protocol.benchmark} {protocol.split}: saw {coverage.queries} of {queries} queries and "
            f"{coverage.gallery} of {gallery} gallery images: the figures are not comparable"
        )
    return coverage._asdict()


def _describe_mean(protocols: list[Protocol]) -> dict[str, Any]:
    """Return what the protocols have in common; sizes differ, and there are no means of groups of queries."""
    described = [protocol.describe() for protocol in protocols]
    common = {
        name: value for name, value in described[0].items() if all(other.get(name) == value for other in described)
    }
    benchmarks = dict.fromkeys(protocol.benchmark for protocol in protocols)
    return common | {
        "benchmark": "+".join(benchmarks),
        "headline": protocols[0].headline,
        "split": protocols[0].averaged_as,
        "strata": {},
    }


def _plain(figures: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: round(value.item(), 4) for name, value in figures.items()}
