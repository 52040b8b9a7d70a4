"""Which queries are worth a look, by rule: the worst failures and the nearest misses, of all and of each group."""

from collections.abc import Mapping, Sequence

NEAR = 5  # the last rank of a near miss


def worst(ranks: Sequence[int | None], among: Sequence[int], count: int) -> list[int]:
    """Return the positions of the queries whose targets come last, the worst first, of those beyond `NEAR`.

    ``ranks``: of every query, 0 where the target was not ranked at all, which is worse than any rank, and None where
    the query was not seen, which is left out. Equal ranks follow the order of the queries.
    """
    failed = [(place, rank) for place in among if (rank := ranks[place]) is not None and not 0 < rank <= NEAR]
    return [place for place, _ in sorted(failed, key=lambda item: (item[1] > 0, -item[1], item[0]))][:count]


def near_misses(
    ranks: Sequence[int | None], margins: Sequence[float | None], among: Sequence[int], count: int
) -> list[int]:
    """Return the positions of the queries whose targets are among the first `NEAR`, but not the first.

    The smallest ``margins`` come first: how far the target's score is below the highest one. A query without a margin
    comes last.
    """
    missed = [place for place in among if (rank := ranks[place]) is not None and 1 < rank <= NEAR]
    far = float("inf")
    return sorted(missed, key=lambda place: (far if margins[place] is None else margins[place], place))[:count]


def examples(
    ranks: Sequence[int | None],
    margins: Sequence[float | None],
    groups: Mapping[str, Sequence[int]],
    count: int,
    of_group: int,
) -> list[int]:
    """Return the positions of ``count`` worst failures and near misses of all queries, and ``of_group`` of each group.

    Each position once, in rising order.
    """
    chosen: set[int] = set()
    for among, most in ((range(len(ranks)), count), *((members, of_group) for members in groups.values())):
        chosen.update(worst(ranks, among, most), near_misses(ranks, margins, among, most))
    return sorted(chosen)
