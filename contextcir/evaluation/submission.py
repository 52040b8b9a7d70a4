"""Files for the evaluation servers of CIRR and CIRCO: their formats, how they are written, and their scores.

A ranked list holds gallery indices of a `Protocol`, best first; ``lists`` has one per query, in the protocol's order.
`contextcir.evaluation.nearest` ranks embeddings; `contextcir.evaluation.submission_check` reads files, and finds what a
server would reject. This module needs no torch, so that files can be checked at once.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np

from contextcir.errors import InputError
from contextcir.evaluation.metrics import (
    AveragePrecisionAt,
    FirstTargetRecallAt,
    Graded,
    Metric,
    Ranks,
    RecallAt,
    SoftRecallAt,
    SoftSubsetRecallAt,
    SubsetRecallAt,
)
from contextcir.evaluation.protocol import Protocol

RankedList = Sequence[int]


class SubmissionFormat:
    """What a server wants in a file: for each query the names of its best images.

    ``name`` goes into the file's name; ``header`` holds the fields beside the queries; ``kind`` is the type of the
    entries, and ``length`` their number, less in a smaller gallery; ``rejects_reference``: whether a list must not
    hold the query's reference (a protocol that excludes the reference keeps it out of the lists in any case);
    ``metrics``: what the server reports, those that need graded targets only where the protocol has them.
    """

    name: ClassVar[str]
    header: ClassVar[Mapping[str, str]]
    kind: ClassVar[type[str] | type[int]]
    length: ClassVar[int] = 50
    rejects_reference: ClassVar[bool]
    metrics: ClassVar[tuple[Metric, ...]]

    def pool(self, protocol: Protocol, query: int) -> Sequence[int]:
        """Return the gallery indices to list from, in rising order; the query's reference may be among them."""
        return range(len(protocol.gallery))

    def score(self, protocol: Protocol, lists: Sequence[RankedList]) -> dict[str, float]:
        """Return the figures, in percent, that follow from complete lists; the targets must be known."""
        ranks = ListedRanks(protocol, lists)
        known = protocol.graded_targets is not None
        metrics = [metric for metric in self.metrics if known or "graded_targets" not in metric.needs]
        return {metric.name: _percent(metric.values(ranks)) for metric in metrics}

    def drops_reference(self, protocol: Protocol) -> bool:
        """Return whether a query's reference is kept out of its list."""
        return self.rejects_reference or protocol.exclude_reference

    def count(self, protocol: Protocol, query: int) -> int:
        """Return how many images a query's list has to hold."""
        pool = self.pool(protocol, query)
        dropped = self.drops_reference(protocol) and protocol.references[query] in pool
        return min(self.length, len(pool) - dropped)

    def entries(self, protocol: Protocol) -> list[str | int]:
        """Return the gallery's names as they stand in a file.

        Raises:
            InputError: if the file needs integers and a name is none.
        """
        try:
            return [self.kind(name) for name in protocol.gallery]
        except ValueError:
            wrong = next(name for name in protocol.gallery if not name.isdecimal())
            raise InputError(
                f"{protocol.benchmark} {protocol.split}: image names must be integers, got {wrong!r}"
            ) from None


class CIRRRecall(SubmissionFormat):
    """CIRR's file for R@k: 50 images of the split, never the reference."""

    name = "recall"
    header: ClassVar[Mapping[str, str]] = {"version": "rc2", "metric": "recall"}
    kind = str
    rejects_reference = True
    metrics = (*RecallAt.at(1, 5, 10, 50), *SoftRecallAt.at(1, 5, 10, 50))


class CIRRSubset(CIRRRecall):
    """CIRR's file for Rsub@k: the best 3 of the five other members of the reference's image set."""

    name = "recall_subset"
    header: ClassVar[Mapping[str, str]] = {"version": "rc2", "metric": "recall_subset"}
    length = 3
    metrics = (*SubsetRecallAt.at(1, 2, 3), *SoftSubsetRecallAt.at(1, 2, 3))

    def pool(self, protocol: Protocol, query: int) -> Sequence[int]:
        if protocol.subsets is None:
            raise InputError(f"{protocol.benchmark} {protocol.split} has no image sets to list from")
        return sorted(protocol.subsets[query])


class CIRCORanking(SubmissionFormat):
    """CIRCO's file: 50 COCO ids; the reference competes unless the protocol excludes it.

    Average precision is over all right answers, with denominator min(answers, k), and at 10 by semantic aspect; recall
    is on the one image that the query was written for, which a protocol's targets begin with (Baldrati et al., ICCV
    2023).
    """

    name = ""
    header: ClassVar[Mapping[str, str]] = {}
    kind = int
    rejects_reference = False
    metrics = (*AveragePrecisionAt.at(5, 10, 25, 50), *FirstTargetRecallAt.at(5, 10, 25, 50))

    def score(self, protocol: Protocol, lists: Sequence[RankedList]) -> dict[str, float]:
        precision = AveragePrecisionAt(10)
        values = precision.values(ListedRanks(protocol, lists))
        by_group = {f"{precision.name}_{name}": _percent(values[list(rows)]) for name, rows in protocol.strata.items()}
        return super().score(protocol, lists) | by_group


FORMATS: Mapping[str, tuple[SubmissionFormat, ...]] = {
    "cirr": (CIRRRecall(), CIRRSubset()),
    "circo": (CIRCORanking(),),
}


def formats_of(protocol: Protocol) -> tuple[SubmissionFormat, ...]:
    """Return the files that a protocol's server asks for; () where there is no such server."""
    if protocol.benchmark == "scenes":  # imitates both
        return FORMATS["cirr" if protocol.subsets else "circo"]
    return FORMATS.get(protocol.benchmark, ())


def make(form: SubmissionFormat, protocol: Protocol, lists: Sequence[RankedList]) -> str:
    """Return the text of a file, without blanks: indented, CIRR's would exceed the 5 MB that its server takes."""
    entries = form.entries(protocol)
    content: dict[str, object] = dict(form.header)
    for query, ranked in zip(protocol.query_ids, lists, strict=True):
        content[str(query)] = [entries[index] for index in ranked]
    return json.dumps(content, separators=(",", ":"))


def score(protocol: Protocol, files: Mapping[SubmissionFormat, Sequence[RankedList]]) -> dict[str, float]:
    """Return all figures, in percent, of a benchmark's files; with both of CIRR's also the mean of R@5 and Rsub@1.

    The soft figures of CIRR take the protocol's graded targets.

    Raises:
        InputError: if the right answers are hidden.
    """
    if not protocol.labelled:
        raise InputError(
            f"the labels of {protocol.benchmark} {protocol.split} are hidden, so there is nothing to score: "
            "send the files to the server, or choose a split with labels",
            setting="split",
        )
    figures: dict[str, float] = {}
    for form, lists in files.items():
        figures |= form.score(protocol, lists)
    if {"recall_at_5", "subset_recall_at_1"} <= figures.keys():
        figures["mean_recall"] = (figures["recall_at_5"] + figures["subset_recall_at_1"]) / 2
    return figures


class ListedRanks(Ranks):
    """Ranks in the lists of one file, be they lists from the gallery or from the queries' subsets.

    Args:
        protocol: whose targets are looked for.
        lists: a ranked list for every query.
    """

    def __init__(self, protocol: Protocol, lists: Sequence[RankedList]) -> None:
        self._protocol = protocol
        self._lists = lists

    @property
    def target_counts(self) -> np.ndarray:
        return np.array([self._protocol.target_count(query) for query in range(len(self._protocol.targets))])

    @cached_property
    def targets(self) -> np.ndarray:
        return np.sort(places(self._lists, self._protocol.targets), axis=1)

    @cached_property
    def first_target(self) -> np.ndarray:
        return places(self._lists, [targets[:1] for targets in self._protocol.targets])

    @property
    def subset_targets(self) -> np.ndarray:
        return self.targets

    @cached_property
    def graded(self) -> Graded:
        graded = [tuple(grades.items()) or ((-1, 0.0),) for grades in self._protocol.graded_targets or ()]
        ranks = places(self._lists, [[image for image, _ in row] for row in graded])
        relevance = np.zeros_like(ranks)  # (Q, R)
        for query, row in enumerate(graded):
            relevance[query, : len(row)] = [max(value, 0.0) for _, value in row]
        return Graded(ranks, relevance)

    @property
    def subset_graded(self) -> Graded:
        return self.graded

    def highest(self, values: np.ndarray) -> np.ndarray:
        return values.max(1)

    def falling(self, values: np.ndarray) -> np.ndarray:
        return -np.sort(-values, axis=1)

    def log2(self, values: np.ndarray) -> np.ndarray:
        return np.log2(values)


def places(lists: Sequence[RankedList], wanted: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the rank (Q, K), from 1, of every wanted image in its query's list; infinity where it is not listed."""
    ranks = np.full((len(wanted), max(map(len, wanted))), np.inf)
    for query, (ranked, images) in enumerate(zip(lists, wanted, strict=True)):
        place = {image: number for number, image in enumerate(ranked, start=1)}
        ranks[query, : len(images)] = [place.get(image, np.inf) for image in images]
    return ranks


def _percent(values: np.ndarray) -> float:
    return 100 * float(values.mean())
