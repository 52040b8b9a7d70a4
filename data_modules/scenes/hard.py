"""Image sets of the hard split: text and unbound attributes of the reference fit four of five images.

Two objects of the reference exchange an attribute, in two ways that do not touch each other; the text is carried out on
the reference, on both exchanged ones, and on the one with both exchanges. All four results answer the text from a
reference with the same number of objects of each size, fill, colour, shape and place, and none of the four is more like
the others than the rest are. The fifth image is one that the text rules out, so that it has to be read as well.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from data_modules.scenes.edits import Edit
from data_modules.scenes.graph import Scene, SceneObject, random_scene
from data_modules.scenes.groups import Member, apply, caption, draw_edits, partial, replaced
from data_modules.scenes.reading import Statement, read
from data_modules.scenes.truth import applies, carry_out, fitting, looks_of
from data_modules.scenes.wording import Caption

EXCHANGED = ("colour", "shape", "fill", "size")
ATTEMPTS = 40  # pairs of exchanges that are tried for one text
Exchange = tuple[int, int, str]  # keys of two objects, and what they exchange


def hard_set(rng: np.random.Generator, scene: Scene, count: int) -> tuple[list[Member], Caption] | None:
    """Draw a query of ``count`` edits and its set, target first; None where the draw fails: draw again."""
    edits = draw_edits(rng, scene, count, 0.0, ())
    if edits is None:
        return None
    target = apply(scene, edits)
    if not target.valid() or target.seen_as == scene.seen_as:
        return None
    worded = caption(rng, scene, edits)
    statements = read(worded.text)
    told = Member(target, "target", edits)
    for first, second in _pairs(rng, scene, statements):
        changed = (exchange(scene, first), exchange(scene, second), exchange(exchange(scene, first), second))
        results = [result_of(statements, other) for other in changed]
        if None in results or len({s.seen_as for s in (scene, target, *results)}) < 2 + len(results):
            continue
        roles = [
            "wrong object" if _named(statements, other) != _named(statements, scene) else "swapped" for other in changed
        ]
        taken = {s.seen_as for s in (scene, target, *results)}
        wrong = _ruled_out(rng, scene, edits, taken)
        if wrong is not None:
            return [told, *(Member(s, role, None) for s, role in zip(results, roles, strict=True)), wrong], worded
    return None


def draw_hard_sets(
    rng: np.random.Generator, sets: int, counts: tuple[int, ...] = (1, 2, 3, 4)
) -> tuple[Scene, list[tuple[list[Member], Caption]]]:
    """Draw a reference and ``sets`` queries on it, each with its own image set; the numbers of edits take turns."""
    start = int(rng.integers(len(counts)))
    while True:
        scene, found, seen = random_scene(rng), [], set()
        for number in range(sets):
            for _ in range(30):
                drawn = hard_set(rng, scene, counts[(start + number) % len(counts)])
                looks = {member.scene.seen_as for member in drawn[0]} if drawn else set()
                if drawn and not looks & seen:
                    seen |= looks
                    found.append(drawn)
                    break
            else:
                break
        if len(found) == sets:
            return scene, found


def exchange(scene: Scene, how: Exchange) -> Scene:
    """Return the scene after two objects exchanged an attribute."""
    one, other, name = how
    values = [getattr(scene.find(key), name) for key in (one, other)]
    return scene.change(one, **{name: values[1]}).change(other, **{name: values[0]})


def result_of(statements: Sequence[Statement], scene: Scene) -> Scene | None:
    """Return what a text makes of a scene; None where a clause does not fit or the result can't be drawn."""
    looks, before = looks_of(scene), (scene.background, looks_of(scene))
    if not scene.valid() or not all(applies(s, looks) and carry_out([s], *before) != before for s in statements):
        return None
    named = _named(statements, scene)
    if len({*named}) < len(named):  # each clause is about another object
        return None
    background, items = carry_out(statements, *before)
    objects = [
        SceneObject(n, str(i.shape), str(i.colour), str(i.size), str(i.fill), int(i.cell or 0))
        for n, i in enumerate(items)
    ]
    result = Scene(tuple(objects), background)
    return result if result.valid() else None


def _pairs(
    rng: np.random.Generator, scene: Scene, statements: Sequence[Statement]
) -> Iterator[tuple[Exchange, Exchange]]:
    """Yield pairs of exchanges that do not touch each other, the first of an attribute that the text names, if any."""
    possible = [
        (a.key, b.key, name)
        for a, b in combinations(scene.objects, 2)
        for name in EXCHANGED
        if getattr(a, name) != getattr(b, name)
    ]
    usable = [how for how in possible if result_of(statements, exchange(scene, how)) is not None]
    naming = [how for how in usable if _named(statements, exchange(scene, how)) != _named(statements, scene)]
    pairs = [
        (first, second)
        for first in naming or usable
        for second in usable
        if first != second and (first[2] != second[2] or not set(first[:2]) & set(second[:2]))
    ]
    yield from (pairs[n] for n in rng.permutation(len(pairs))[:ATTEMPTS])


def _named(statements: Sequence[Statement], scene: Scene) -> list[tuple[int, ...]]:
    """Return which objects the clauses are about, by position."""
    looks = looks_of(scene)
    return [tuple(fitting(s.about, looks)) for s in statements if s.about is not None]


def _ruled_out(rng: np.random.Generator, scene: Scene, edits: tuple[Edit, ...], taken: set[tuple]) -> Member | None:
    """Draw an image that the text rules out: one with a part of the changes, or with a wrong one."""
    for _ in range(8):
        edit = edits[int(rng.integers(len(edits)))]
        if len(edits) > 1 and rng.random() < 0.5:
            role, how = "partial", partial(rng, edits)
        else:
            role, how = "wrong value", replaced(edits, edit, edit.wrong_value(rng, scene))
        shown = apply(scene, how)
        if shown.valid() and shown.seen_as not in taken:
            return Member(shown, role, how)
    return None
