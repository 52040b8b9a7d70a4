"""What an ideal eye needs to know of a reference: compared with trying every reference of a small world."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, permutations, product

import numpy as np
import pytest

from data_modules.scenes import answerable
from data_modules.scenes.answerable import BOUND, SEVERAL, TEXT, UNBOUND, Unbound, answers, kind_of
from data_modules.scenes.graph import Scene, SceneObject
from data_modules.scenes.reading import Statement, read

COLOURS, SHAPES, CELLS, GROUNDS = ("red", "blue", "green"), ("circle", "square"), (0, 1, 2), ("sand", "grass")
NAMES = ("size", "fill", "colour", "shape", "cell")
PLACES = {0: "in the top left corner", 1: "at the top", 2: "in the top right corner"}


def scene(*items: tuple[str, str, int], background: str = "sand") -> Scene:
    """A scene of small solid objects, each by colour, shape and cell."""
    return Scene(
        tuple(SceneObject(n, s, c, "small", "solid", cell) for n, (c, s, cell) in enumerate(items)), background
    )


def worlds() -> Iterator[Scene]:
    for count in (2, 3):
        for cells in combinations(CELLS, count):
            for looks in permutations(product(COLOURS, SHAPES), count):
                for background in GROUNDS:
                    yield scene(
                        *((c, s, cell) for (c, s), cell in zip(looks, cells, strict=True)), background=background
                    )


WORLD = tuple(worlds())


def naive_result(statements: tuple[Statement, ...], start: Scene) -> list[tuple[str, list[dict]]]:
    """The result of the changes, or none where a clause fits no object or several, one of another clause, or idles."""
    background, items, taken = start.background, [{n: getattr(o, n) for n in NAMES} for o in start.objects], []
    result: list[dict | None] = [dict(item) for item in items]
    for statement in statements:
        if statement.background:
            background = statement.background
            continue
        new = {n: getattr(statement.becomes, n) for n in NAMES if statement.becomes and getattr(statement.becomes, n)}
        if statement.becomes and statement.becomes.cell == 0:
            new["cell"] = 0
        if statement.about is None:
            result.append(new)
            continue
        words = {n: getattr(statement.about, n) for n in NAMES if getattr(statement.about, n) is not None}
        fitting = [i for i, item in enumerate(items) if all(item[n] == w for n, w in words.items())]
        if len(fitting) != 1 or fitting[0] in taken:
            return []
        taken += fitting
        if any(items[fitting[0]][n] == value for n, value in new.items()):
            return []
        result[fitting[0]] = {**items[fitting[0]], **new} if new else None
    return [(background, [item for item in result if item is not None])]


def shows(result: tuple[str, list[dict]], image: Scene) -> bool:
    background, items = result
    return (background, len(items)) == (image.background, len(image.objects)) and any(
        all(getattr(o, n) == v for item, o in zip(items, order, strict=True) for n, v in item.items())
        for order in permutations(image.objects)
    )


def values(shown: Scene) -> tuple[str, list[Counter]]:
    return shown.background, [Counter(getattr(o, n) for o in shown.objects) for n in NAMES]


def texts(rng: np.random.Generator) -> str:
    def named() -> str:
        colour, shape = rng.choice(("", *COLOURS)), rng.choice(("object", *SHAPES))
        return " ".join(w for w in ("the", colour, shape) if w)

    place = PLACES[int(rng.integers(3))]
    clauses = [
        f"make {named()} {rng.choice(COLOURS)}", f"turn {named()} into a {rng.choice(SHAPES)}", f"remove {named()}",
        f"put {named()} {place}", f"add a {rng.choice(COLOURS)} {rng.choice(SHAPES)}", "make the background grass",
        f"add a small solid {rng.choice(COLOURS)} {rng.choice(SHAPES)} {place}",
    ]  # fmt: skip
    return ", ".join(rng.choice(clauses, int(rng.integers(1, 4)), replace=False))


def test_an_image_answers_if_and_only_if_some_reference_leads_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"size": ("small",), "fill": ("solid",), "colour": COLOURS, "shape": SHAPES, "cell": CELLS}
    monkeypatch.setattr(answerable, "VALUES", small)
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(24):
        statements = read(texts(rng))
        results = [(start, result) for start in WORLD for result in naive_result(statements, start)]
        known, alike = WORLD[int(rng.integers(len(WORLD)))], []
        if results:  # a reference that leads somewhere, so that some images answer from what is known of it
            known = results[int(rng.integers(len(results)))][0]
            alike = [result for start, result in results if values(start) == values(known)]
        images = [WORLD[int(n)] for n in rng.integers(len(WORLD), size=12)]
        images += [image for image in WORLD if any(shows(result, image) for result in alike)][:6]
        for image in images:
            told, counted = (any(shows(r, image) for r in found) for found in ([r for _, r in results], alike))
            assert answers(statements, image) == told, (statements, image)
            assert answers(statements, image, Unbound.of(known)) == counted, (statements, known, image)
            seen.update([("text", told), ("unbound", counted)])
    assert len(seen) == 4 and min(seen.values()) > 20, seen


REFERENCE = scene(("red", "circle", 0), ("blue", "square", 4))
GREEN_CIRCLE = (("green", "circle", 0), ("blue", "square", 4))
STAR = (("red", "circle", 0), ("blue", "square", 4), ("red", "star", 8))
KINDS = [  # text, target, another member
    ("make the circle green", GREEN_CIRCLE, (("red", "circle", 0), ("green", "square", 4)), TEXT),
    ("make the circle green", GREEN_CIRCLE, (("green", "circle", 0), ("white", "square", 4)), UNBOUND),
    ("make the red object green", GREEN_CIRCLE, (("blue", "circle", 0), ("green", "square", 4)), BOUND),
    ("make the circle green", GREEN_CIRCLE, (("green", "circle", 4), ("blue", "square", 0)), BOUND),
    ("add a red star", STAR, (*STAR[:2], ("red", "star", 7)), SEVERAL),
]


@pytest.mark.parametrize(("text", "target", "other", "kind"), KINDS)
def test_the_kind_of_a_query_says_what_rules_the_other_image_out(
    text: str, target: tuple, other: tuple, kind: str
) -> None:
    assert kind_of(text, REFERENCE, scene(*target), [scene(*other)]) == kind


def test_a_target_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="the target does not answer 'remove the circle'"):
        kind_of("remove the circle", REFERENCE, REFERENCE, [])
