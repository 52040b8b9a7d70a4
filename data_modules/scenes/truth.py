"""Whether an instruction about two scenes is true of them, and the whole truth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from data_modules.scenes.graph import Scene, SceneObject
from data_modules.scenes.reading import Look, Statement, Unreadable, read

ATTRIBUTES = ("size", "fill", "colour", "shape", "cell")
GONE_AND_COME = 1.0  # price of an object that appears or vanishes, as of one attribute that changes
Shown = tuple[Look, ...]
Scenery = tuple[str, Shown]  # background and objects


@dataclass(frozen=True)
class Judgement:
    """What is wrong with an instruction.

    ``stated``: changes that its text asks for. ``false``: those that are not true of the pair. ``idle``: those that
    ask for what is so in the reference already; they are not counted as false. ``missing``: changes of the pair that
    are left when all true ones are made. ``unread``: what could not be read, "" if all could; then the numbers say
    nothing, and the instruction is neither true nor complete.
    """

    stated: int = 0
    false: int = 0
    idle: int = 0
    missing: int = 0
    unread: str = ""

    @property
    def true(self) -> bool:
        """Whether every stated change is one of the pair."""
        return not self.unread and self.false == 0

    @property
    def complete(self) -> bool:
        """Whether no change of the pair is left unsaid."""
        return not self.unread and self.missing == 0


def judge(text: str, reference: Scene, target: Scene) -> Judgement:
    """Compare what a text says with what the two scenes show.

    Changes count as true if they are part of a shortest way from reference to target, or lead to the target exactly;
    the most of them that are so together. A way is made of attributes that change, and of objects that appear or
    vanish, so that an object that changes in three ways or more counts as another one. An object that a text speaks of
    has to be the only one in the reference that its words fit.
    """
    try:
        statements = read(text)
    except Unreadable as error:
        return Judgement(unread=str(error))
    start, end = _shown(reference), _shown(target)
    resolved = [statement for statement in statements if _applies(statement, start)]
    possible = [s for s in resolved if _apply([s], reference.background, start) != (reference.background, start)]
    idle = len(resolved) - len(possible)
    true, left = _most_true(possible, (reference.background, start), (target.background, end))
    return Judgement(len(statements), len(statements) - idle - true, idle, int(left))


def _most_true(statements: Sequence[Statement], reference: Scenery, target: Scenery) -> tuple[int, float]:
    """Return how many statements are true together, at the most, and how far from the target they leave the scene."""
    before = distance(*reference, *target)
    best = (0, before)
    for count in range(1, len(statements) + 1):
        for chosen in combinations(statements, count):
            left = distance(*_apply(chosen, *reference), *target)
            if left == 0:
                return count, 0
            if left == before - count:
                best = (count, left)
    return best


def distance(background: str, objects: Shown, other_background: str, others: Shown) -> float:
    """Return the fewest changes from one scene to another; what is left open differs from nothing."""
    size = len(objects) + len(others)
    costs = np.zeros((size, size))  # the last ones stand for nothing: what is matched with them vanishes, or appears
    for row, one in enumerate(objects):
        for column, other in enumerate(others):
            costs[row, column] = sum(_differs(getattr(one, name), getattr(other, name)) for name in ATTRIBUTES)
    costs[: len(objects), len(others) :] = GONE_AND_COME
    costs[len(objects) :, : len(others)] = GONE_AND_COME
    rows, columns = linear_sum_assignment(costs)
    return float(costs[rows, columns].sum()) + (background != other_background)


def _differs(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


def _shown(scene: Scene) -> Shown:
    return tuple(_look(item) for item in scene.objects)


def _look(item: SceneObject) -> Look:
    return Look(item.size, item.fill, item.colour, item.shape, item.cell)


def _fitting(about: Look, objects: Shown) -> list[int]:
    """Return which objects the words fit."""
    said = {name: value for name, value in asdict(about).items() if value is not None}
    return [n for n, item in enumerate(objects) if all(getattr(item, name) == said[name] for name in said)]


def _applies(statement: Statement, objects: Shown) -> bool:
    return statement.about is None or len(_fitting(statement.about, objects)) == 1


def _apply(statements: Sequence[Statement], background: str, objects: Shown) -> Scenery:
    """Return the scene with these changes; all of them speak of the objects as they were."""
    changed: list[Look | None] = list(objects)
    for statement in statements:
        if statement.background is not None:
            background = statement.background
        elif statement.about is None:
            changed.append(statement.becomes)
        else:
            (number,) = _fitting(statement.about, objects)
            item = changed[number]
            if statement.becomes is None or item is None:
                changed[number] = None
            else:
                new = {name: value for name, value in asdict(statement.becomes).items() if value is not None}
                changed[number] = Look(**{**asdict(item), **new})
    return background, tuple(item for item in changed if item is not None)
