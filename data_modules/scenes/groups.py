"""Image sets: a reference, the target of a query, and hard negatives that differ from the target in what was asked."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from data_modules.scenes.edits import (
    Add,
    AttributeEdit,
    ChangeBackground,
    Edit,
    Move,
    Recolour,
    Refill,
    Remove,
    Reshape,
    Resize,
)
from data_modules.scenes.graph import (
    BACKGROUNDS,
    MAX_OBJECTS,
    MIN_OBJECTS,
    PLACES,
    Scene,
    pick,
    pick_other,
    random_object,
    random_scene,
)
from data_modules.scenes.wording import Caption, join_clauses

MAX_EDITS = 4
SET_SIZE = 6  # members of an image set, the reference among them, as in CIRR


@dataclass(frozen=True)
class Member:
    """An image of a set: the scene, why it is there, and the edits that make it, if words can tell them."""

    scene: Scene
    role: str
    edits: tuple[Edit, ...] | None


def apply(scene: Scene, edits: tuple[Edit, ...]) -> Scene:
    """Apply all edits."""
    for edit in edits:
        scene = edit.apply(scene)
    return scene


def caption(rng: np.random.Generator, scene: Scene, edits: tuple[Edit, ...]) -> Caption:
    """Word the edits of the reference ``scene``, in random order."""
    order = rng.permutation(len(edits))
    return join_clauses(rng, [lambda text, edit=edits[i]: edit.say(rng, scene, text) for i in order])


def random_edit(rng: np.random.Generator, scene: Scene, busy: set[int], vague: float) -> Edit | None:
    """Draw an edit of a thing that is not ``busy``; ``vague``: chance that an addition leaves attributes unsaid."""
    kind = pick(rng, ("recolour", "reshape", "resize", "refill", "add", "remove", "move", "background"))
    if kind == "background":
        return None if -1 in busy else ChangeBackground(-1, pick_other(rng, BACKGROUNDS, scene.background))
    if kind == "add":
        key = 100 + sum(k >= 100 for k in busy)
        if len(scene.objects) >= MAX_OBJECTS:
            return None
        stated = ("colour", "shape") if rng.random() < vague else Add.stated
        return Add(key, random_object(rng, key, pick(rng, scene.free_cells)), stated)
    free = [o for o in scene.objects if o.key not in busy]
    if not free:
        return None
    item = pick(rng, free)
    if kind == "remove":
        return Remove(item.key) if len(scene.objects) > MIN_OBJECTS else None
    if kind == "move":
        return Move(item.key, pick(rng, scene.free_cells))
    edit = {"recolour": Recolour, "reshape": Reshape, "resize": Resize, "refill": Refill}[kind]
    return edit(item.key, pick_other(rng, edit.options, getattr(item, edit.name)))


def draw_edits(
    rng: np.random.Generator, scene: Scene, count: int, vague: float, given: tuple[Edit, ...]
) -> tuple[Edit, ...] | None:
    """Draw edits of ``count`` different things, the given ones first."""
    edits: list[Edit] = list(given)
    for _ in range(8 * count):
        if len(edits) == count:
            return tuple(edits)
        edit = random_edit(rng, scene, {e.key for e in edits}, vague)
        if edit is not None:
            edits.append(edit)
    return tuple(edits) if len(edits) == count else None


def replaced(edits: tuple[Edit, ...], old: Edit, new: Edit) -> tuple[Edit, ...]:
    return tuple(new if edit is old else edit for edit in edits)


def partial(rng: np.random.Generator, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """Keep at least one edit, but not all."""
    dropped = int(rng.integers(len(edits)))
    kept = edits[:dropped] + edits[dropped + 1 :]
    return kept[:-1] if len(kept) > 1 and rng.random() < 0.3 else kept


def _wrong_object(rng: np.random.Generator, scene: Scene, edits: tuple[Edit, ...]) -> tuple[Edit, ...] | None:
    """Do one of the edits to an object that nobody asked to change."""
    movable = [edit for edit in edits if edit.onto(rng, 0) is not None]
    idle = [o.key for o in scene.objects if o.key not in {edit.key for edit in edits}]
    if not movable or not idle:
        return None
    edit = pick(rng, movable)
    return replaced(edits, edit, edit.onto(rng, pick(rng, idle)))


def _swapped_edits(rng: np.random.Generator, edits: tuple[Edit, ...]) -> tuple[Edit, ...] | None:
    """Exchange what is asked of two objects: "circle red, star large" becomes "circle large, star red"."""
    pairs = [pair for pair in combinations(edits, 2) if all(isinstance(edit, AttributeEdit) for edit in pair)]
    if not pairs:
        return None
    first, second = pick(rng, pairs)
    swapped = replaced(edits, first, first.onto(rng, second.key))
    return replaced(swapped, second, second.onto(rng, first.key))


def _swapped_attributes(rng: np.random.Generator, target: Scene, edits: tuple[Edit, ...]) -> Scene | None:
    """Exchange one attribute of two objects of the target, one of them an edited one where there is one."""
    edited = {edit.key for edit in edits}
    pairs = [
        (a, b, name)
        for a, b in combinations(target.objects, 2)
        if not edited & {o.key for o in target.objects} or a.key in edited or b.key in edited
        for name in ("colour", "shape", "fill", "size")
        if getattr(a, name) != getattr(b, name)
    ]
    if not pairs:
        return None
    a, b, name = pick(rng, pairs)
    return target.change(a.key, **{name: getattr(b, name)}).change(b.key, **{name: getattr(a, name)})


def _negatives(
    rng: np.random.Generator, scene: Scene, edits: tuple[Edit, ...], allow_unseen: bool
) -> list[Member] | None:
    """Return the hard negatives, the required kinds first, or None where the scene does not admit them."""
    target = apply(scene, edits)
    taken = {scene.seen_as, target.seen_as}
    members: list[Member] = []

    def keep(role: str, changed: Scene | None, how: tuple[Edit, ...] | None) -> bool:
        if changed is None or not changed.valid(allow_unseen) or changed.seen_as in taken:
            return False
        taken.add(changed.seen_as)
        members.append(Member(changed, role, how))
        return True

    def attempt(role: str, how: tuple[Edit, ...] | None) -> bool:
        return how is not None and keep(role, apply(scene, how), how)

    if len(edits) > 1 and not attempt("partial", partial(rng, edits)):
        return None
    swapped = attempt("swapped", _swapped_edits(rng, edits))
    if not swapped and not keep("swapped", _swapped_attributes(rng, target, edits), None):
        return None
    if not any(attempt("wrong object", _wrong_object(rng, scene, edits)) for _ in range(4)):
        return None
    for _ in range(24):
        if len(members) == SET_SIZE - 2:
            return members
        extra = random_edit(rng, scene, {edit.key for edit in edits}, 0.0)
        options = [("wrong value", replaced(edits, edit := pick(rng, edits), edit.wrong_value(rng, scene)))]
        if len(edits) > 2:
            options.append(("partial", partial(rng, edits)))
        if extra is not None and len(edits) < MAX_EDITS:
            options.append(("extra", (*edits, extra)))
        attempt(*pick(rng, options))
    return None


def image_set(
    rng: np.random.Generator,
    scene: Scene,
    count: int,
    vague: float = 0.0,
    unseen: bool = False,
    given: tuple[Edit, ...] = (),
) -> list[Member] | None:
    """Draw a query of ``count`` edits on ``scene``, the ``given`` ones included; return its set, target first.

    None where a draw fails (no free object for a wrong edit, say): draw again. With ``unseen``, some object that the
    query makes has a combination that never occurs in training.
    """
    edits = draw_edits(rng, scene, count, vague, given)
    if edits is None:
        return None
    target = apply(scene, edits)
    if not target.valid(unseen) or target.seen_as == scene.seen_as:
        return None
    if unseen and not any(o.unseen for o in target.objects):
        return None
    negatives = _negatives(rng, scene, edits, unseen)
    return None if negatives is None else [Member(target, "target", edits), *negatives]


def draw_sets(
    rng: np.random.Generator,
    sets: int,
    vague: float = 0.0,
    unseen: bool = False,
    counts: tuple[int, ...] = (1, 2, 3, 4),
) -> tuple[Scene, list[list[Member]]]:
    """Draw a reference and ``sets`` queries on it, each with its own image set; the numbers of edits take turns."""
    start = int(rng.integers(len(counts)))
    while True:
        scene, found, seen = random_scene(rng), [], set()
        for number in range(sets):
            count = counts[(start + number) % len(counts)]
            for _ in range(30):
                members = image_set(rng, scene, count, vague, unseen)
                looks = {m.scene.seen_as for m in members or []}
                if members and not looks & seen:
                    seen |= looks
                    found.append(members)
                    break
            else:
                break
        if len(found) == sets:
            return scene, found


def answers(rng: np.random.Generator, scene: Scene, edits: tuple[Edit, ...], count: int, unseen: bool) -> list[Scene]:
    """Return up to ``count`` different scenes that all answer the same words: the target first."""
    found = [apply(scene, edits)]
    for _ in range(20 * count):
        if len(found) >= count:
            break
        other = apply(scene, tuple(e.another(rng, scene) if isinstance(e, Add) else e for e in edits))
        if other.valid(unseen) and other.seen_as not in {s.seen_as for s in found}:
            found.append(other)
    return found


def kinds(edits: tuple[Edit, ...]) -> list[str]:
    """Name the kinds of edit, each once."""
    return sorted({edit.kind for edit in edits})


if len(PLACES) <= MAX_OBJECTS:
    raise RuntimeError("a move or an addition needs a free cell")
