"""A benchmark as data: what is ranked, what counts as found, and which figures are reported."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# A prefix or suffix of metric names; anything else cannot be sorted or filtered by the loggers.
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """State how a benchmark is scored; queries and gallery images are named by their positions in it.

    Args:
        benchmark: name of the benchmark, e.g. ``cirr``.
        split: prefix of the metric names: ``val`` gives ``val_recall_at_5``.
        gallery: image names; the position of a name is its gallery index.
        query_ids: keys of the queries in submission files; the position of a key is its query index.
        targets: gallery indices of the right answers, per query; empty for every query where labels are hidden.
        references: gallery index of each query's reference image, -1 where it is not in the gallery.
        exclude_reference: whether the reference is taken out of the gallery before ranking.
        subsets: gallery indices of each query's own small gallery. The reference never competes in it, and the targets
            always do, whether they are listed or not.
        recall_at: cut-offs k of ``recall_at_k`` on the gallery.
        subset_recall_at: cut-offs k of ``subset_recall_at_k`` on the query's own subset.
        average_precision_at: cut-offs k of ``map_at_k`` on the gallery.
        strata: named groups of query indices; every metric is repeated as ``recall_at_1_<group>``.
        headline: the metric that chooses checkpoints.
        options: other decisions of the benchmark's reader that change the figures (e.g. how the query text is made).

    Raises:
        ValueError: if a field contradicts another; the message names the field and the query.
    """

    benchmark: str
    split: str
    gallery: tuple[str, ...]
    query_ids: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    references: tuple[int, ...]
    exclude_reference: bool
    subsets: tuple[tuple[int, ...], ...] | None = None
    recall_at: tuple[int, ...] = (1, 5, 10, 50)
    subset_recall_at: tuple[int, ...] = ()
    average_precision_at: tuple[int, ...] = ()
    strata: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    headline: str = "recall_at_1"
    options: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not WORD.fullmatch(self.split):
            self._fail("split", f"expected a word like 'val' (letters, digits, _), got {self.split!r}")
        if not self.gallery or not self.query_ids:
            empty = "query_ids" if self.gallery else "gallery"
            self._fail(empty, "is empty: there is nothing to rank")
        self._check_distinct("gallery", self.gallery)
        self._check_distinct("query_ids", self.query_ids)
        for name in ("targets", "references", *(() if self.subsets is None else ("subsets",))):
            if len(getattr(self, name)) != len(self.query_ids):
                self._fail(name, f"expected one per query ({len(self.query_ids)}), got {len(getattr(self, name))}")
        for name in ("recall_at", "subset_recall_at", "average_precision_at"):
            cutoffs = getattr(self, name)
            if list(cutoffs) != sorted(set(cutoffs)) or any(k < 1 for k in cutoffs):
                self._fail(name, f"expected rising positive cut-offs, got {list(cutoffs)}")
        if self.subset_recall_at and self.subsets is None:
            self._fail("subset_recall_at", "asks for recall in subsets, but `subsets` is None")
        for query in range(len(self.query_ids)):
            self._check_query(query)
        for name, members in self.strata.items():
            if not WORD.fullmatch(name):
                self._fail("strata", f"expected a word as the name of a group, got {name!r}")
            if not members or len(set(members)) != len(members):
                self._fail("strata", f"group {name!r} is empty or names a query twice")
            if min(members) < 0 or max(members) >= len(self.query_ids):
                self._fail("strata", f"group {name!r} names a query outside 0..{len(self.query_ids) - 1}")
        if self.headline not in self.metric_names():
            self._fail("headline", f"{self.headline!r} is not among the metrics {', '.join(self.metric_names())}")

    @property
    def labelled(self) -> bool:
        """Whether the right answers are known, so that there is something to compute."""
        return bool(self.targets[0])

    def metric_names(self) -> tuple[str, ...]:
        """Return the metrics over all queries, in reporting order, without split prefix or stratum suffix."""
        return (
            *(f"recall_at_{k}" for k in self.recall_at),
            *(f"subset_recall_at_{k}" for k in self.subset_recall_at),
            *(f"map_at_{k}" for k in self.average_precision_at),
        )

    def describe(self) -> dict[str, object]:
        """Return everything that decides the figures, ready for a result JSON."""
        return {
            "benchmark": self.benchmark,
            "split": self.split,
            "gallery": len(self.gallery),
            "queries": len(self.query_ids),
            "labelled": self.labelled,
            "targets_per_query_max": max(len(targets) for targets in self.targets),
            "exclude_reference": self.exclude_reference,
            "subsets": self.subsets is not None,
            "recall_at": list(self.recall_at),
            "subset_recall_at": list(self.subset_recall_at),
            "average_precision_at": list(self.average_precision_at),
            "average_precision_denominator": "min(targets, k)",
            "strata": {name: len(members) for name, members in self.strata.items()},
            "headline": self.headline,
            **self.options,
        }

    def _check_query(self, query: int) -> None:
        targets, reference = self.targets[query], self.references[query]
        if bool(targets) != self.labelled:
            self._fail("targets", "is empty for some queries only: give labels for all of them or for none", query)
        self._check_indices("targets", targets, query)
        self._check_indices("references", () if reference == -1 else (reference,), query)
        if self.exclude_reference and reference in targets:
            self._fail("targets", "holds the reference, which `exclude_reference` takes out of the gallery", query)
        if self.subsets is not None:
            self._check_indices("subsets", self.subsets[query], query)
            if reference in targets:
                self._fail("targets", "holds the reference, which never competes in a subset", query)

    def _check_indices(self, name: str, indices: Sequence[int], query: int) -> None:
        for index in indices:
            if not 0 <= index < len(self.gallery):
                self._fail(name, f"expected gallery indices in 0..{len(self.gallery) - 1}, got {index}", query)
        if len(set(indices)) != len(indices):
            self._fail(name, f"names a gallery image twice: {list(indices)}", query)

    def _check_distinct(self, name: str, values: Iterable[str | int]) -> None:
        seen = set()
        for value in values:
            if value in seen:
                self._fail(name, f"holds {value!r} twice")
            seen.add(value)

    def _fail(self, name: str, problem: str, query: int | None = None) -> None:
        where = "" if query is None else f" of query {self.query_ids[query]} (position {query})"
        raise ValueError(f"protocol {self.benchmark} {self.split}: {name}{where} {problem}")
