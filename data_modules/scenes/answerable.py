"""What an ideal eye needs to know of the reference to choose the target among the members of its image set.

An image answers a text if *some* scene exists, in the place of the reference, from which the stated changes lead to the
image: every clause about an object fits exactly one object of that scene, no two clauses the same one, and changes what
it names. The less is known of the reference, the more images answer beside the target.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from data_modules.scenes.graph import COLOURS, FILLS, MAX_OBJECTS, MIN_OBJECTS, PLACES, SHAPES, SIZES, Scene
from data_modules.scenes.reading import Look, Statement, read
from data_modules.scenes.truth import ATTRIBUTES, carry_out, differs, looks_of

TEXT, UNBOUND, BOUND, SEVERAL = "text", "unbound", "bound", "several"
KINDS = (TEXT, UNBOUND, BOUND, SEVERAL)
VALUES: Mapping[str, tuple] = {
    "size": SIZES,
    "fill": FILLS,
    "colour": COLOURS,
    "shape": SHAPES,
    "cell": tuple(range(len(PLACES))),
}
Values = dict[str, object]  # of an object by attribute; those that are not known are left out


@dataclass(frozen=True)
class Unbound:
    """What is known of a scene when it is not known which object has which attribute: the background, and counts."""

    background: str
    counts: Mapping[str, Counter]  # by attribute, the number of objects that have each value

    @classmethod
    def of(cls, scene: Scene) -> "Unbound":
        """Return what is known of a scene."""
        return cls(scene.background, {name: Counter(getattr(o, name) for o in scene.objects) for name in ATTRIBUTES})


def kind_of(text: str, reference: Scene, target: Scene, others: Sequence[Scene]) -> str:
    """Return what it takes to choose the target among the others.

    ``text``: it alone; ``unbound``: it and the attributes of the reference, but not which object has which; ``bound``:
    that as well; ``several``: nothing would do, as others answer the text too.

    Raises:
        Unreadable: if the grammar does not have some clause.
        ValueError: if the target does not answer the text.
    """
    statements = read(text)
    if not follows(statements, reference, target):
        raise ValueError(f"the target does not answer {text!r}")
    if any(follows(statements, reference, member) for member in others):
        return SEVERAL
    for known, kind in ((None, TEXT), (Unbound.of(reference), UNBOUND)):
        if not any(answers(statements, member, known) for member in others):
            return kind
    return BOUND


def follows(statements: Sequence[Statement], reference: Scene, image: Scene) -> bool:
    """Return whether the changes lead from the whole reference to the image; what goes unsaid may be anything."""
    background, stated = carry_out(statements, reference.background, looks_of(reference))
    shown = looks_of(image)
    return (background, len(stated)) == (image.background, len(shown)) and any(
        all(_fits(look, other) for look, other in zip(stated, order, strict=True)) for order in permutations(shown)
    )


def answers(statements: Sequence[Statement], image: Scene, known: Unbound | None = None) -> bool:
    """Return whether the image can be what the changes lead to, from a reference of which no more is known."""
    grounds = [statement.background for statement in statements if statement.background is not None]
    if any(ground != image.background for ground in grounds):
        return False
    if known is not None and not grounds and known.background != image.background:
        return False
    return any(_completions(before, known) for before in _references(statements, looks_of(image)))


@dataclass(frozen=True)
class Before:
    """A reference of which some attributes are open.

    ``owners``: by position of an object, the words that must fit this object and no other one. ``changed``: values that
    an open attribute can't have had, as the text changes the attribute to it.
    """

    objects: list[Values]
    owners: list[tuple[int, Values]]
    changed: dict[tuple[int, str], object]


def _references(statements: Sequence[Statement], shown: Sequence[Look]) -> Iterator[Before]:
    """Yield what each way to match the clauses with objects of the image says of the reference."""
    made = [s for s in statements if s.becomes is not None]
    removed = [s for s in statements if s.about is not None and s.becomes is None]
    for chosen in permutations(range(len(shown)), len(made)):
        before = Before([_stated(shown[n]) for n in range(len(shown)) if n not in chosen], [], {})
        if all(_undo(statement, shown[number], before) for statement, number in zip(made, chosen, strict=True)):
            for statement in removed:
                before.owners.append((len(before.objects), _stated(statement.about)))
                before.objects.append(_stated(statement.about))
            if MIN_OBJECTS <= len(before.objects) <= MAX_OBJECTS:
                yield before


def _undo(statement: Statement, item: Look, before: Before) -> bool:
    """Add what an object was before a clause made it what it is; return False if the clause can't have made it."""
    if not _fits(statement.becomes, item):
        return False
    if statement.about is None:
        return True  # it was not there
    about, becomes, number = _stated(statement.about), _stated(statement.becomes), len(before.objects)
    values = {name: value for name, value in _stated(item).items() if name not in becomes}
    if any(values.get(name, value) != value or becomes.get(name) == value for name, value in about.items()):
        return False
    before.changed.update({(number, name): value for name, value in becomes.items() if name not in about})
    before.objects.append(values | about)
    before.owners.append((number, about))
    return True


def _completions(before: Before, known: Unbound | None) -> bool:
    """Return whether the open attributes have values that make a valid scene of it, with the counts that are known."""
    free: dict[str, Counter] = {}
    for name in ATTRIBUTES:
        if known is None:
            free[name] = Counter(dict.fromkeys(VALUES[name], len(before.objects)))
            continue
        used = Counter(values[name] for values in before.objects if name in values)
        if used - known.counts[name] or known.counts[name].total() != len(before.objects):
            return False
        free[name] = known.counts[name] - used
    slots = [
        (number, name) for number, values in enumerate(before.objects) for name in ATTRIBUTES if name not in values
    ]
    slots.sort(key=lambda slot: len(free[slot[1]]))  # few values first: a contradiction shows before many are tried
    return _consistent(before) and _fill(before, slots, free)


def _fill(before: Before, slots: Sequence[tuple[int, str]], free: Mapping[str, Counter]) -> bool:
    if not slots:
        return True
    number, name = slots[0]
    for value, left in list(free[name].items()):
        if left > 0 and before.changed.get((number, name)) != value:
            before.objects[number][name] = value
            free[name][value] -= 1
            if _consistent(before) and _fill(before, slots[1:], free):
                return True
            free[name][value] += 1
            del before.objects[number][name]
    return False


def _consistent(before: Before) -> bool:
    """Return whether nothing that is known contradicts: one object a cell, no two alike, and words fit one object."""
    objects = before.objects
    cells = [values["cell"] for values in objects if "cell" in values]
    looks = [tuple(values.get(name) for name in ATTRIBUTES if name != "cell") for values in objects]
    whole = [look for look in looks if None not in look]
    if len(set(cells)) < len(cells) or len(set(whole)) < len(whole):
        return False
    return not any(
        number != owner and about.items() <= values.items()
        for owner, about in before.owners
        for number, values in enumerate(objects)
    )


def _fits(stated: Look, item: Look) -> bool:
    return not any(differs(getattr(stated, name), getattr(item, name)) for name in ATTRIBUTES)


def _stated(look: Look) -> Values:
    return {name: value for name in ATTRIBUTES if (value := getattr(look, name)) is not None}
