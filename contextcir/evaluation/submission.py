"""Files for the evaluation servers of CIRR and CIRCO: what stands in them, how they are made, and what they score.

A ranked list holds gallery indices of a `Protocol`, best first; ``lists`` has one per query, in the protocol's order.
`contextcir.evaluation.submission_check` reads files, and finds what a server would reject.


Ranked lists from embeddings: the nearest images of every query, by a part of the score matrix at a time.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.ranking import (
    OUT,
    average_precision_at,
    pad_rows,
    pad_values,
    pick,
    recall_at,
    score_chunks,
    soft_recall_at,
)

RankedList = Sequence[int]


class SubmissionFormat(ABC):
    """What a server wants in a file: for each query the names of its best images.

    ``name`` goes into the file's name; ``header`` holds the fields beside the queries; ``kind`` is the type of the
    entries, and ``length`` their number where there are as many images; ``rejects_reference``: whether a list must not
    hold the query's reference. (A protocol that excludes the reference keeps it out of the lists in any case.)
    """

    name: ClassVar[str]
    header: ClassVar[Mapping[str, str]]
    kind: ClassVar[type[str] | type[int]]
    length: ClassVar[int] = 50
    rejects_reference: ClassVar[bool]

    def pool(self, protocol: Protocol, query: int) -> Sequence[int]:
        """Return the gallery indices to list from, in rising order; the query's reference may be among them."""
        return range(len(protocol.gallery))

    @abstractmethod
    def score(self, protocol: Protocol, lists: Sequence[RankedList]) -> dict[str, float]:
        """Return the figures, in percent, that follow from complete lists; the targets must be known."""

    def drops_reference(self, protocol: Protocol) -> bool:
        """Return whether a query's reference is kept out of its list."""
        return self.rejects_reference or protocol.exclude_reference

    def count(self, protocol: Protocol, query: int) -> int:
        """Return how many images a query's list has to hold."""
        pool = self.pool(protocol, query)
        dropped = self.drops_reference(protocol) and protocol.references[query] in pool
        return min(self.length, len(pool) - dropped)

    def entries(self, protocol: Protocol) -> list[str] | list[int]:
        """Return the gallery's names as they stand in a file.

        Raises:
            ValueError: if the file needs integers and a name is none.
        """
        try:
            return [self.kind(name) for name in protocol.gallery]
        except ValueError:
            wrong = next(name for name in protocol.gallery if not name.isdecimal())
            raise ValueError(
                f"{protocol.benchmark} {protocol.split}: image names must be integers, got {wrong!r}"
            ) from None


class CIRRRecall(SubmissionFormat):
    """CIRR's file for R@k: 50 images of the split, never the reference."""

    name = "recall"
    header: ClassVar[Mapping[str, str]] = {"version": "rc2", "metric": "recall"}
    kind = str
    rejects_reference = True

    def score(self, protocol: Protocol, lists: Sequence[RankedList]) -> dict[str, float]:
        return _hard_and_soft(protocol, lists, "recall_at", (1, 5, 10, 50))


class CIRRSubset(CIRRRecall):
    """CIRR's file for Rsub@k: the best 3 of the five other members of the reference's image set."""

    name = "recall_subset"
    header: ClassVar[Mapping[str, str]] = {"version": "rc2", "metric": "recall_subset"}
    length = 3

    def pool(self, protocol: Protocol, query: int) -> Sequence[int]:
        return sorted(protocol.subsets[query])

    def score(self, protocol: Protocol, lists: Sequence[RankedList]) -> dict[str, float]:
        return _hard_and_soft(protocol, lists, "subset_recall_at", (1, 2, 3))


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

    def score(self, protocol: Protocol, lists: Sequence[RankedList]) -> dict[str, float]:
        ranks, relevant = places(lists, protocol.targets), torch.tensor([len(row) for row in protocol.targets])
        figures = {f"map_at_{k}": average_precision_at(ranks, k, relevant) for k in (5, 10, 25, 50)}
        figures |= {f"recall_at_{k}": recall_at(ranks[:, :1], k) for k in (5, 10, 25, 50)}
        by_group = {f"map_at_10_{name}": figures["map_at_10"][list(rows)] for name, rows in protocol.strata.items()}
        return _percent(figures | by_group)


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
        ValueError: if the right answers are hidden.
    """
    if not protocol.labelled:
        raise ValueError(
            f"the labels of {protocol.benchmark} {protocol.split} are hidden, so there is nothing to score: "
            "send the files to the server, or set --split to a split with labels"
        )
    figures: dict[str, float] = {}
    for form, lists in files.items():
        figures |= form.score(protocol, lists)
    if {"recall_at_5", "subset_recall_at_1"} <= figures.keys():
        figures["mean_recall"] = (figures["recall_at_5"] + figures["subset_recall_at_1"]) / 2
    return figures


def places(lists: Sequence[RankedList], wanted: Sequence[Sequence[int]]) -> Tensor:
    """Return the rank (Q, K), from 1, of every wanted image in its query's list; infinity where it is not listed."""
    ranks = torch.full(pad_rows(wanted).shape, torch.inf)  # (Q, K)
    for query, (ranked, images) in enumerate(zip(lists, wanted, strict=True)):
        place = {image: number for number, image in enumerate(ranked, start=1)}
        ranks[query, : len(images)] = torch.tensor([place.get(image, torch.inf) for image in images])
    return ranks


def _hard_and_soft(
    protocol: Protocol, lists: Sequence[RankedList], name: str, cutoffs: Sequence[int]
) -> dict[str, float]:
    ranks, graded = places(lists, protocol.targets), protocol.graded_targets
    figures = {f"{name}_{k}": recall_at(ranks, k) for k in cutoffs}
    if graded is not None:
        ranks = places(lists, [tuple(grades) for grades in graded])
        relevance = pad_values([tuple(grades.values()) for grades in graded])  # (Q, K)
        figures |= {f"soft_{name}_{k}": soft_recall_at(ranks, relevance, k) for k in cutoffs}
    return _percent(figures)


def _percent(figures: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: 100 * values.double().mean().item() for name, values in figures.items()}


def ranked_lists(form: SubmissionFormat, protocol: Protocol, queries: Tensor, gallery: Tensor) -> list[list[int]]:
    """Return the images nearest to each query by cosine, best first, as many as the file of a server wants.

    Equal scores follow the order of the gallery. ``queries`` (Q, E) and ``gallery`` (G, E): all of the protocol's, in
    its order, normalised or not.

    Raises:
        ValueError: if an embedding is not finite: such a ranking means nothing.
    """
    _check_finite("query", protocol, protocol.query_ids, queries)
    _check_finite("image", protocol, protocol.gallery, gallery)
    pools = [form.pool(protocol, query) for query in range(len(queries))]
    # Columns (Q, M) to choose from; where that is the whole gallery, no matrix of this size is needed.
    among = None if all(len(pool) == len(gallery) for pool in pools) else pad_rows(pools).to(gallery.device)
    references = torch.tensor(protocol.references, device=gallery.device)  # (Q,)
    lists: list[list[int]] = []
    for rows, scores in score_chunks(queries, gallery):
        if form.drops_reference(protocol):
            known = (references[rows] >= 0).nonzero().flatten()
            scores[known, references[rows][known]] = OUT
        if among is None:
            best = top_columns(scores, min(form.length, len(gallery)))  # (rows, k)
        else:
            columns = among[rows]
            best = top_columns(pick(scores, columns), min(form.length, columns.shape[1]))
            best = columns.gather(1, best)  # (rows, k)
        # What is out of the race comes last, and is cut off.
        lists += [row[: form.count(protocol, query)] for query, row in enumerate(best.tolist(), start=rows.start)]
    return lists


def top_columns(scores: Tensor, k: int) -> Tensor:
    """Return the columns (Q, k) of the ``k`` highest of ``scores`` (Q, N), best first; ties by column. No NaN."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # `topk` takes any of the scores that tie at the last place: where one of them is left out, take the first ones.
    crowded = (values[:, k - 1 : k] == values[:, k:]).any(1)
    last, columns = values[:, k - 1 : k], columns[:, :k]
    for row in crowded.nonzero().flatten().tolist():
        above = columns[row][values[row, :k] > last[row]]
        tied = (scores[row] == last[row]).nonzero().flatten()
        columns[row] = torch.cat([above, tied[: k - len(above)]])
    columns = columns.sort(dim=1).values
    order = scores.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)


def _check_finite(what: str, protocol: Protocol, names: tuple[int, ...] | tuple[str, ...], embeddings: Tensor) -> None:
    # The sum of a row is finite if its numbers are, and takes no matrix of flags.
    broken = (~embeddings.sum(1, dtype=torch.float32).isfinite()).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"{protocol.benchmark} {protocol.split}: the embedding of {what} {names[broken[0]]} is not finite, as are "
            f"{len(broken)} of {len(names)}: check the weights (--ckpt_path) and --trainer.precision"
        )
