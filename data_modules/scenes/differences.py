"""The fewest edits that lead from what one scene shows to what another one shows."""

from collections.abc import Iterator
from itertools import combinations, permutations

from data_modules.scenes.edits import Add, ChangeBackground, Edit, Move, Recolour, Refill, Remove, Reshape, Resize
from data_modules.scenes.graph import Scene, SceneObject

ATTRIBUTES = (Recolour, Reshape, Resize, Refill)
ADDED = 100  # keys of added objects begin here, as in `groups.random_edit`
Matching = tuple[tuple[SceneObject, SceneObject], ...]


def difference(reference: Scene, target: Scene) -> tuple[Edit, ...]:
    """Return edits of ``reference`` that give what ``target`` shows, as few as can be.

    Keys of the target do not count, so that scenes may be of different bases. Where as few edits would do otherwise,
    objects rather change than go and come, and rather keep their place.
    """
    matching = min(_matchings(reference, target), key=lambda pairs: _cost(reference, target, pairs))
    edits: list[Edit] = []
    if reference.background != target.background:
        edits.append(ChangeBackground(-1, target.background))
    for before, after in matching:
        edits += _changes(before, after)
    kept = {before.key for before, _ in matching}
    edits += [Remove(item.key) for item in reference.objects if item.key not in kept]
    made = [after for _, after in matching]
    added = [item for item in target.objects if not any(item is other for other in made)]
    for number, item in enumerate(added):
        key = ADDED + number
        edits.append(Add(key, SceneObject(key, item.shape, item.colour, item.size, item.fill, item.cell)))
    return tuple(edits)


def _changes(before: SceneObject, after: SceneObject) -> list[Edit]:
    """Return the edits of one object."""
    found: list[Edit] = [
        kind(before.key, getattr(after, kind.name))
        for kind in ATTRIBUTES
        if getattr(before, kind.name) != getattr(after, kind.name)
    ]
    return found + ([Move(before.key, after.cell)] if before.cell != after.cell else [])


def _matchings(reference: Scene, target: Scene) -> Iterator[Matching]:
    """Yield all ways to take objects of the target for objects of the reference; there are at most five of either."""
    for count in range(min(len(reference.objects), len(target.objects)) + 1):
        for chosen in combinations(reference.objects, count):
            for others in permutations(target.objects, count):
                pairs = tuple(zip(chosen, others, strict=True))
                # an object that changes in more than two ways is another one
                if all(len(_changes(before, after)) <= 2 for before, after in pairs):
                    yield pairs


def _cost(reference: Scene, target: Scene, pairs: Matching) -> tuple[int, int, int]:
    changed = sum(len(_changes(before, after)) for before, after in pairs)
    replaced = len(reference.objects) + len(target.objects) - 2 * len(pairs)
    moved = sum(before.cell != after.cell for before, after in pairs)
    return changed + replaced, replaced, moved
