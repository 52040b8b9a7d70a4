"""The recall table: the composed query beside its parts, at the start and the end of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from callbacks.evaluation import EvaluationCallback
from callbacks.results import add_results, make_sheets, provenance, show
from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.composition import COMPOSED, CompositionMetric, average_figures
from contextcir.evaluation.composition_gap import gap_of_rows
from contextcir.evaluation.protocol import Protocol, averaging_groups
from contextcir.fusion.baselines import ImageOnly, Sum, TextOnly

BASELINES = {"image_only": ImageOnly, "text_only": TextOnly, "sum": Sum}
# Of the baselines only these, the headline and the means go to the loggers: the rest is in metrics.json.
LOGGED = ("recall_at_1", "subset_recall_at_1", "map_at_5")


class RecallTable(EvaluationCallback):
    """Score the composed query beside image only, text only and their sum; print the table, and save it.

    The baselines are further rows of queries in the module's own ``metrics``: they rank the same gallery, which is
    gathered once, and no image or text is encoded for them. The table comes after training (from the last validation),
    and after ``validate`` and ``test``, in place of Lightning's own. Before training, the figures of a full sanity
    check (``num_sanity_val_steps`` of -1) are saved, and printed on request. The table goes to ``metrics.json`` and
    ``recall_table.md`` in the run's folder, figures in percent; the baselines' headline figures also go to the loggers,
    as ``val_sum_recall_at_1``. Protocols that are averaged (``Protocol.averaged_as``) have one more entry and table for
    their mean. Every entry states the protocol with all its options, what made the figures (see `provenance`), how many
    missing images the data module left out (``missing_images``), and ``composition``: the ``ndcg`` of every row in
    percent (`CompositionMetric.gains`), their ``gap`` (`composition_gap`, a fraction; null where it is not defined),
    and ``strata`` with the gap of each group of queries.

    Args:
        show_before_training: whether to print the table before training, too.
    """

    def __init__(self, show_before_training: bool = False) -> None:
        self.show_before_training = show_before_training
        self._baselines: dict[str, nn.Module] = {}
        self._active = False
        self._latest: dict[str, dict[str, Any]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the baselines for the model's widths, and turn off Lightning's tables of raw names and numbers."""
        known = getattr(pl_module, "baselines", BASELINES)  # a model may embed no image, or no text, alone
        self._baselines = {row: BASELINES[row](pl_module.backbone.widths) for row in known}
        self._active, self._latest = False, {}
        trainer.validate_loop.verbose = trainer.test_loop.verbose = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why there will be no figures before training, if so."""
        if trainer.num_sanity_val_steps != float("inf"):
            rank_zero_info("no figures before training: set trainer.num_sanity_val_steps to -1 for a full evaluation")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the rows, and publish them unless training goes on."""
        results = self._compute(trainer, pl_module)
        if trainer.sanity_checking:
            if not trainer.global_step:  # a run that goes on keeps the figures from before its training
                self._publish(trainer, "fit_start", results, show_tables=self.show_before_training)
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
        """Add the baselines as rows of the module's metrics."""
        # Figures of a few batches of the gallery would be meaningless.
        self._active = not trainer.sanity_checking or trainer.num_sanity_val_steps == float("inf")
        if self._active:
            for metric in pl_module.metrics:
                for row in self._baselines:
                    metric.add_row(row)

    @torch.no_grad()
    def add(
        self,
        pl_module: LightningModule,
        outputs: QueryFeatures | ImageFeatures,
        batch: QueryBatch | GalleryBatch,
        protocol_index: int,
    ) -> None:
        """Add the baselines' embeddings of a batch of queries; the module adds the gallery and the composed query."""
        if self._active and isinstance(batch, QueryBatch):
            for row, baseline in self._baselines.items():
                embedding = baseline(outputs.image, outputs.text).embedding
                pl_module.metrics[protocol_index].update_queries(batch.index, embedding, row)

    def _compute(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, dict[str, Any]]:
        """Return the results by split, then of the means; all ranks take part. Hidden labels give none."""
        metrics: Sequence[CompositionMetric] = pl_module.metrics if self._active else ()
        computed = [metric.compute() for metric in metrics]
        if not any(rows[COMPOSED] for rows in computed):
            return {}
        protocols = [metric.protocol for metric in metrics]
        made = provenance(trainer, pl_module) | {"epoch": trainer.current_epoch, "step": trainer.global_step}
        missing_images = getattr(trainer.datamodule, "missing_images", lambda split: 0)
        results = {}
        for protocol, metric, rows in zip(protocols, metrics, computed, strict=True):
            if rows[COMPOSED]:
                results[protocol.split] = {
                    "protocol": protocol.describe(),
                    "seen": _check_coverage(metric),
                    "missing_images": missing_images(protocol.split),
                    **made,
                    "rows": {row: _plain(figures) for row, figures in rows.items()},
                    "composition": _composition(metric.gains()),
                }
        averages = {row: average_figures(protocols, [rows[row] for rows in computed]) for row in metrics[0].rows}
        for word, members in averaging_groups(protocols).items():
            if word in averages[COMPOSED]:
                averaged = [protocols[member] for member in members]
                results[word] = {
                    "protocol": _describe_mean(averaged),
                    "mean_of": [protocol.split for protocol in averaged],
                    "missing_images": sum(results[protocol.split]["missing_images"] for protocol in averaged),
                    **made,
                    "rows": {row: _plain(averages[row][word]) for row in averages},
                    "composition": _mean_composition([metrics[member].gains() for member in members]),
                }
        return results

    def _log(self, pl_module: LightningModule, results: Mapping[str, dict[str, Any]]) -> None:
        for split, entry in results.items():
            chosen = {*LOGGED, entry["protocol"]["headline"], *entry["protocol"]["means"]}
            for row in self._baselines:
                figures = entry["rows"][row]
                values = {f"{split}_{row}_{name}": value for name, value in figures.items() if name in chosen}
                # Equal on all ranks already; saying so keeps Lightning from warning about it.
                pl_module.log_dict(values, sync_dist=True)

    def _publish(
        self, trainer: Trainer, phase: str, results: Mapping[str, dict[str, Any]], show_tables: bool = True
    ) -> None:
        if not trainer.is_global_zero:
            return
        for split, entry in results.items():
            add_results(Path(trainer.default_root_dir), phase, split, entry)
            for sheet in make_sheets(phase, split, entry) if show_tables else ():
                show(sheet, bold=COMPOSED)


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
    """Return what the protocols have in common; sizes differ, and strata are not averaged."""
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


def _composition(gains: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return what the sides of a query find alone beside what they find together."""
    gaps = {stratum: _rounded(gap_of_rows(rows)) for stratum, rows in gains.items()}
    ndcg = {row: round(value, 4) for row, value in gains.get("", {}).items()}
    return {"ndcg": ndcg, "gap": gaps.pop("", None), "strata": gaps}


def _mean_composition(gains: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return the same for the plain mean of several protocols."""
    rows = [of.get("", {}) for of in gains]
    return _composition({"": {row: sum(of[row] for of in rows) / len(rows) for row in rows[0]}})


def _rounded(gap: float | None) -> float | None:
    return None if gap is None else round(gap, 6)


def _plain(figures: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: round(value.item(), 4) for name, value in figures.items()}
