"""The scenes benchmark: what it promises of its queries, its negatives and its words."""

import numpy as np
import pytest

from contextcir.encoders.text import Tokenizer
from data_modules.scenes.graph import SHAPES, UNSEEN, Scene, SceneObject, random_scene
from data_modules.scenes.groups import apply, caption, draw_sets
from data_modules.scenes.records import draw_base, draw_shared_base
from data_modules.scenes.render import box, place, render
from data_modules.scenes.wording import describe, refer


def test_every_image_holds_two_to_five_different_objects_in_cells_of_their_own() -> None:
    for number in range(60):
        for picture in (
            draw_base(0, "test_unseen", number % 20).pictures if number < 20 else draw_base(0, "val", number).pictures
        ):
            objects = picture.scene.objects
            assert 2 <= len(objects) <= 5
            assert len({o.cell for o in objects}) == len({o.look for o in objects}) == len(objects)


def test_phrases_stand_in_the_caption_and_name_exactly_one_object() -> None:
    tokenizer = Tokenizer("ViT-B-32")
    for number in range(40):
        rng = np.random.default_rng(number)
        scene, sets = draw_sets(rng, 4, vague=0.3)
        for members in sets:
            worded = caption(rng, scene, members[0].edits)
            assert tokenizer.clean(worded.text) == worded.text, "spans would not hold in what the tokenizer sees"
            named = [p for p in worded.phrases if p.key is not None]
            for phrase in named:
                words = set(worded.text[phrase.start : phrase.end].split()) - {"the", "object", "shape"}
                fitting = [o.key for o in scene.objects if words <= set(o.look)]
                assert fitting == [phrase.key], worded.text
            edited = {edit.key for edit in members[0].edits} & {o.key for o in scene.objects}
            assert {p.key for p in named} == edited


def test_referring_phrases_say_no_more_than_is_needed() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = random_scene(rng)
        for item in scene.objects:
            words = [w for w in refer(rng, scene, item).split()[1:] if w not in ("object", "shape")]
            for dropped in words:
                rest = set(words) - {dropped}
                if dropped in SHAPES and len(words) == 1:
                    continue
                fitting = [o for o in scene.objects if rest <= set(o.look)]
                # "the red circle" may keep its noun where "the red object" would do: that is how people speak
                assert len(fitting) > 1 or dropped in SHAPES, (words, dropped)


def test_hard_negatives_are_what_their_roles_say() -> None:
    roles = set()
    for number in range(60):
        rng = np.random.default_rng(number)
        scene, sets = draw_sets(rng, 4)
        for target, *negatives in sets:
            edits, seen = set(target.edits), {scene.seen_as, target.scene.seen_as}
            assert len(negatives) == 4
            for negative in negatives:
                assert negative.scene.seen_as not in seen, "two images of a set show the same"
                seen.add(negative.scene.seen_as)
                roles.add(negative.role)
                if negative.edits is not None:
                    assert apply(scene, negative.edits) == negative.scene
                if negative.role == "partial":
                    assert set(negative.edits) < edits
                    assert negative.edits
                if negative.role == "wrong object":
                    (asked,), (done,) = edits - set(negative.edits), set(negative.edits) - edits
                    assert asked.kind == done.kind
                    assert done.key not in {edit.key for edit in edits}
            kinds = {negative.role for negative in negatives}
            assert {"wrong object", "swapped"} <= kinds
            assert "partial" in kinds or len(edits) == 1
    assert roles == {"partial", "wrong object", "swapped", "wrong value", "extra"}


def test_swapped_negatives_hold_the_same_attribute_words_in_other_places() -> None:
    for number in range(40):
        _scene, sets = draw_sets(np.random.default_rng(number), 4)
        for target, *negatives in sets:
            swapped = next(n for n in negatives if n.role == "swapped")
            if swapped.edits is None:

                def values(shown: Scene, name: str) -> list[str]:
                    return sorted(getattr(o, name) for o in shown.objects)

                for name in ("colour", "shape", "fill", "size"):
                    assert values(swapped.scene, name) == values(target.scene, name)


def test_unseen_combinations_are_in_every_target_of_test_unseen_and_nowhere_else() -> None:
    assert len(UNSEEN) == len({c for c, _ in UNSEEN}) == len({s for _, s in UNSEEN}) == 8
    for split in ("train", "val", "test"):
        for number in range(15):
            assert not any(o.unseen for p in draw_base(0, split, number).pictures for o in p.scene.objects)
    for number in range(10):
        base = draw_base(0, "test_unseen", number)
        shown = {p.name: p.scene for p in base.pictures}
        assert not any(o.unseen for o in shown[base.records[0]["reference"]].objects)
        assert all(any(o.unseen for o in shown[r["target_hard"]].objects) for r in base.records)


def test_the_place_of_the_target_in_its_set_tells_nothing() -> None:
    places = [
        r["img_set"]["members"].index(r["target_hard"]) for n in range(60) for r in draw_base(0, "val", n).records
    ]
    assert max(np.bincount(places, minlength=6)) < 0.3 * len(places)


def test_boxes_hold_their_objects() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        scene = random_scene(rng)
        for number, spot in enumerate(place(scene, rng)):
            only = Scene(scene.objects[number : number + 1], scene.background)
            with_object = render(only, [spot], np.random.default_rng(5)).astype(int)
            without = render(only, [], np.random.default_rng(5)).astype(int)
            changed = abs(with_object - without).sum(-1) > 60
            x0, y0, x1, y1 = box(spot)
            around = changed[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1].sum()  # half-covered pixels stand out
            assert around == changed.sum()
            assert around > 0.25 * (x1 - x0) * (y1 - y0), "the box is much too large"


def test_circo_style_queries_have_several_right_answers_that_fit_the_words() -> None:
    counts = set()
    for number in range(24):
        base = draw_shared_base(0, "val", number)
        record = base.records[0]
        counts.add(len(record["gt_img_ids"]))
        looks = [base.pictures[i].scene.seen_as for i in range(len(base.pictures))]
        assert len(set(looks)) == len(looks)
        added = (p["text"].split() for p in record["phrases"] if p["box"] is None)
        colour, shape = next(words[1:] for words in added if len(words) == 3 and words[2] in SHAPES)
        for index in record["gt_img_ids"]:
            new = [o for o in base.pictures[index].scene.objects if o.key >= 100]
            assert (colour, shape) in {(o.colour, o.shape) for o in new}
    assert counts == {1, 2, 3, 4}


def test_descriptions_name_every_object_by_colour_and_shape() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        scene = random_scene(rng)
        text = describe(rng, scene, omit=0.5)
        assert all(f"{o.colour} {o.shape}" in text for o in scene.objects)
        assert scene.background in text


def test_two_objects_that_look_alike_cannot_be_told_apart_by_words() -> None:
    twin = SceneObject(0, "circle", "red", "small", "solid", 0)
    scene = Scene((twin, SceneObject(1, "circle", "red", "small", "solid", 1)), "sand")
    with pytest.raises(ValueError, match="look alike"):
        refer(np.random.default_rng(0), scene, twin)
