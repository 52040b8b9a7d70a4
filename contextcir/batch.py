"""The batches that travel between the data, the model and the metrics; their shapes are defined here.

Letters: B queries in the batch, P noun phrases and C clauses in the batch, V vision tokens (CLS + patches), T text
tokens, L fusion layers, H heads, D width, E embedding, S image side in pixels.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from contextcir.errors import InputError, shown


class Phrases(NamedTuple):
    """Noun phrases of all captions of a batch, flattened.

    ``owner`` (P,) int64: the row of the batch whose caption holds the phrase.
    ``spans`` (P, 2) int64: characters ``[start, end)`` of the caption *as the tokenizer sees it* (`Tokenizer.clean`).
    ``boxes`` (P, 4) float32: where the named object is in the preprocessed reference image, as ``x0, y0, x1, y1`` in
    fractions of its sides; NaN where the object is not in the image or its place is not known.
    """

    owner: Tensor
    spans: Tensor
    boxes: Tensor


class Clauses(NamedTuple):
    """Clauses of all captions of a batch, flattened: the parts of a caption that ask for one change each.

    ``owner`` (C,) int64: the row of the batch whose caption holds the clause. ``spans`` (C, 2) int64: its characters
    ``[start, end)``, as those of phrases. The clauses of a caption do not overlap, and are in the order of the text. A
    caption without any is one clause as a whole.
    """

    owner: Tensor
    spans: Tensor


class DistinctImages(NamedTuple):
    """The images of a batch, each of them once, in one tensor.

    ``pixels`` (U, 3, S, S) uint8, which the image tower normalises. ``image_id`` (U,) int64: which images they are, in
    ascending order; for triplets these are the ids of a `TripletBatch`.
    """

    pixels: Tensor
    image_id: Tensor


class QueryBatch(NamedTuple):
    """Queries: reference images and modification texts.

    ``index`` (B,) int64: position of the query in its `Protocol`. ``reference`` (B, 3, S, S) preprocessed images, as
    all images of batches either float, or uint8 for pixels that the image tower normalises.
    ``captions``: B strings, as written by the user. ``clauses``: None where every caption is one clause.
    ``images``: the distinct images of the batch, for triplets with those of targets and negatives. With them, whatever
    is (N, 3, S, S) elsewhere in the batch is (N,) int64: which of the U each image is.
    """

    index: Tensor  # type: ignore[assignment]  # a field instead of the method of all tuples
    reference: Tensor
    captions: list[str]
    phrases: Phrases
    clauses: Clauses | None = None
    images: DistinctImages | None = None


class HardNegatives(NamedTuple):
    """The hard negatives of all triplets of a batch: ``image`` (M, 3, S, S), and ``image_id`` (M,) int64.

    M may be 0. The ids are those of a `TripletBatch`; an image may be there more than once.
    """

    image: Tensor
    image_id: Tensor


class TripletBatch(NamedTuple):
    """Training triplets: queries and their target images.

    ``target`` (B, 3, S, S). ``reference_id`` and ``target_id`` (B,) int64 name images: two rows with the same id hold
    the same image, whether as reference or as target, so that it is never counted as its own negative. ``negatives``:
    None where the training set has no hard negatives, on all ranks.
    """

    query: QueryBatch
    target: Tensor
    reference_id: Tensor
    target_id: Tensor
    negatives: HardNegatives | None = None


class StoredEmbeddings(NamedTuple):
    """Embeddings of gallery images from an earlier evaluation.

    ``embedding`` (B, E), in the precision of the store; rows that the store lacks have arbitrary values. ``missing``
    (M,) int64: those rows, in ascending order.
    """

    embedding: Tensor
    missing: Tensor


class GalleryBatch(NamedTuple):
    """Gallery images. ``index`` (B,) int64: position in the `Protocol`'s gallery. ``image`` (B, 3, S, S).

    With a store of embeddings, ``stored`` is set, and ``image`` (M, 3, S, S) holds only the images that it lacks.
    """

    index: Tensor  # type: ignore[assignment]  # a field instead of the method of all tuples
    image: Tensor
    stored: StoredEmbeddings | None = None


def phrases_of(spans: Sequence[Iterable[tuple[int, int]]], device: torch.device | str = "cpu") -> Phrases:
    """Return the noun phrases of B captions as a batch, from spans as a parser or a bank gives them.

    Boxes are unknown. ``device``: that of the images. To compose queries with phrases that are parsed on the fly::

        phrases = phrases_of([parse.phrases for parse in parser.parse(captions)], images.device)
        queries = model.embed_query(images, captions, phrases)
    """
    owner, places = _flattened(spans, device)
    boxes = torch.full((len(owner), 4), float("nan"), device=device)  # (P, 4)
    return Phrases(owner, places, boxes)


def clauses_of(spans: Sequence[Iterable[tuple[int, int]]], device: torch.device | str = "cpu") -> Clauses:
    """Return the clauses of B captions as a batch, from spans as a parser or a bank gives them; see `phrases_of`."""
    return Clauses(*_flattened(spans, device))


def _flattened(spans: Sequence[Iterable[tuple[int, int]]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    rows = [(row, start, end) for row, caption in enumerate(spans) for start, end in caption]
    places = torch.tensor(rows, dtype=torch.int64, device=device).reshape(-1, 3)  # (N, 3)
    return places[:, 0], places[:, 1:]


def check_pairs(images: int, captions: Sequence[str], phrases: Phrases | None = None) -> None:
    """Raise InputError unless there is one caption for each of so many images: else one would be used for all.

    ``phrases``: those of the captions.
    """
    if isinstance(captions, str):
        raise InputError(f"expected a list of captions, got the text {shown(captions)}")
    if len(captions) != images:
        raise InputError(f"expected one caption for each image: {images} of images, {len(captions)} of captions")
    if phrases is not None and not len(phrases.owner) == len(phrases.spans) == len(phrases.boxes):
        counts = ", ".join(str(len(part)) for part in phrases)
        raise InputError(f"expected owner, span and box for each phrase, got {counts}")


def first_of_each(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct ids, which of them each id is, and where each of them occurs first.

    ``ids`` (N,), or (N, K) for ids of K numbers -> ``unique`` (U,) or (U, K), sorted; ``inverse`` (N,), so that
    ``unique[inverse]`` is ``ids``; ``first`` (U,), so that ``ids[first]`` is ``unique``.
    """
    if ids.ndim == 1:
        unique, inverse = ids.unique(return_inverse=True)
    else:
        unique, inverse = ids.unique(dim=0, return_inverse=True)
    position = torch.arange(len(ids), device=ids.device)
    first = torch.full((len(unique),), len(ids), device=ids.device).scatter_reduce(0, inverse, position, "amin")
    return unique, inverse, first
