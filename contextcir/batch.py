"""What travels between the data, the model and the metrics: every shape is written down here, once.

Letters: B queries in the batch, P noun phrases in the batch, V vision tokens (CLS + patches), T text tokens,
L fusion layers, H heads, D width, E embedding, S image side in pixels.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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


class QueryBatch(NamedTuple):
    """Queries: reference images and modification texts.

    ``index`` (B,) int64: position of the query in its `Protocol`. ``reference`` (B, 3, S, S) preprocessed images.
    ``captions``: B strings, as written by the user.
    """

    index: Tensor
    reference: Tensor
    captions: list[str]
    phrases: Phrases


class TripletBatch(NamedTuple):
    """Training triplets: queries and their target images.

    ``target`` (B, 3, S, S). ``reference_id`` and ``target_id`` (B,) int64 name images: two rows with the same id hold
    the same image, whether as reference or as target, so that it is never counted as its own negative.
    """

    query: QueryBatch
    target: Tensor
    reference_id: Tensor
    target_id: Tensor


class StoredEmbeddings(NamedTuple):
    """What was computed in an earlier evaluation.

    ``embedding`` (B, E), in the precision of the store and with any numbers where there is none. ``missing`` (M,)
    int64: the rows without one, rising.
    """

    embedding: Tensor
    missing: Tensor


class GalleryBatch(NamedTuple):
    """Gallery images. ``index`` (B,) int64: position in the `Protocol`'s gallery. ``image`` (B, 3, S, S).

    Where a store of embeddings is in use, there is ``stored``, and ``image`` (M, 3, S, S) holds what it lacks only.
    """

    index: Tensor
    image: Tensor
    stored: StoredEmbeddings | None = None


def phrases_of(spans: Sequence[Iterable[tuple[int, int]]], device: torch.device | str = "cpu") -> Phrases:
    """The noun phrases of B captions, as `PhraseParser.parse` or a bank gives them, as a batch; no boxes are known.

    ``device``: that of the images they go with. To compose queries with phrases that are parsed on the fly::

        phrases = phrases_of(parser.parse(captions), images.device)
        queries = model.embed_query(images, captions, phrases)
    """
    found = [(row, start, end) for row, caption in enumerate(spans) for start, end in caption]
    places = torch.tensor(found, dtype=torch.int64, device=device).reshape(-1, 3)  # (P, 3)
    boxes = torch.full((len(found), 4), float("nan"), device=device)  # (P, 4)
    return Phrases(places[:, 0], places[:, 1:], boxes)
