"""Tells whether an instruction about two scenes is true and complete."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from data_modules.scenes.graph import Scene, SceneObject
from data_modules.scenes.reading import Look, Statement, Unreadable, read

ATTRIBUTES = ("size", "fill", "colour", "shape", "cell")
APPEARANCE_COST = 1.0  # of an object that appears or vanishes; the same as of an attribute that changes
Looks = tuple[Look, ...]
View = tuple[str, Looks]  # background and objects


@dataclass(frozen=True)
class Judgement:
    """The errors of an instruction.

    ``stated``: changes that its text asks for. ``false``: those that are not true of the pair. ``idle``: those that
    hold in the reference already; they do not count as false. ``missing``: changes of the pair that remain when all
    true ones are made. ``unread``: the text that could not be parsed, or ""; if there is any, the numbers mean nothing,
    and the instruction is neither true nor complete.
    """

    stated: int = 0
    false: int = 0
    idle: int = 0
    missing: int = 0
    unread: str = ""

    @property
    def true(self) -> bool:
        """Every stated change is one of the pair."""
        return not self.unread and self.false == 0

    @property
    def complete(self) -> bool:
        """The text states every change of the pair."""
        return not self.unread and self.missing == 0


def judge(text: str, reference: Scene, target: Scene) -> Judgement:
    """Compare a text with what the two scenes show.

    The largest set of stated changes counts as true that is part of a shortest path from reference to target, or leads
    to the target exactly. A path consists of attributes that change and of objects that appear or vanish, so that an
    object that changes in three attributes or more counts as another one. Words about an object must fit exactly one
    object of the reference.
    """
    try:
        statements = read(text)
    except Unreadable as error:
        return Judgement(unread=str(error))
    start, end = looks_of(reference), looks_of(target)
    resolved = [statement for statement in statements if applies(statement, start)]
    possible = [s for s in resolved if carry_out([s], reference.background, start) != (reference.background, start)]
    idle = len(resolved) - len(possible)
    true, left = _most_true(possible, (reference.background, start), (target.background, end))
    return Judgement(len(statements), len(statements) - idle - true, idle, int(left))


def _most_true(statements: Sequence[Statement], reference: View, target: View) -> tuple[int, float]:
    """Return the largest number of statements that are true together, and the distance to the target that remains."""
    before = distance(*reference, *target)
    best = (0, before)
    for count in range(1, len(statements) + 1):
        for chosen in combinations(statements, count):
            left = distance(*carry_out(chosen, *reference), *target)
            if left == 0:
                return count, 0
            if left == before - count:
                best = (count, left)
    return best


def distance(background: str, objects: Looks, other_background: str, others: Looks) -> float:
    """Return the fewest changes from one scene to another; an attribute that is left open equals any."""
    from scipy.optimize import linear_sum_assignment  # takes a second to import

    size = len(objects) + len(others)
    costs = np.zeros(
        (size, size)
    )  # the last rows and columns are dummies: an object matched with one appears or vanishes
    for row, one in enumerate(objects):
        for column, other in enumerate(others):
            costs[row, column] = sum(differs(getattr(one, name), getattr(other, name)) for name in ATTRIBUTES)
    costs[: len(objects), len(others) :] = APPEARANCE_COST
    costs[len(objects) :, : len(others)] = APPEARANCE_COST
    rows, columns = linear_sum_assignment(costs)
    return float(costs[rows, columns].sum()) + (background != other_background)


def differs(one: object, other: object) -> bool:
    """Return whether two values contradict each other; None is left open."""
    return one is not None and other is not None and one != other


def looks_of(scene: Scene) -> Looks:
    """Return the looks of the objects of a scene, in their order."""
    return tuple(_look(item) for item in scene.objects)


def _look(item: SceneObject) -> Look:
    return Look(item.size, item.fill, item.colour, item.shape, item.cell)


def fitting(about: Look, objects: Looks) -> list[int]:
    """Return the positions of the objects that the words fit."""
    stated = {name: value for name, value in asdict(about).items() if value is not None}
    return [n for n, item in enumerate(objects) if all(getattr(item, name) == stated[name] for name in stated)]


def applies(statement: Statement, objects: Looks) -> bool:
    """Return whether the words about an object fit exactly one."""
    return statement.about is None or len(fitting(statement.about, objects)) == 1


def carry_out(statements: Sequence[Statement], background: str, objects: Looks) -> View:
    """Return the scene with these changes, all of which refer to the objects before any change."""
    changed: list[Look | None] = list(objects)
    for statement in statements:
        if statement.background is not None:
            background = statement.background
        elif statement.about is None:
            changed.append(statement.becomes)
        else:
            (number,) = fitting(statement.about, objects)
            item = changed[number]
            if statement.becomes is None or item is None:
                changed[number] = None
            else:
                new = {name: value for name, value in asdict(statement.becomes).items() if value is not None}
                changed[number] = Look(**{**asdict(item), **new})
    return background, tuple(item for item in changed if item is not None)
