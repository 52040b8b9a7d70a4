"""The figures of every query by the rules of a `Protocol`: from scores, wherever these come from."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.ranking import (
    average_precision_at,
    graded_ranks,
    pad_rows,
    pad_values,
    pick,
    recall_at,
    soft_recall_at,
    subset_ranks,
    target_ranks,
    without,
)


class Answers(NamedTuple):
    """What is known of N queries; images are columns of their score matrix, -1 where there is none or it is not there.

    ``targets`` (N, K), and their number ``relevant`` (N,), there or not. ``references`` (N, 1). ``rivals`` (N, M): who
    competes with the targets in the query's own subset. ``graded`` (N, R) images of ``relevance`` (N, R).
    """

    targets: Tensor
    relevant: Tensor
    references: Tensor
    rivals: Tensor
    graded: Tensor
    relevance: Tensor


def known_answers(protocol: Protocol, query_index: Tensor, gallery_index: Tensor) -> Answers:
    """Return what the protocol knows of the queries at ``query_index`` (N,).

    ``gallery_index`` (G,): the gallery images that there are, in the order of the columns of the score matrix.
    """
    device, chosen = gallery_index.device, query_index.tolist()
    # Column of each gallery image among those there are; the extra last entry maps "none" (-1) to itself.
    column = torch.full((len(protocol.gallery) + 1,), -1, device=device)
    column[gallery_index] = torch.arange(len(gallery_index), device=device)

    def columns(rows: list[tuple[int, ...]]) -> Tensor:
        return column[pad_rows(rows).to(device)]

    targets = columns([protocol.targets[query] for query in chosen])  # (N, K)
    references = columns([(protocol.references[query],) for query in chosen])  # (N, 1)
    subsets = columns([protocol.subsets[query] if protocol.subsets else () for query in chosen])  # (N, M)
    listed = (subsets[:, :, None] == targets[:, None, :]).any(2)  # (N, M)
    grades = [protocol.graded_targets[query] if protocol.graded_targets else {} for query in chosen]
    return Answers(
        targets=targets,
        relevant=torch.tensor([len(protocol.targets[query]) for query in chosen], device=device),
        references=references,
        rivals=subsets.masked_fill(listed | (subsets == references), -1),
        graded=columns([tuple(grade) or (-1,) for grade in grades]),
        relevance=pad_values([tuple(grade.values()) or (0.0,) for grade in grades]).to(device),
    )


def score_queries(protocol: Protocol, answers: Answers, chunks: Iterable[tuple[slice, Tensor]]) -> dict[str, Tensor]:
    """Return every metric of the protocol as one value in 0..1 per query (N,).

    ``chunks``: slices of the queries, in order, with their scores (rows, G), as `ranking.score_chunks` yields them;
    images that are out of the race have the score -inf.
    """
    parts: list[dict[str, Tensor]] = []
    for rows, scores in chunks:
        of_rows = Answers(*(known[rows] for known in answers))
        parts.append(_in_subset(protocol, of_rows, scores) | _in_gallery(protocol, of_rows, scores))
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for name, members in protocol.means.items():
        values[name] = torch.stack([values[member] for member in members]).mean(0)
    return {name: values[name] for name in protocol.metric_names()}


def _in_subset(protocol: Protocol, answers: Answers, scores: Tensor) -> dict[str, Tensor]:
    cutoffs = protocol.subset_recall_at
    if not cutoffs:
        return {}
    ranks = subset_ranks(scores, answers.targets, answers.rivals)  # (N, K)
    values = {f"subset_recall_at_{k}": recall_at(ranks, k) for k in cutoffs}
    if protocol.graded_targets is not None:
        candidates = torch.cat([answers.targets, answers.rivals], 1)  # (N, K + M)
        same = (candidates[:, :, None] == answers.graded[:, None, :]) & (candidates >= 0)[:, :, None]
        relevance = (same * answers.relevance[:, None, :]).sum(2)  # (N, K + M)
        own = pick(scores, candidates)
        ranks = graded_ranks(own, own, relevance)
        values |= {f"soft_subset_recall_at_{k}": soft_recall_at(ranks, relevance, k) for k in cutoffs}
    return values


def _in_gallery(protocol: Protocol, answers: Answers, scores: Tensor) -> dict[str, Tensor]:
    if not (protocol.recall_at or protocol.average_precision_at):
        return {}
    if protocol.exclude_reference:
        scores = without(scores, answers.references)
    ranks = target_ranks(scores, answers.targets)  # (N, K)
    # Where the first target counts alone, the others are its rivals, also in a tie.
    recalled = target_ranks(scores, answers.targets[:, :1]) if protocol.recall_of_first else ranks
    values = {f"recall_at_{k}": recall_at(recalled, k) for k in protocol.recall_at}
    values |= {f"map_at_{k}": average_precision_at(ranks, k, answers.relevant) for k in protocol.average_precision_at}
    if protocol.graded_targets is not None:
        soft = graded_ranks(scores, pick(scores, answers.graded), answers.relevance)  # (N, R)
        values |= {f"soft_recall_at_{k}": soft_recall_at(soft, answers.relevance, k) for k in protocol.recall_at}
    return values
