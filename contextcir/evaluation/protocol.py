"""A benchmark as data: what is ranked, what counts as found, and which figures are reported."""

import math
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
        graded_targets: gallery index -> relevance of images that were judged, per query, beside the `targets` (CIRR's
            ``target_soft``). Gives ``soft_recall_at_k`` and ``soft_subset_recall_at_k``: the highest relevance among
            the first k. A negative relevance counts as none, and an image that is not named has none.
        references: gallery index of each query's reference image, -1 where it is not in the gallery.
        exclude_reference: whether the reference is taken out of the gallery before ranking.
        subsets: gallery indices of each query's own small gallery. The reference never competes in it, and the targets
            always do, whether they are listed or not.
        query_views: texts per query. The loader yields query q with its text v under index ``v * queries + q``, and the
            mean of a query's normalised embeddings is what is scored (FashionIQ: both orders of the two captions).
        recall_at: cut-offs k of ``recall_at_k`` on the gallery; none where answers are looked for in subsets only.
        recall_of_first: whether only the first of the targets counts for ``recall_at_k`` (CIRCO's official recall);
            the other metrics take all of them either way.
        subset_recall_at: cut-offs k of ``subset_recall_at_k`` on the query's own subset.
        average_precision_at: cut-offs k of ``map_at_k`` on the gallery.
        means: names of metrics that are the mean of others, e.g. ``mean_recall`` of recall_at_10 and recall_at_50.
        strata: named groups of query indices; every metric is repeated as ``recall_at_1_<group>``.
        averaged_as: protocols of a stage that give the same word here are reported once more, as the plain mean of
            their metrics with this word as prefix: categories ``val_dress``, ``val_shirt``, ``val_toptee`` averaged as
            ``val`` give ``val_recall_at_10``. They must have the same metrics.
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
    graded_targets: tuple[Mapping[int, float], ...] | None = None
    subsets: tuple[tuple[int, ...], ...] | None = None
    query_views: int = 1
    recall_at: tuple[int, ...] = (1, 5, 10, 50)
    recall_of_first: bool = False
    subset_recall_at: tuple[int, ...] = ()
    average_precision_at: tuple[int, ...] = ()
    means: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    strata: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    averaged_as: str | None = None
    headline: str = "recall_at_1"
    options: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, word in (("split", self.split), ("averaged_as", self.averaged_as)):
            if word is not None and not WORD.fullmatch(word):
                self._fail(name, f"expected a word like 'val' (letters, digits, _), got {word!r}")
        if not self.gallery or not self.query_ids:
            empty = "query_ids" if self.gallery else "gallery"
            self._fail(empty, "is empty: there is nothing to rank")
        self._check_distinct("gallery", self.gallery)
        self._check_distinct("query_ids", self.query_ids)
        if self.query_views < 1:
            self._fail("query_views", f"expected at least 1, got {self.query_views}")
        for name in ("targets", "references", "subsets", "graded_targets"):
            if getattr(self, name) is not None and len(getattr(self, name)) != len(self.query_ids):
                self._fail(name, f"expected one per query ({len(self.query_ids)}), got {len(getattr(self, name))}")
        for name in ("recall_at", "subset_recall_at", "average_precision_at"):
            cutoffs = getattr(self, name)
            if list(cutoffs) != sorted(set(cutoffs)) or any(k < 1 for k in cutoffs):
                self._fail(name, f"expected rising positive cut-offs, got {list(cutoffs)}")
        if self.subset_recall_at and self.subsets is None:
            self._fail("subset_recall_at", "asks for recall in subsets, but `subsets` is None")
        for query in range(len(self.query_ids)):
            self._check_query(query)
        self._check_means()
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
        return (*self._measured(), *self.means)

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
            "graded_targets": self.graded_targets is not None,
            "subsets": self.subsets is not None,
            "query_views": self.query_views,
            "ties": "against the targets",
            "recall_at": list(self.recall_at),
            "recall_of_first": self.recall_of_first,
            "subset_recall_at": list(self.subset_recall_at),
            "average_precision_at": list(self.average_precision_at),
            "average_precision_denominator": "min(targets, k)",
            "means": {name: list(parts) for name, parts in self.means.items()},
            "strata": {name: len(members) for name, members in self.strata.items()},
            "averaged_as": self.averaged_as,
            "headline": self.headline,
            **self.options,
        }

    def _measured(self) -> tuple[str, ...]:
        graded = self.graded_targets is not None
        return (
            *(f"recall_at_{k}" for k in self.recall_at),
            *(f"subset_recall_at_{k}" for k in self.subset_recall_at),
            *(f"map_at_{k}" for k in self.average_precision_at),
            *(f"soft_recall_at_{k}" for k in self.recall_at if graded),
            *(f"soft_subset_recall_at_{k}" for k in self.subset_recall_at if graded),
        )

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
        if self.graded_targets is not None:
            graded = self.graded_targets[query]
            if graded and not self.labelled:
                self._fail("graded_targets", "names images, although `targets` is empty", query)
            self._check_indices("graded_targets", tuple(graded), query)
            for image, relevance in graded.items():
                if not (math.isfinite(relevance) and relevance <= 1):
                    self._fail("graded_targets", f"expected a relevance up to 1, got {relevance} for {image}", query)

    def _check_means(self) -> None:
        known = self._measured()
        for name, parts in self.means.items():
            if not WORD.fullmatch(name) or name in known:
                self._fail("means", f"expected a word that is no metric's name yet, got {name!r}")
            if not parts or not set(parts) <= set(known):
                self._fail("means", f"{name!r} expected some of {', '.join(known)}, got {list(parts)}")

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


def averaging_groups(protocols: Sequence[Protocol]) -> dict[str, tuple[int, ...]]:
    """Return the positions of the protocols of a stage that are averaged, by the word that they are ``averaged_as``.

    Raises:
        ValueError: if two protocols or means would be reported under one name, or protocols that are averaged do not
            have the same metrics.
    """
    splits = [protocol.split for protocol in protocols]
    groups: dict[str, list[int]] = {}
    for position, protocol in enumerate(protocols):
        if protocol.split in splits[:position]:
            protocol._fail("split", "is that of another protocol of the same stage: name every split once")
        if protocol.averaged_as is not None:
            groups.setdefault(protocol.averaged_as, []).append(position)
    for word, members in groups.items():
        first = protocols[members[0]]
        if word in splits:
            first._fail("averaged_as", f"is {word!r}, which is a split of the same stage")
        for member in members:
            if protocols[member].metric_names() != first.metric_names():
                protocols[member]._fail("averaged_as", f"is {word!r}, but {first.split} has other metrics")
    return {word: tuple(members) for word, members in groups.items()}
