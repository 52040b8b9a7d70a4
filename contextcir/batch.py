"""What travels between the data, the model and the metrics: every shape is written down here, once.

Letters: B queries in the batch, P noun phrases in the batch, V vision tokens (CLS + patches), T text tokens,
L fusion layers, H heads, D width, E embedding, S image side in pixels.
"""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from contextcir.phrase_texts import PhraseTexts


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


class TokenBatch(NamedTuple):
    """Token ids (B, T) int64, T the longest text of the batch, and ``valid`` (B, T) bool, true up to and with EOT."""

    ids: Tensor
    valid: Tensor


class ImageFeatures(NamedTuple):
    """A pass of the image tower: ``tokens`` (B, V, D) before the final norm; ``embedding`` (B, E), not normalised."""

    tokens: Tensor
    embedding: Tensor


class TextFeatures(NamedTuple):
    """A pass of the text tower.

    ``tokens`` (B, T, D) after the final norm, ``valid`` (B, T) bool, ``embedding`` (B, E), not normalised.
    """

    tokens: Tensor
    valid: Tensor
    embedding: Tensor


class Fused(NamedTuple):
    """A composed query: ``embedding`` (B, E), not normalised; ``attention``, L times (B, H, V, K), () for baselines.

    The first T of the K keys are the text tokens; a fusion may add keys of its own (`Fusion.keys_of_phrases`).
    """

    embedding: Tensor
    attention: tuple[Tensor, ...]


class QueryFeatures(NamedTuple):
    """All that was computed for a batch of queries; ``phrases`` None where nobody named any."""

    image: ImageFeatures
    text: TextFeatures
    fused: Fused
    phrases: "PhraseTexts | None" = None
