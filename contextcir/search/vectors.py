"""What every index does to embeddings before it stores them or compares with them, and lists in parts."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import Tensor
from torch.nn.functional import normalize

from contextcir.errors import InputError

Item = TypeVar("Item")


def unit(vectors: Tensor, width: int | None, name: str) -> Tensor:
    """Return vectors (N, E) in single precision on the CPU, L2-normalised; a vector of zeros stays one.

    Args:
        vectors: of any precision, on any device.
        width: E of the index; None while it is empty.
        name: of the vectors, for the message.

    Raises:
        InputError: if they have another shape, or hold a number that is not finite.
    """
    expected = f"(N, {'E' if width is None else width})"
    if vectors.ndim != 2 or not vectors.shape[1] or (width is not None and vectors.shape[1] != width):
        raise InputError(f"expected {name} of shape {expected}, got {tuple(vectors.shape)}: are they of one model?")
    vectors = vectors.detach().to("cpu").float()
    if not vectors.isfinite().all():
        raise InputError(f"expected {name} of finite numbers, got NaN or infinity")
    return normalize(vectors, dim=1)


def moved_away(queries: Tensor, away: Tensor | None) -> Tensor:
    """Return queries (Q, E) as 2 q - mean(away), L2-normalised, for unwanted embeddings (U, E); as they are if U is 0.

    The average-vector strategy of Qdrant's recommendations with one positive example.
    """
    if away is None or not len(away):
        return queries
    return normalize(2 * queries - away.mean(0), dim=1)


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items in parts of at most ``size``."""
    return (items[start : start + size] for start in range(0, len(items), size))
