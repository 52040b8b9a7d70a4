"""The reader of instructions about scenes, and the judge: written without the code that words them."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_modules.scenes.describer import difference
from data_modules.scenes.graph import Scene, SceneObject, random_scene
from data_modules.scenes.groups import apply, caption, draw_sets
from data_modules.scenes.reading import Look, Statement, Unreadable, read
from data_modules.scenes.truth import ATTRIBUTES, distance, judge

CIRCLE = SceneObject(0, "circle", "red", "small", "solid", 0)
STAR = SceneObject(1, "star", "blue", "large", "striped", 4)
SCENE = Scene((CIRCLE, STAR), "grass")
SEEDS = st.integers(0, 10**6)


def shown(scene: Scene) -> tuple[Look, ...]:
    return tuple(Look(o.size, o.fill, o.colour, o.shape, o.cell) for o in scene.objects)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("make the red circle blue", [Statement(Look(colour="red", shape="circle"), Look(colour="blue"))]),
        ("Give the small shape a dotted fill.", [Statement(Look(size="small"), Look(fill="dotted"))]),
        ("scale the star down", [Statement(Look(shape="star"), Look(size="small"))]),
        ("make the star bigger", [Statement(Look(shape="star"), Look(size="large"))]),
        ("a moon instead of the star", [Statement(Look(shape="star"), Look(shape="moon"))]),
        ("the star should be a moon", [Statement(Look(shape="star"), Look(shape="moon"))]),
        ("put the star in the middle", [Statement(Look(shape="star"), Look(cell=4))]),
        ("the star is on the right side now", [Statement(Look(shape="star"), Look(cell=5))]),
        ("move the star to the bottom left", [Statement(Look(shape="star"), Look(cell=6))]),
        ("put a red star at the top edge", [Statement(None, Look(colour="red", shape="star", cell=1))]),
        ("insert a red star somewhere", [Statement(None, Look(colour="red", shape="star"))]),
        ("the background is brick", [Statement(background="brick")]),
        ("without the star, on a brick background", [Statement(Look(shape="star")), Statement(background="brick")]),
        ("the star is gone, then the star is gone", [Statement(Look(shape="star"))]),
        ("add a star, add a star", [Statement(becomes=Look(shape="star"))] * 2),
    ],
)
def test_a_clause_is_read(text: str, wanted: list[Statement]) -> None:
    assert read(text) == tuple(wanted)


@pytest.mark.parametrize(
    "text",
    ["make it nicer", "", "make the red blue circle green", "remove the dog", "remove the star please", "and", "paint"],
)
def test_what_is_no_clause_about_scenes_is_told(text: str) -> None:
    with pytest.raises(Unreadable):
        read(text)
    found = judge(text, SCENE, SCENE)
    assert found.unread and not found.true and not found.complete


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_hand_made_texts_are_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene, sets = draw_sets(rng, 2, vague=0.3)
    for members in sets:
        for member in members:
            if member.edits is not None:
                found = judge(caption(rng, scene, member.edits).text, scene, member.scene)
                assert found.true and found.complete and found.stated == len(member.edits), found


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_all_differences_of_any_two_scenes_are_right_and_a_part_of_them_is_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene, other = random_scene(rng), random_scene(rng)
    edits = difference(scene, other)
    part = edits[: max(1, len(edits) // 2)]
    assert judge(caption(rng, scene, edits).text, scene, other).complete
    found = judge(caption(rng, scene, part).text, scene, other)
    assert found.true and found.missing == len(edits) - len(part)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_text_for_another_target_is_not_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene, ((first, *others),) = draw_sets(rng, 1)
    text = caption(rng, scene, first.edits).text
    for other in others:
        found = judge(text, scene, other.scene)
        assert not (found.true and found.complete)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_the_distance_is_that_of_the_best_of_all_matchings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene, other = random_scene(rng), random_scene(rng)
    one, two = shown(scene), shown(other)
    padded = [*two, *[None] * len(one)]
    best = 99
    for order in permutations(padded, len(one)):
        cost = len(two) - sum(item is not None for item in order)
        for before, after in zip(one, order, strict=True):
            cost += 1 if after is None else sum(getattr(before, n) != getattr(after, n) for n in ATTRIBUTES)
        best = min(best, cost)
    assert distance(scene.background, one, scene.background, two) == best
    assert best + (scene.background != other.background) == len(difference(scene, other))
    assert apply(scene, difference(scene, other)).seen_as == other.seen_as


BLUE = SCENE.change(0, colour="blue")


@pytest.mark.parametrize(
    ("text", "stated", "false", "idle", "missing"),
    [
        ("make the circle blue", 1, 0, 0, 0),
        ("make the circle green", 1, 1, 0, 1),
        ("make the star green", 1, 1, 0, 1),
        ("make the moon blue", 1, 1, 0, 1),
        ("make the object blue", 1, 1, 0, 1),  # which one?
        ("make the circle blue, remove the star", 2, 1, 0, 0),
        ("make the circle blue, add a red moon", 2, 1, 0, 0),
        ("the star is blue now", 1, 0, 1, 1),
        ("make the circle blue. also make the star striped.", 2, 0, 1, 0),
        ("remove the circle, add a small solid blue circle in the top left corner", 2, 0, 0, 0),
        ("remove the circle", 1, 1, 0, 1),
        ("on a sand background", 1, 1, 0, 1),
    ],
)
def test_faults_are_counted(text: str, stated: int, false: int, idle: int, missing: int) -> None:
    found = judge(text, SCENE, BLUE)
    assert (found.stated, found.false, found.idle, found.missing) == (stated, false, idle, missing)


def test_what_an_addition_leaves_open_may_be_anything() -> None:
    item = SceneObject(9, "moon", "white", "large", "dotted", 8)
    target = Scene((*SCENE.objects, item), "grass")
    assert judge("add a white moon", SCENE, target).complete
    assert not judge("add a white moon in the centre", SCENE, target).true
    assert not judge("add a white heart", SCENE, target).true
