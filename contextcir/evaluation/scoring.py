"""The metrics of a `Protocol` for every query, from a score matrix in parts."""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.evaluation.gain import binary_gain
from contextcir.evaluation.metrics import Graded, Ranks
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.ranking import (
    OUT,
    graded_ranks,
    pad_rows,
    pad_values,
    pick,
    subset_ranks,
    target_ranks,
    top_columns,
    without,
    worst_ranks,
)


class Answers(NamedTuple):
    """The right answers to N queries; images are columns of the score matrix, -1 for padding and missing images.

    ``targets`` (N, K), and their number ``relevant`` (N,), missing ones included, as `Protocol.target_count` has it.
    ``references`` (N, F). ``rivals`` (N, M): the images that compete with the targets in the query's own subset.
    ``graded`` (N, R) images of ``relevance`` (N, R). ``negatives`` (N, W) wrong answers, and their number ``wrong``
    (N,), likewise.
    """

    targets: Tensor
    relevant: Tensor
    references: Tensor
    rivals: Tensor
    graded: Tensor
    relevance: Tensor
    negatives: Tensor
    wrong: Tensor

    def part(self, rows: slice) -> "Answers":
        """Return the answers to some queries, without the padding that only others need."""
        part = Answers(*(known[rows] for known in self))
        return part._replace(targets=part.targets[:, : max(1, int(part.relevant.max()))])


def known_answers(protocol: Protocol, query_index: Tensor, gallery_index: Tensor) -> Answers:
    """Return the answers that the protocol has to the queries at ``query_index`` (N,).

    ``gallery_index`` (G,): the gallery image of each column of the score matrix.
    """
    device, chosen = gallery_index.device, query_index.tolist()
    # Column of each gallery image; the extra last entry maps padding (-1) to itself.
    column = torch.full((len(protocol.gallery) + 1,), -1, device=device)
    column[gallery_index] = torch.arange(len(gallery_index), device=device)

    def columns(rows: Sequence[Sequence[int]]) -> Tensor:
        return column[pad_rows(rows).to(device)]

    targets = columns([protocol.targets[query] for query in chosen])  # (N, K)
    references = [protocol.reference_images(query) for query in chosen]
    # By sets, as comparing all members with all targets at once would take gigabytes for i-CIR.
    rivals = [
        [image for image in protocol.subsets[query] if image not in out] if protocol.subsets else []
        for query, out in zip(
            chosen, ({*protocol.targets[q], *protocol.reference_images(q)} for q in chosen), strict=True
        )
    ]
    negatives = [protocol.negatives[query] if protocol.negatives else () for query in chosen]
    grades = [protocol.graded_targets[query] if protocol.graded_targets else {} for query in chosen]
    return Answers(
        targets=targets,
        relevant=torch.tensor([protocol.target_count(query) for query in chosen], device=device),
        references=columns([images or (-1,) for images in references]),  # (N, F)
        rivals=columns(rivals),  # (N, M)
        graded=columns([tuple(grade) or (-1,) for grade in grades]),
        relevance=pad_values([tuple(grade.values()) or (0.0,) for grade in grades]).to(device),
        negatives=columns([images or (-1,) for images in negatives]),  # (N, W)
        wrong=torch.tensor([protocol.negative_count(query) for query in chosen], device=device),
    )


class ScoredRanks(Ranks):
    """Ranks from a part of the score matrix.

    Args:
        answers: to these queries.
        scores: (Q, G), -inf for excluded images.
        exclude_reference: whether the reference is taken out of the gallery.
    """

    def __init__(self, answers: Answers, scores: Tensor, exclude_reference: bool) -> None:
        self._answers = answers
        self._scores = scores
        self._exclude_reference = exclude_reference

    @property
    def target_counts(self) -> Tensor:
        return self._answers.relevant

    @cached_property
    def targets(self) -> Tensor:
        return target_ranks(self._candidates, self._answers.targets).sort(1).values

    @cached_property
    def first_target(self) -> Tensor:
        return target_ranks(self._candidates, self._answers.targets[:, :1])

    @cached_property
    def subset_targets(self) -> Tensor:
        return subset_ranks(self._scores, self._answers.targets, self._answers.rivals).sort(1).values

    @cached_property
    def graded(self) -> Graded:
        graded, relevance = self._answers.graded, self._answers.relevance
        ranks = graded_ranks(self._candidates, pick(self._candidates, graded), relevance)
        return Graded(ranks, relevance.clamp(min=0))

    @cached_property
    def subset_graded(self) -> Graded:
        targets, rivals, graded = self._answers.targets, self._answers.rivals, self._answers.graded
        candidates = torch.cat([targets, rivals], 1)  # (Q, K + M)
        same = (candidates[:, :, None] == graded[:, None, :]) & (candidates >= 0)[:, :, None]
        relevance = (same * self._answers.relevance[:, None, :]).sum(2)  # (Q, K + M)
        own = pick(self._scores, candidates)
        return Graded(graded_ranks(own, own, relevance), relevance.clamp(min=0))

    @cached_property
    def negatives(self) -> Tensor:
        return worst_ranks(self._candidates, self._answers.negatives)

    @property
    def negative_counts(self) -> Tensor:
        return self._answers.wrong

    @cached_property
    def targets_without_negatives(self) -> Tensor:
        left = without(self._candidates, self._answers.negatives)
        return target_ranks(left, self._answers.targets).sort(1).values

    def highest(self, values: Tensor) -> Tensor:
        return values.amax(1)

    def falling(self, values: Tensor) -> Tensor:
        return values.sort(1, descending=True).values

    def log2(self, values: Tensor) -> Tensor:
        return values.log2()

    def nearest(self, count: int, in_subsets: bool) -> Tensor:
        """Return the columns (Q, k) of the candidates with the highest scores, -1 where there are no more.

        ``in_subsets``: only the members of the query's own subset compete, targets among them.
        """
        scores = self._candidates.nan_to_num(nan=OUT, posinf=None, neginf=OUT)
        if in_subsets:
            pool = torch.cat([self._answers.targets, self._answers.rivals], 1)  # (Q, K + M)
            rows, places = (pool >= 0).nonzero(as_tuple=True)
            outside = torch.ones_like(scores, dtype=torch.bool)
            outside[rows, pool[rows, places]] = False
            scores = scores.masked_fill(outside, OUT)
        columns = top_columns(scores, min(count, scores.shape[1]))
        return columns.masked_fill(scores.gather(1, columns) == OUT, -1)

    @cached_property
    def _candidates(self) -> Tensor:
        return without(self._scores, self._answers.references) if self._exclude_reference else self._scores


class Nearest(NamedTuple):
    """The images of the highest scores for N queries: ``images`` (N, k) gallery positions, best first, -1 for none.

    ``scores`` (N, k), and ``own`` (N,) of the target that the rank is of; -inf where there is none.
    """

    images: Tensor
    scores: Tensor
    own: Tensor


class AllRanks(NamedTuple):
    """Ranks of all images that matter to N queries, as of `Ranks`: what every metric can be computed from again.

    ``targets`` (N, K), rising, and their number ``counts`` (N,), missing ones included. ``subset_targets`` (N, K),
    ``graded``, ``subset_graded``, and of wrong answers ``negatives`` (N, W), their number ``negative_counts`` (N,) and
    ``without_negatives`` (N, K), the ranks of the targets without them, are None where the protocol has none. Infinite
    where an image is missing.
    """

    targets: Tensor
    counts: Tensor
    subset_targets: Tensor | None = None
    graded: Graded | None = None
    subset_graded: Graded | None = None
    negatives: Tensor | None = None
    negative_counts: Tensor | None = None
    without_negatives: Tensor | None = None


class Scored(NamedTuple):
    """What the scores say of N queries: ``values`` in 0..1 (N,) by metric, and ranks (N,) of the best target.

    ``rank`` in the gallery, of the first target alone where recall is that of the first; ``subset_rank`` in the query's
    own subset, None without subsets. Infinite where the target is missing. ``nearest``: None if it was not asked for.
    ``ndcg`` (N,) in 0..1 over the whole gallery, or over the query's own subset where only subsets are ranked.
    ``all_ranks``: of every target, and of the images with a relevance.
    """

    values: dict[str, Tensor]
    rank: Tensor
    subset_rank: Tensor | None
    nearest: Nearest | None = None
    ndcg: Tensor | None = None
    all_ranks: AllRanks | None = None


def score_queries(
    protocol: Protocol, answers: Answers, chunks: Iterable[tuple[slice, Tensor]], nearest: int = 0
) -> Scored:
    """Return every metric of the protocol, and the ranks of the targets, of every query.

    ``chunks``: slices of the queries, in order, with their scores (rows, G), as `ranking.score_chunks` yields them;
    excluded images have the score -inf. ``nearest``: how many of the best images of every query to return, as columns.
    """
    parts: list[dict[str, Tensor]] = []
    best: list[Nearest] = []
    own: list[Tensor] = []
    own_subset: list[Tensor] = []
    gains: list[Tensor] = []
    known: list[AllRanks] = []
    for rows, scores in chunks:
        ranks = ScoredRanks(answers.part(rows), scores, protocol.exclude_reference)
        parts.append({metric.name: metric.values(ranks) for metric in protocol.metrics})
        gains.append(binary_gain(ranks.subset_targets if protocol.only_subsets else ranks.targets, ranks))
        own.append((ranks.first_target if protocol.recall_of_first else ranks.targets)[:, 0])
        if protocol.subsets is not None:
            own_subset.append(ranks.subset_targets[:, 0])
        known.append(_all_ranks(protocol, ranks))
        if nearest:
            counted = answers.targets[rows][:, :1] if protocol.recall_of_first else answers.targets[rows]
            columns = ranks.nearest(nearest, protocol.only_subsets)
            best.append(Nearest(columns, pick(scores, columns), pick(scores, counted).amax(1)))
    values = {name: torch.cat([part[name] for part in parts]) for name in protocol.metric_names()}
    found = Nearest(*map(torch.cat, zip(*best, strict=True))) if best else None
    subset = torch.cat(own_subset) if own_subset else None
    return Scored(values, torch.cat(own), subset, found, torch.cat(gains), _joined(known))


def _all_ranks(protocol: Protocol, ranks: ScoredRanks) -> AllRanks:
    in_subsets = protocol.subsets is not None
    graded = protocol.graded_targets is not None
    wrong = protocol.negatives is not None
    return AllRanks(
        targets=ranks.targets,
        counts=ranks.target_counts,
        subset_targets=ranks.subset_targets if in_subsets else None,
        graded=ranks.graded if graded else None,
        subset_graded=ranks.subset_graded if graded and in_subsets else None,
        negatives=ranks.negatives if wrong else None,
        negative_counts=ranks.negative_counts if wrong else None,
        without_negatives=ranks.targets_without_negatives if wrong else None,
    )


def _joined(parts: list[AllRanks]) -> AllRanks:
    """Return the ranks of all queries; parts may differ in how many targets or images they have room for."""

    def join(name: str) -> Tensor | Graded | None:
        found = [getattr(part, name) for part in parts]
        if found[0] is None:
            return None
        if isinstance(found[0], Graded):
            return Graded(_stacked([of.ranks for of in found], math.inf), _stacked([of.relevance for of in found], 0))
        return _stacked(found, math.inf) if found[0].ndim == 2 else torch.cat(found)

    return AllRanks(**{name: join(name) for name in AllRanks._fields})  # type: ignore[arg-type]


def _stacked(parts: list[Tensor], padding: float) -> Tensor:
    width = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(part, (0, width - part.shape[1]), value=padding) for part in parts])
