"""What a run has found query by query: the ranks behind its figures, for intervals and comparisons of runs."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import EvaluationCallback
from callbacks.negatives import NegativeRoles
from contextcir.errors import InputError
from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.protocol import Protocol
from contextcir.files import read_json, write_json

QUERIES_FILE = "queries.json"
NOT_RANKED = 0  # ranks start at 1


class QueryResults(EvaluationCallback):
    """Write the rank of every query's target to ``queries.json`` in the run's folder, beside ``metrics.json``.

    By split: ``queries`` (ids), ``references`` (image names, null for one outside the gallery), ``strata`` (positions
    of a group's queries), ``rows`` (by row of the recall table ``rank`` in the gallery and, with subsets,
    ``subset_rank``) and, where `NegativeRoles` is among the callbacks and knows roles, ``target_before`` (by role,
    whether the target came before all members of it, null where there are none). Every list has one item a query. A
    rank is 0 where the target was not ranked, and null where the query was not seen. Each evaluation replaces the
    entries of its splits; one before training is not kept.
    """

    def __init__(self) -> None:
        self._latest: dict[str, dict[str, Any]] = {}  # stays empty: ranks are too many for a checkpoint
        self._computed: dict[str, dict[str, Any]] = {}

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the evaluation before."""
        self._computed = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the ranks; all ranks take part, since the metrics may still have to be computed."""
        if trainer.sanity_checking:
            return
        for metric in pl_module.metrics:
            metric.compute()
            if (entry := _entry(metric)) is not None:
                self._computed[metric.protocol.split] = entry

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them, with the outcomes by role, which another callback may have computed after this one's turn."""
        if not (self._computed and trainer.is_global_zero):
            return
        before = {
            split: roles
            for callback in trainer.callbacks
            if isinstance(callback, NegativeRoles)
            for split, roles in callback.before.items()
        }
        for split, entry in self._computed.items():
            if before.get(split):
                places = range(len(entry["queries"]))
                entry["target_before"] = {
                    role: [of.get(place) for place in places] for role, of in before[split].items()
                }
        _write(Path(trainer.default_root_dir) / QUERIES_FILE, self._computed)

    on_test_end = on_validation_end


def _entry(metric: CompositionMetric) -> dict[str, Any] | None:
    """Return what the last computation found query by query; None if it had nothing to rank."""
    protocol = metric.protocol
    rows: dict[str, dict[str, list[int | None]]] = {}
    for row in metric.rows:
        found = metric.scored(row)
        if found is not None:
            index, scored = found
            rows[row] = {"rank": _column(protocol, index, scored.rank)}
            if scored.subset_rank is not None:
                rows[row]["subset_rank"] = _column(protocol, index, scored.subset_rank)
    if not rows:
        return None
    return {
        "queries": list(protocol.query_ids),
        "references": [None if place < 0 else protocol.gallery[place] for place in protocol.references],
        "strata": {name: list(members) for name, members in protocol.strata.items()},
        "rows": rows,
    }


def _column(protocol: Protocol, index: Tensor, ranks: Tensor) -> list[int | None]:
    column: list[int | None] = [None] * len(protocol.query_ids)
    whole = torch.where(ranks.isfinite(), ranks, NOT_RANKED).long()
    for place, rank in zip(index.tolist(), whole.tolist(), strict=True):
        column[place] = rank
    return column


def _write(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    kept = read_json(path) if path.exists() else {}
    if not isinstance(kept, dict):
        raise InputError("holds something else than results of queries: move it away", file=path)
    write_json(path, kept | entries, indent=None)
