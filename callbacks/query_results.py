"""What a run has found query by query: the ranks behind its figures, and the images that came first."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.evaluation import EvaluationCallback
from callbacks.examples import examples
from callbacks.kept_ranks import Computed, column, entry_of
from callbacks.negatives import NegativeRoles
from callbacks.retrieved import QUERIES_FILE, Found, Head, Picture, path_of, write_retrieved
from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.evaluation.composition import COMPOSED
from contextcir.evaluation.protocol import Protocol
from contextcir.files import read_json, write_json
from contextcir.losses.maps import phrase_attention

PHASE = {"fit": "fit_end", "validate": "validate", "test": "test"}  # of metrics.json
WITH_IMAGES = (COMPOSED, "sum")  # rows whose nearest images are kept
MOST = 1000  # images or maps; the file would grow out of hand
OF_GROUP = 6  # examples with maps of each group of queries
BATCH = 64  # queries that are encoded at a time for their maps


class QueryResults(EvaluationCallback):
    """Write what was found for every query into the run's folder, for comparisons of runs and for looking at pictures.

    ``queries.json``, beside ``metrics.json``, has by split: ``benchmark``; ``queries`` (ids); ``references`` (image
    names, null for one outside the gallery); ``strata`` (positions of a group's queries); ``rows`` (by row of the
    recall table ``rank`` in the gallery and, with subsets, ``subset_rank``) and, where `NegativeRoles` is among the
    callbacks and knows roles, ``target_before`` (by role, whether the target came before all members of it, null where
    there are none). Every list has one item a query. A rank is 0 where the target was not ranked, and null where the
    query was not seen. Each evaluation replaces the entries of its splits; one before training is not kept.

    So that every figure can be computed again (`experiments.bundle`): ``made`` (the ``phase`` of ``metrics.json`` that
    the ranks are of, and the training ``step``), and lists of ranks where one is not enough. Where queries have
    several targets, rows have ``target_ranks`` and, with subsets, ``subset_target_ranks`` of all targets, missing ones
    last; where images are graded, ``graded_ranks`` and ``subset_graded_ranks`` of those with a relevance above 0, which
    are the same in all rows and stand in the split's ``relevance`` and ``subset_relevance``. Where there are wrong
    answers, rows have ``negative_ranks`` and ``target_ranks_without_negatives``; where queries belong together, the
    split has ``query_groups``.

    ``retrieved/SPLIT.jsonl.gz`` has the captions, the nearest images of the composed query and of the sum, their scores
    and places on the disk, and for the worst failures and nearest misses (`examples`) the attention of the noun
    phrases, if the fusion has any: see `callbacks.retrieved`. `experiments.report` makes a page of both without any
    model.

    Args:
        nearest: how many images of each query to keep; 0 writes ranks only.
        attention: how many failures and near misses to keep maps of, besides a few of each group; 0 for none.

    Raises:
        InputError: if ``nearest`` or ``attention`` is negative or more than `MOST`.
    """

    def __init__(self, nearest: int = 10, attention: int = 24) -> None:
        self.nearest = whole(nearest, 0, "trainer.callbacks.QueryResults.nearest", MOST)
        self.attention = whole(attention, 0, "trainer.callbacks.QueryResults.attention", MOST)
        self._latest: dict[str, dict[str, Any]] = {}  # stays empty: ranks are too many for a checkpoint
        self._computed: dict[str, dict[str, Any]] = {}
        self._scored: list[tuple[Protocol, Computed]] = []

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the evaluation before, and ask for the nearest images."""
        self._computed, self._scored = {}, []
        if not trainer.sanity_checking:
            for metric in pl_module.metrics:
                metric.keep_nearest(self.nearest)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the ranks; all ranks take part, since the metrics may still have to be computed."""
        if trainer.sanity_checking:
            return
        for metric in pl_module.metrics:
            metric.compute()
            scored = {row: found for row in metric.rows if (found := metric.scored(row)) is not None}
            self._scored.append((metric.protocol, scored))
            if scored:
                made = {"phase": PHASE.get(trainer.state.fn, "fit_end"), "step": trainer.global_step}
                self._computed[metric.protocol.split] = {**entry_of(metric.protocol, scored), "made": made}

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything, with the outcomes by role, which a callback may have computed after this one's turn."""
        self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything, as after a validation."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
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
        folder = Path(trainer.default_root_dir)
        _merge(folder / QUERIES_FILE, self._computed)
        if self.nearest and hasattr(trainer.datamodule, "query_records"):
            for index, (protocol, scored) in enumerate(self._scored):
                if scored and protocol.gallery:
                    sheet = Retrieved(trainer, pl_module, stage, index, protocol, scored)
                    write_retrieved(path_of(folder, protocol.split), *sheet.content(self.attention))
        self._scored = []


class Maps(NamedTuple):
    """Attention of the phrases of some queries, by position: each map a row of 0..255. ``grid``: rows and columns."""

    grid: tuple[int, int]
    of: dict[int, tuple[tuple[int, ...], ...]]


class Retrieved:
    """What goes into the file of a split; only on rank 0."""

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        stage: str,
        index: int,
        protocol: Protocol,
        scored: Computed,
    ) -> None:
        self.trainer, self.module, self.data = trainer, module, trainer.datamodule
        self.stage, self.index, self.protocol = stage, index, protocol
        self.rows: dict[str, tuple[dict[int, int], Any]] = {}  # by row: line of each query, and its nearest images
        for row in WITH_IMAGES:
            if row in scored and (nearest := scored[row][1].nearest) is not None:
                lines = {place: line for line, place in enumerate(scored[row][0].tolist())}
                self.rows[row] = lines, type(nearest)(*(part.cpu() for part in nearest))
        index_of, composed = scored[COMPOSED]
        ranks = composed.subset_rank if protocol.only_subsets else composed.rank
        self.ranks = column(protocol, index_of, ranks)

    def content(self, attention: int) -> tuple[Head, list[Found]]:
        """Return the head and the lines."""
        protocol, records = self.protocol, self.data.query_records(self.stage, self.index)
        roles = self._roles()
        top = {row: self._tops(row) for row in self.rows}
        maps = self._maps(top.get(COMPOSED, {}), attention) if attention else None
        clean = self.module.backbone.tokenizer.clean
        numbers: list[list[int]] = [[] for _ in protocol.query_ids]  # of each query's records
        for number, place in enumerate(protocol.record_queries()):
            numbers[place].append(number)
        found = []
        for place, query in enumerate(protocol.query_ids):
            best = {row: of[place] for row, of in top.items() if place in of}
            views = [records[number] for number in numbers[place]]
            named = {name for of in best.values() for name, _ in of[0]}
            kinds = {name: kind for name, kind in self._kinds(place, views[0], roles).items() if name in named}
            found.append(
                Found(
                    query=query,
                    reference=views[0].reference,
                    text=" / ".join(dict.fromkeys(clean(view.caption) for view in views)),
                    phrases=tuple((phrase.start, phrase.end) for phrase in views[0].phrases),
                    targets=tuple(protocol.gallery[target] for target in protocol.targets[place]),
                    top={row: of[0] for row, of in best.items()},
                    own={row: of[1] for row, of in best.items()},
                    kinds=kinds,
                    attention=maps.of.get(place) if maps else None,
                )
            )
        names = {name for line in found for name in (line.reference, *line.targets)}
        names |= {name for line in found for best in line.top.values() for name, _ in best}
        root = os.path.abspath(self.data.root)
        places = self.data.image_places(self.stage, self.index, sorted(names))
        pictures = {name: Picture(_below(root, place.file), place.box) for name, place in places.items()}
        head = Head(
            benchmark=protocol.benchmark,
            split=protocol.split,
            gallery=len(protocol.gallery),
            in_subsets=protocol.only_subsets,
            of_first=protocol.recall_of_first,
            root=root,
            pictures=pictures,
            grid=maps.grid if maps and maps.of else None,
        )
        return head, found

    def _tops(self, row: str) -> dict[int, tuple[tuple[tuple[str, float], ...], float | None]]:
        """Return by position of a query its nearest images with their scores, and the score of its target."""
        lines, nearest = self.rows[row]
        images, scores, own = nearest.images.tolist(), nearest.scores.tolist(), nearest.own.tolist()
        finite = nearest.own.isfinite().tolist()
        return {
            place: (
                tuple(
                    (self.protocol.gallery[image], round(score, 4))
                    for image, score in zip(images[line], scores[line], strict=True)
                    if image >= 0
                ),
                round(own[line], 4) if finite[line] else None,
            )
            for place, line in lines.items()
        }

    def _roles(self) -> Mapping[int, Mapping[str, str]]:
        named = getattr(self.data, "member_roles", None)
        return named(self.protocol.split) if named is not None else {}

    def _kinds(self, place: int, record: Any, roles: Mapping[int, Mapping[str, str]]) -> dict[str, str]:
        """Return what images are to a query, by name; the last to name one is right."""
        protocol = self.protocol
        members = protocol.subsets[place] if protocol.subsets is not None else ()
        kinds = {protocol.gallery[member]: "same set" for member in members}
        kinds |= roles.get(protocol.query_ids[place], {})
        kinds[record.reference] = "reference"
        return kinds | {protocol.gallery[target]: "target" for target in protocol.targets[place]}

    @torch.no_grad()
    def _maps(self, top: Mapping[int, Any], count: int) -> Maps | None:
        """Return the attention of the examples' phrases; None if the fusion has none."""
        margins: list[float | None] = [None] * len(self.ranks)
        for place, (best, own) in top.items():
            if best and own is not None:
                margins[place] = best[0][1] - own
        chosen = examples(self.ranks, margins, self.protocol.strata, count, min(count, OF_GROUP))
        of: dict[int, tuple[tuple[int, ...], ...]] = {}
        trainer, module = self.trainer, self.module
        for start in range(0, len(chosen), BATCH):
            places = chosen[start : start + BATCH]
            batch = trainer.precision_plugin.convert_input(self.data.query_batch(self.stage, self.index, places))
            batch = trainer.strategy.batch_to_device(batch, module.device)
            with trainer.precision_plugin.forward_context():
                outputs = module.encode_query(batch)
            if not outputs.fused.attention:
                return None
            maps = phrase_attention(module.fusion, outputs).float().nan_to_num(nan=0.0).cpu()  # (P, N)
            for row, place in enumerate(places):
                mine = maps[batch.phrases.owner.cpu() == row]  # (p, N)
                if mine.numel() and mine.max() > 0:
                    low, high = mine.min(), mine.max()
                    levels = (255 * (mine - low) / (high - low).clamp(min=1e-12)).round().int().tolist()
                    of[place] = tuple(tuple(values) for values in levels)
        return Maps(tuple(module.backbone.grid), of)


def _below(root: str, file: str | Path) -> str:
    path = os.path.abspath(file)
    return os.path.relpath(path, root) if path.startswith(os.path.join(root, "")) else path


def _merge(path: Path, entries: Mapping[str, dict[str, Any]]) -> None:
    kept = read_json(path) if path.exists() else {}
    if not isinstance(kept, dict):
        raise InputError("holds something else than results of queries: move it away", file=path)
    write_json(path, kept | dict(entries), indent=None)
