"""How much of an exact search an approximate one finds."""

from torch import Tensor

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.search.index import Index


def recall_at(index: Index, queries: Tensor, count: int, exact: Index) -> float:
    """Return the mean share of the ``count`` best images of an exact search that an index finds among its own.

    Args:
        index: as it is searched.
        queries: (Q, E) sample of queries.
        count: images a query.
        exact: an index of the same images that compares all of them.

    Raises:
        InputError: if there are no queries, or no images.
    """
    whole(count, 1, "count")
    shares = []
    for found, best in zip(index.search(queries, count), exact.search(queries, count), strict=True):
        wanted = {hit.photo.path for hit in best}
        if not wanted:
            raise InputError("an index without images has no recall")
        shares.append(len(wanted & {hit.photo.path for hit in found}) / len(wanted))
    if not shares:
        raise InputError("expected at least one query")
    return sum(shares) / len(shares)
