"""Ranks as ``queries.json`` keeps them, in the form from which the metrics themselves compute their values."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from contextcir.errors import InputError, shown
from contextcir.evaluation.metrics import Graded, Ranks

COMPOSED = "composed"
MOST_RANK = 10**12


class NotKeptError(Exception):
    """Ranks that a metric needs, and that the file does not have; the text says which."""


class StoredRanks(Ranks):
    """The ranks of a row of a split, of the queries that were seen.

    Args:
        entry: of the split, as `callbacks.query_results.QueryResults` describes it.
        row: name of the row.
        several: whether queries of this protocol may have several targets.
        of_first: whether ``rank`` is that of the first target alone.

    Raises:
        InputError: if the lists have wrong lengths, hold something else than ranks, or contradict each other.
    """

    def __init__(self, entry: Mapping[str, Any], row: str, several: bool, of_first: bool) -> None:
        self._lists, self._row = entry["rows"][row], row
        self._count = len(entry["queries"])
        self._several, self._of_first = several, of_first
        rank = self._column("rank")
        self.seen = [place for place, value in enumerate(rank) if value is not None]  # positions of the queries
        if not self.seen:
            raise InputError(f"row {shown(row)}: no query was seen")
        self._rank = _infinite(np.array([[rank[place]] for place in self.seen], dtype=float))  # (Q, 1)
        self._relevance = {name: entry.get(name) for name in ("relevance", "subset_relevance")}
        self._check()

    @cached_property
    def target_counts(self) -> np.ndarray:
        if "target_ranks" not in self._lists:
            if self._several:
                raise NotKeptError("the ranks of all targets were not kept")
            return np.ones(len(self.seen), dtype=int)
        return np.array([len(row) for row in self._rows("target_ranks")])

    @cached_property
    def targets(self) -> np.ndarray:
        if "target_ranks" in self._lists:
            return np.sort(_padded(self._rows("target_ranks")), axis=1)
        if self._several and self._of_first:
            raise NotKeptError("the ranks of all targets were not kept")
        return self._rank  # the best one

    @property
    def first_target(self) -> np.ndarray:
        if not self._of_first and self._several:
            raise NotKeptError("the rank of the first target was not kept")
        return self._rank

    @cached_property
    def subset_targets(self) -> np.ndarray:
        if "subset_target_ranks" in self._lists:
            return np.sort(_padded(self._rows("subset_target_ranks")), axis=1)
        if "subset_rank" not in self._lists:
            raise NotKeptError("ranks in subsets were not kept")
        column = self._column("subset_rank")
        return _infinite(np.array([[column[place]] for place in self.seen], dtype=float))

    @cached_property
    def graded(self) -> Graded:
        return self._graded("graded_ranks", "relevance")

    @cached_property
    def subset_graded(self) -> Graded:
        return self._graded("subset_graded_ranks", "subset_relevance")

    @cached_property
    def negatives(self) -> np.ndarray:
        return _padded(self._kept("negative_ranks"))

    @cached_property
    def negative_counts(self) -> np.ndarray:
        return np.array([len(row) for row in self._kept("negative_ranks")])

    @cached_property
    def targets_without_negatives(self) -> np.ndarray:
        return np.sort(_padded(self._kept("target_ranks_without_negatives")), axis=1)

    def highest(self, values: np.ndarray) -> np.ndarray:
        return values.max(1)

    def falling(self, values: np.ndarray) -> np.ndarray:
        return -np.sort(-values, axis=1)

    def log2(self, values: np.ndarray) -> np.ndarray:
        return np.log2(values)

    @property
    def most_targets(self) -> int | None:
        """The most targets of a query; None where they were not kept."""
        return max(map(len, self._rows("target_ranks"))) if "target_ranks" in self._lists else None

    @property
    def highest_rank(self) -> int:
        """The highest rank in the gallery, 0 if nothing was ranked."""
        found = [int(value) for value in self._rank.ravel() if np.isfinite(value)]
        for name in ("target_ranks", "graded_ranks"):
            if name in self._lists:
                found += [rank for row in self._rows(name) for rank in row]
        return max(found, default=0)

    def _graded(self, ranks: str, relevance: str) -> Graded:
        values = self._relevance[relevance]
        if ranks not in self._lists or not isinstance(values, list):
            raise NotKeptError("the ranks of graded images were not kept")
        kept, grades = self._rows(ranks), [values[place] for place in self.seen]
        if any(not isinstance(row, list) or len(row) != len(of) for row, of in zip(grades, kept, strict=True)):
            raise InputError(f"row {shown(self._row)}: {relevance} and {ranks} differ in length")
        return Graded(_padded(kept), np.where(_padded_values(grades) > 0, _padded_values(grades), 0.0))

    def _kept(self, name: str) -> list[list[int]]:
        if name not in self._lists:
            words = name.replace("_", " ")
            raise NotKeptError(f"{words} were not kept")
        return self._rows(name)

    def _column(self, name: str) -> list[int | None]:
        return [None if value is None else _rank(value, self._row) for value in self._list(name)]

    def _rows(self, name: str) -> list[list[int]]:
        listed = self._list(name)
        if any(not isinstance(listed[place], list) for place in self.seen):
            raise InputError(f"row {shown(self._row)}: {name} lacks a query that has a rank")
        return [[_rank(value, self._row) for value in listed[place]] for place in self.seen]

    def _list(self, name: str) -> Sequence[Any]:
        found = self._lists[name]
        if not isinstance(found, list) or len(found) != self._count:
            raise InputError(f"row {shown(self._row)}: {name} must be a list of {self._count:,}, one for each query")
        return found

    def _check(self) -> None:
        """Compare the rank of each query with those of its targets: the first one, or the best one."""
        for single, several in (("rank", "target_ranks"), ("subset_rank", "subset_target_ranks")):
            if several not in self._lists or single not in self._lists:
                continue
            column = self._column(single)
            for place, ranks in zip(self.seen, self._rows(several), strict=True):
                best = min((rank for rank in ranks if rank), default=0)
                good = column[place] in ranks if self._of_first and single == "rank" else column[place] == best
                if not good:
                    problem = f"row {shown(self._row)}: {single} is {column[place]} for the query at {place}, and its"
                    raise InputError(f"{problem} {several} are {shown(ranks)}")


def _rank(value: Any, row: str) -> int:
    if type(value) is not int or not 0 <= value <= MOST_RANK:
        raise InputError(f"row {shown(row)}: expected ranks, whole numbers from 0 on, got {shown(value)}")
    return value


def _infinite(ranks: np.ndarray) -> np.ndarray:
    return np.where(ranks > 0, ranks, np.inf)


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    return _infinite(_padded_values(rows))


def _padded_values(rows: Sequence[Sequence[float]]) -> np.ndarray:
    values = np.zeros((len(rows), max(1, *(len(row) for row in rows)) if rows else 1))
    for number, row in enumerate(rows):
        values[number, : len(row)] = row
    return values
