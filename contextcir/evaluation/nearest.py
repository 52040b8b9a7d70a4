"""Ranked lists from embeddings: the nearest images of every query, by a part of the score matrix at a time."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from contextcir.errors import InputError
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.ranking import OUT, pad_rows, pick, score_chunks, top_columns, without
from contextcir.evaluation.submission import SubmissionFormat

Chunks = Callable[[Tensor, Tensor], Iterator[tuple[slice, Tensor]]]


def ranked_lists(
    form: SubmissionFormat, protocol: Protocol, queries: Tensor, gallery: Tensor, chunks: Chunks = score_chunks
) -> list[list[int]]:
    """Return the images nearest to each query by cosine, best first, as many as the file of a server wants.

    Equal scores follow the order of the gallery. ``queries`` (Q, E) and ``gallery`` (G, E): all of the protocol's, in
    its order, normalised or not. ``chunks``: gives their scores, where these are not the cosines.

    Raises:
        InputError: if an embedding is not finite: such a ranking means nothing.
    """
    _check_finite("query", protocol, protocol.query_ids, queries)
    _check_finite("image", protocol, protocol.gallery, gallery)
    pools = [form.pool(protocol, query) for query in range(len(queries))]
    # Columns (Q, M) to choose from; where that is the whole gallery, no matrix of this size is needed.
    among = None if all(len(pool) == len(gallery) for pool in pools) else pad_rows(pools).to(gallery.device)
    references = torch.tensor(protocol.references, device=gallery.device)  # (Q,)
    lists: list[list[int]] = []
    for rows, scores in chunks(queries, gallery):
        if form.drops_reference(protocol):
            known = (references[rows] >= 0).nonzero().flatten()
            scores[known, references[rows][known]] = OUT
        if among is None:
            best = top_columns(scores, min(form.length, len(gallery)))  # (rows, k)
        else:
            columns = among[rows]
            best = top_columns(pick(scores, columns), min(form.length, columns.shape[1]))
            best = columns.gather(1, best)  # (rows, k)
        # Excluded images come last, and are cut off.
        lists += [row[: form.count(protocol, query)] for query, row in enumerate(best.tolist(), start=rows.start)]
    return lists


def ranking(
    protocol: Protocol, queries: Tensor, gallery: Tensor, length: int
) -> Iterator[tuple[int, list[int], list[float]]]:
    """Yield of each query its position, the images nearest to it by cosine, best first, and their cosines.

    A reference that the protocol excludes is left out. Arguments as of `ranked_lists`; ``length``: images per query.

    Raises:
        InputError: if an embedding is not finite.
    """
    _check_finite("query", protocol, protocol.query_ids, queries)
    _check_finite("image", protocol, protocol.gallery, gallery)
    references = pad_rows([protocol.reference_images(query) for query in range(len(queries))]).to(gallery.device)
    for rows, scores in score_chunks(queries, gallery):
        if protocol.exclude_reference:
            scores = without(scores, references[rows])  # (rows, F)
        best = top_columns(scores, min(length, len(gallery)))  # (rows, k)
        values = scores.gather(1, best)
        for query, (images, cosines) in enumerate(zip(best.tolist(), values.tolist(), strict=True), start=rows.start):
            count = sum(cosine != OUT for cosine in cosines)  # excluded images come last
            yield query, images[:count], cosines[:count]


def _check_finite(what: str, protocol: Protocol, names: tuple[int, ...] | tuple[str, ...], embeddings: Tensor) -> None:
    # The sum of a row is finite if its numbers are, and takes no matrix of flags.
    broken = (~embeddings.sum(1, dtype=torch.float32).isfinite()).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"{protocol.benchmark} {protocol.split}: the embedding of {what} {names[broken[0]]} is not finite, as are "
            f"{len(broken)} of {len(names)}: check the precision and the weights",
            setting="ckpt_path",
        )
