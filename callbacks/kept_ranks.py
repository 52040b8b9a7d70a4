"""The ranks behind the figures of a split, as lists for ``queries.json``: every metric follows from them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contextcir.evaluation.metrics import Graded
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.scoring import AllRanks, Scored

NOT_RANKED = 0  # ranks start at 1

Computed = Mapping[str, tuple[Tensor, Scored]]  # by row: the queries, and what they scored
Lists = list[list[Any] | None]


def entry_of(protocol: Protocol, scored: Computed) -> dict[str, Any]:
    """Return the ranks of a protocol's queries, by row, as `QueryResults` describes them."""
    rows: dict[str, dict[str, Any]] = {}
    relevance: dict[str, Any] = {}
    for row, (index, found) in scored.items():
        rows[row] = {"rank": column(protocol, index, found.rank)}
        if found.subset_rank is not None:
            rows[row]["subset_rank"] = column(protocol, index, found.subset_rank)
        if found.all_ranks is not None:
            rows[row] |= _of_all_targets(protocol, index, found.all_ranks)
            rows[row] |= _of_negatives(protocol, index, found.all_ranks)
            graded, grades = _of_graded(protocol, index, found.all_ranks)
            rows[row] |= graded
            relevance |= grades
    groups = protocol.query_groups
    if groups is not None:
        relevance["query_groups"] = list(groups)
    return {
        "benchmark": protocol.benchmark,
        "queries": list(protocol.query_ids),
        "references": [None if place < 0 else protocol.gallery[place] for place in protocol.references],
        "strata": {name: list(members) for name, members in protocol.strata.items()},
        "rows": rows,
        **relevance,
    }


def column(protocol: Protocol, index: Tensor, ranks: Tensor) -> list[int | None]:
    """Return the ranks (N,) of the queries at ``index`` (N,), one for each query: None for one that was not seen."""
    values: list[int | None] = [None] * len(protocol.query_ids)
    for place, rank in zip(index.tolist(), _whole(ranks).tolist(), strict=True):
        values[place] = rank
    return values


def _of_all_targets(protocol: Protocol, index: Tensor, ranks: AllRanks) -> dict[str, Lists]:
    """Return the ranks of all targets, {} where no query has more than one: its rank is in the columns."""
    lists = {"target_ranks": ranks.targets, "subset_target_ranks": ranks.subset_targets}
    if max(map(len, protocol.targets)) < 2:
        lists = {}
    lists["target_ranks_without_negatives"] = ranks.without_negatives
    counts = ranks.counts.tolist()
    return {
        name: _scattered(
            protocol, index, [row[:count] for row, count in zip(_whole(found).tolist(), counts, strict=True)]
        )
        for name, found in lists.items()
        if found is not None
    }


def _of_negatives(protocol: Protocol, index: Tensor, ranks: AllRanks) -> dict[str, Lists]:
    """Return the ranks of wrong answers, missing ones last; {} where there are none."""
    if ranks.negatives is None or ranks.negative_counts is None:
        return {}
    rising = _whole(ranks.negatives.sort(1).values).tolist()
    lists = [row[:count] for row, count in zip(rising, ranks.negative_counts.tolist(), strict=True)]
    return {"negative_ranks": _scattered(protocol, index, lists)}


def _of_graded(protocol: Protocol, index: Tensor, ranks: AllRanks) -> tuple[dict[str, Lists], dict[str, Lists]]:
    """Return the ranks of images with a relevance above 0, and these relevances."""
    found: tuple[dict[str, Lists], dict[str, Lists]] = {}, {}
    for prefix, graded in (("", ranks.graded), ("subset_", ranks.subset_graded)):
        if graded is not None:
            lists = _positive(graded)
            found[0][f"{prefix}graded_ranks"] = _scattered(protocol, index, lists[0])
            found[1][f"{prefix}relevance"] = _scattered(protocol, index, lists[1])
    return found


def _positive(graded: Graded) -> tuple[list[list[int]], list[list[float]]]:
    ranks, values = _whole(graded.ranks).tolist(), graded.relevance.tolist()
    kept = [[place for place, value in enumerate(row) if value > 0] for row in values]
    return (
        [[ranks[row][place] for place in places] for row, places in enumerate(kept)],
        [[round(values[row][place], 6) for place in places] for row, places in enumerate(kept)],
    )


def _scattered(protocol: Protocol, index: Tensor, lists: list[list[Any]]) -> Lists:
    values: Lists = [None] * len(protocol.query_ids)
    for place, row in zip(index.tolist(), lists, strict=True):
        values[place] = row
    return values


def _whole(ranks: Tensor) -> Tensor:
    return torch.where(ranks.isfinite(), ranks, NOT_RANKED).long()
