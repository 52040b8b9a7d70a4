"""A benchmark as data: what is ranked, what counts as found, and which figures are reported."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contextcir.errors import shown
from contextcir.evaluation.metrics import WORD, FirstTargetRecallAt, MeanOf, Metric, RecallAt, find_problem

# Fields with one item a query, where they are given.
PER_QUERY = (
    "targets",
    "references",
    "subsets",
    "graded_targets",
    "negatives",
    "query_groups",
    "further_references",
    "counted_targets",
    "counted_negatives",
)
IN_STRATA = ("recall_at_1", "subset_recall_at_1", "map_at_10")


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
            ``target_soft``), for the soft metrics. A negative relevance counts as none, and an image that is not named
            has none.
        references: gallery index of each query's reference image, -1 where it is not in the gallery.
        exclude_reference: whether the reference is taken out of the gallery before ranking.
        subsets: gallery indices of each query's own small gallery. The reference never competes in it, and the targets
            always do, whether they are listed or not.
        query_views: texts per query. The loader yields query q with its text v under index ``v * queries + q``, and the
            mean of a query's normalised embeddings is what is scored (FashionIQ: both orders of the two captions).
        metrics: what is reported, in this order; see `contextcir.evaluation.metrics`. A metric may need ``subsets`` or
            ``graded_targets``.
        strata: named groups of query indices; every metric is repeated as ``recall_at_1_<group>``.
        averaged_as: protocols of a stage that give the same word here are reported once more, as the plain mean of
            their metrics with this word as prefix: categories ``val_dress``, ``val_shirt``, ``val_toptee`` averaged as
            ``val`` give ``val_recall_at_10``. They must have the same metrics.
        headline: the metric that chooses checkpoints.
        options: other decisions of the benchmark's reader that change the figures (e.g. how the query text is made).
        version: of the protocol; it rises with every change of this project that changes figures (docs/benchmarks.md).
        negatives: gallery indices of wrong answers that must not come among the first images, per query.
        query_groups: a number for each query; those with the same number belong together, as paraphrases of one query.
        further_references: gallery indices of the reference images of each query beyond the first, -1 as in
            `references`. Each is composed with the query's text, and the mean of the normalised embeddings of all its
            references is what is scored: see `record_queries`.
        counted_targets: how many right answers of each query metrics divide by, where the benchmark's own code counts
            other ones than `targets` (an image that it lists twice); at least as many as there are.
        counted_negatives: likewise for `negatives`.

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
    metrics: tuple[Metric, ...] = RecallAt.at(1, 5, 10, 50)
    strata: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    averaged_as: str | None = None
    headline: str = "recall_at_1"
    options: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    version: int = 1
    negatives: tuple[tuple[int, ...], ...] | None = None
    query_groups: tuple[int, ...] | None = None
    further_references: tuple[tuple[int, ...], ...] | None = None
    counted_targets: tuple[int, ...] | None = None
    counted_negatives: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, word in (("split", self.split), ("averaged_as", self.averaged_as)):
            if word is not None and not WORD.fullmatch(word):
                self._fail(name, f"expected a word like 'val' (letters, digits, _), got {word!r}")
        if not self.gallery or not self.query_ids:
            empty = "query_ids" if self.gallery else "gallery"
            self._fail(empty, "is empty: there is nothing to rank")
        self._check_distinct("gallery", self.gallery)
        self._check_distinct("query_ids", self.query_ids)
        if type(self.query_views) is not int or self.query_views < 1:
            self._fail("query_views", f"expected a whole number from 1 on, got {shown(self.query_views)}")
        if type(self.version) is not int or self.version < 1:
            self._fail("version", f"expected a whole number from 1 on, got {shown(self.version)}")
        if self.further_references is not None and self.query_views > 1:
            self._fail("further_references", "are there beside several query_views: only one of both can be")
        for name in PER_QUERY:
            if getattr(self, name) is not None and len(getattr(self, name)) != len(self.query_ids):
                self._fail(name, f"expected one per query ({len(self.query_ids)}), got {len(getattr(self, name))}")
        for query in range(len(self.query_ids)):
            self._check_query(query)
        self._check_metrics()
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

    @property
    def recall_of_first(self) -> bool:
        """Whether recall looks for the first target of a query alone, so that a query needs this one."""
        return any(isinstance(metric, FirstTargetRecallAt) for metric in self.metrics)

    @property
    def only_subsets(self) -> bool:
        """Whether all metrics are of the queries' own subsets, so that ranks in the whole gallery mean nothing."""
        return all("subsets" in metric.needs for metric in self.metrics)

    @property
    def means(self) -> tuple[str, ...]:
        """The names of the metrics that are means of others."""
        return tuple(metric.name for metric in self.metrics if isinstance(metric, MeanOf))

    def target_count(self, query: int) -> int:
        """Return how many right answers of a query metrics divide by."""
        return len(self.targets[query]) if self.counted_targets is None else self.counted_targets[query]

    def negative_count(self, query: int) -> int:
        """Return how many wrong answers of a query metrics divide by."""
        known = 0 if self.negatives is None else len(self.negatives[query])
        return known if self.counted_negatives is None else self.counted_negatives[query]

    def reference_images(self, query: int) -> tuple[int, ...]:
        """Return the gallery indices of all reference images of a query; () where none is in the gallery."""
        further = () if self.further_references is None else self.further_references[query]
        return tuple(image for image in (self.references[query], *further) if image >= 0)

    def record_queries(self) -> tuple[int, ...]:
        """Return the query of every record that the loader yields: all queries, once per view, then per reference.

        The embedding of a query is the mean of the normalised ones of its records.
        """
        queries = range(len(self.query_ids))
        further = () if self.further_references is None else self.further_references
        return (*queries,) * self.query_views + tuple(query for query, images in enumerate(further) for _ in images)

    def metric_names(self) -> tuple[str, ...]:
        """Return the metrics over all queries, in reporting order, without split prefix or stratum suffix."""
        return tuple(metric.name for metric in self.metrics)

    def logged_names(self) -> tuple[str, ...]:
        """Return the figures for loggers and monitors: all metrics, and of strata the headline and `IN_STRATA`.

        There are hundreds of the others, which only result files hold: Lightning returns what is logged from its
        processes through a pipe, and waits for ever where that is too small (ddp_fork and ddp_spawn, Lightning 2.6).
        """
        names = self.metric_names()
        few = [name for name in names if name == self.headline or name in IN_STRATA]
        return (*names, *(f"{name}_{stratum}" for stratum in self.strata for name in few))

    def describe(self) -> dict[str, object]:
        """Return everything that decides the figures, ready for a result JSON."""
        description: dict[str, Any] = {
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
            "recall_at": [],
            "recall_of_first": False,
            "subset_recall_at": [],
            "average_precision_at": [],
            "average_precision_denominator": "min(targets, k)",
            "means": {},
            "strata": {name: len(members) for name, members in self.strata.items()},
            "averaged_as": self.averaged_as,
            "headline": self.headline,
        }
        description["version"] = self.version
        if self.negatives is not None:
            description["negatives_per_query_max"] = max(map(len, self.negatives))
        if self.query_groups is not None:
            description["query_groups"] = len(set(self.query_groups))
        if self.further_references is not None:
            description["references_per_query_max"] = 1 + max(map(len, self.further_references))
        lower = [metric.name for metric in self.metrics if metric.lower_is_better]
        if lower:
            description["lower_is_better"] = lower
        for metric in self.metrics:
            metric.describe(description)
        return description | dict(self.options)

    def _check_query(self, query: int) -> None:
        targets, reference = self.targets[query], self.references[query]
        if bool(targets) != self.labelled:
            self._fail("targets", "is empty for some queries only: give labels for all of them or for none", query)
        self._check_indices("targets", targets, query)
        self._check_indices("references", () if reference == -1 else (reference,), query)
        references: tuple[int, ...] = (reference,)
        if self.further_references is not None:
            references = (reference, *self.further_references[query])
            self._check_indices("further_references", tuple(image for image in references if image != -1), query)
        if self.exclude_reference and not set(references).isdisjoint(targets):
            self._fail("targets", "holds the reference, which `exclude_reference` takes out of the gallery", query)
        if self.negatives is not None:
            self._check_indices("negatives", self.negatives[query], query)
        for name, counted in (("targets", self.target_count(query)), ("negatives", self.negative_count(query))):
            there = len((getattr(self, name) or {query: ()})[query])
            if type(counted) is not int or counted < there:
                self._fail(f"counted_{name}", f"expected a whole number from {there} on, got {shown(counted)}", query)
        if self.subsets is not None:
            self._check_indices("subsets", self.subsets[query], query)
            if not set(references).isdisjoint(targets):
                self._fail("targets", "holds the reference, which never competes in a subset", query)
        if self.graded_targets is not None:
            graded = self.graded_targets[query]
            if graded and not self.labelled:
                self._fail("graded_targets", "names images, although `targets` is empty", query)
            self._check_indices("graded_targets", tuple(graded), query)
            for image, relevance in graded.items():
                if not (math.isfinite(relevance) and relevance <= 1):
                    self._fail("graded_targets", f"expected a relevance up to 1, got {relevance} for {image}", query)

    def _check_metrics(self) -> None:
        problem = find_problem(self.metrics)
        if problem is not None:
            self._fail("metrics", ": ".join(problem))
        for metric in self.metrics:
            for name in metric.needs:
                if getattr(self, name) is None:
                    self._fail("metrics", f"has {metric.name}, but `{name}` is None")

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
