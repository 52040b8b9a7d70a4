"""Which hard negatives win: how often the target comes before the members of its subset that play a certain role."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import EvaluationCallback
from callbacks.results import add_results
from contextcir.batch import GalleryBatch, QueryBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.composition import EvaluationEmbeddings
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.ranking import pad_rows, pick, score_chunks

Roles = Sequence[Mapping[str, str]]  # of each query: image name -> role


class RoleMetric(EvaluationEmbeddings):
    """Scores targets against the members of their subsets by role.

    Args:
        protocol: of the queries.
        roles: of each of its queries, the roles of images by name; images that are not in the gallery are left out.
    """

    def __init__(self, protocol: Protocol, roles: Roles, **kwargs: Any) -> None:
        super().__init__(protocol, **kwargs)
        place = {name: index for index, name in enumerate(protocol.gallery)}
        self.members: dict[str, list[list[int]]] = {}  # by role, gallery indices of every query
        # By role, whether the target came first in the last `compute`, by query; only queries that have the role.
        self.before: dict[str, dict[int, bool]] = {}
        for query, of in enumerate(roles):
            for name, role in of.items():
                if name in place:
                    rows = self.members.setdefault(role, [[] for _ in protocol.query_ids])
                    rows[query].append(place[name])

    def compute(self) -> dict[str, Tensor]:
        """Return percentages of the queries that have a member of the role, then the same by stratum.

        ``target_before_ROLE``: the target's score is above that of all members of the role. ``first_ROLE``: a member of
        the role has the highest score of the whole subset. Ties count against the target.
        """
        queries, query_index = self.queries()
        gallery, gallery_index = self.gallery()
        if not (self.protocol.labelled and len(query_index) and len(gallery_index)):
            return {}
        column = torch.full((len(self.protocol.gallery) + 1,), -1, device=self.device)  # the last is for "none"
        column[gallery_index] = torch.arange(len(gallery_index), device=self.device)

        def columns(rows: Sequence[Sequence[int]]) -> Tensor:
            return column[pad_rows([rows[query] for query in query_index.tolist()]).to(self.device)]

        targets = columns(self.protocol.targets)  # (N, K)
        members = {role: columns(rows) for role, rows in self.members.items()}  # (N, M) each
        best: dict[str, list[Tensor]] = {role: [] for role in members}
        own = []
        for rows, scores in score_chunks(queries, gallery):
            own.append(pick(scores, targets[rows]).amax(1))
            for role, of in members.items():
                best[role].append(pick(scores, of[rows]).amax(1))
        target = torch.cat(own)  # (N,)
        by_role = {role: torch.cat(parts) for role, parts in best.items()}
        highest = torch.stack([target, *by_role.values()]).amax(0)
        for role, values in by_role.items():
            counted = (members[role] >= 0).any(1) & (targets >= 0).any(1)
            first = (target > values)[counted].tolist()
            self.before[role] = dict(zip(query_index[counted].tolist(), first, strict=True))
        figures: dict[str, Tensor] = {}
        strata = {"": range(len(self.protocol.query_ids))} | {f"_{k}": of for k, of in self.protocol.strata.items()}
        for suffix, chosen in strata.items():
            inside = torch.isin(query_index, torch.tensor(chosen, device=self.device))
            for role, values in by_role.items():
                counted = inside & (members[role] >= 0).any(1) & (targets >= 0).any(1)
                if counted.any():
                    name = re.sub(r"\W+", "_", role)
                    before, first = target > values, (values == highest) | values.isnan()
                    figures[f"target_before_{name}{suffix}"] = 100 * before[counted].float().mean()
                    figures[f"first_{name}{suffix}"] = 100 * first[counted].float().mean()
        return figures


class NegativeRoles(EvaluationCallback):
    """Say which kinds of hard negatives the target is told from, where the annotations name the kinds.

    Asks the data module for ``member_roles(split)``: by query id, the role of every image of the query's subset. The
    figures (see `RoleMetric`) are logged as ``val_target_before_swapped`` and added to ``metrics.json``. Splits and
    data modules without roles are left out.
    """

    def __init__(self) -> None:
        self.before: dict[
            str, dict[str, dict[int, bool]]
        ] = {}  # of the last evaluation, as `RoleMetric` has it, by split
        self._metrics: dict[int, RoleMetric] = {}
        self._latest: dict[str, dict[str, float]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start without figures of an earlier run."""
        self._metrics, self._latest = {}, {}

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with empty metrics."""
        self._metrics = {}
        named = getattr(trainer.datamodule, "member_roles", None)
        if trainer.sanity_checking or named is None:
            return
        for position, protocol in enumerate(trainer.datamodule.protocols(stage)):
            roles = named(protocol.split)
            if roles:
                of_queries = [roles.get(query, {}) for query in protocol.query_ids]
                self._metrics[position] = RoleMetric(protocol, of_queries).to(pl_module.device)

    def add(
        self,
        pl_module: LightningModule,
        outputs: QueryFeatures | ImageFeatures,
        batch: QueryBatch | GalleryBatch,
        protocol_index: int,
    ) -> None:
        """Add a batch."""
        metric = self._metrics.get(protocol_index)
        if metric is not None and isinstance(batch, GalleryBatch):
            metric.update_gallery(batch.index, outputs.embedding)
        elif metric is not None:
            metric.update_queries(batch.index, outputs.fused.embedding)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log."""
        self._score(pl_module)
        if trainer.state.fn != "fit":
            self._save("validate", trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, log and save."""
        self._score(pl_module)
        self._save("test", trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the figures of the last validation."""
        self._save("fit_end", trainer)

    def _score(self, pl_module: LightningModule) -> None:
        for metric in self._metrics.values():
            figures, split = metric.compute(), metric.protocol.split
            # Equal on all ranks already; saying so keeps Lightning from warning about it.
            pl_module.log_dict({f"{split}_{name}": value for name, value in figures.items()}, sync_dist=True)
            self._latest[split] = {name: round(value.item(), 4) for name, value in figures.items()}
            self.before[split] = metric.before
        self._metrics = {}

    def _save(self, phase: str, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            for split, figures in self._latest.items():
                add_results(Path(trainer.default_root_dir), phase, split, figures)
