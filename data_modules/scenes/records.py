"""Annotation records of the scenes benchmark, in the formats of CIRR and CIRCO, drawn base by base from a seed."""

from dataclasses import dataclass

import numpy as np

from data_modules.scenes.edits import Add, Edit
from data_modules.scenes.graph import MAX_OBJECTS, Scene, pick, random_object, random_scene
from data_modules.scenes.groups import Member, answers, apply, caption, draw_sets, image_set, kinds
from data_modules.scenes.render import SIDE, Placed, box, place
from data_modules.scenes.wording import describe_object

TRAIN_SETS, EVALUATION_SETS = 2, 4  # queries, each with its own image set, on one reference
VAGUE = 0.2  # share of additions that leave size, fill and place unsaid
# Streams of the random generator; a new split gets a new number, so that the others stay as they are.
STREAMS = {"train": 0, "val": 1, "test": 2, "test_unseen": 3, "circo_val": 4, "circo_test": 5}


@dataclass(frozen=True)
class Picture:
    """An image to be drawn: its name, what it shows, and the seed of its jitter."""

    name: str
    scene: Scene
    seed: tuple[int, ...]

    def place(self) -> tuple[list[Placed], np.random.Generator]:
        """Return the poses of its objects, and the generator that goes on to draw the background."""
        rng = np.random.default_rng([*self.seed, 1])
        return place(self.scene, rng), rng


@dataclass(frozen=True)
class Base:
    """All images of one reference, itself first, and the records of the queries on it."""

    pictures: list[Picture]
    records: list[dict]


def _query(rng: np.random.Generator, reference: Picture, edits: tuple[Edit, ...]) -> dict:
    """Return what a record says of its text: caption, phrases with boxes, number of concepts, kinds of edit."""
    worded = caption(rng, reference.scene, edits)
    boxes = {placed.item.key: box(placed) for placed in reference.place()[0]}
    phrases = [
        {"text": worded.text[p.start : p.end], "start": p.start, "end": p.end, "box": boxes.get(p.key)}
        for p in worded.phrases
    ]
    details = {"phrases": phrases, "image_size": [SIDE, SIDE], "concepts": len(edits), "edits": kinds(edits)}
    return {"caption": worded.text, **details}


def draw_base(seed: int, split: str, number: int) -> Base:
    """Draw a reference with its queries, as CIRR records without ``pairid``.

    In training every member that words can tell is somebody's target, as in CIRR; elsewhere only the target of each
    set is, so that all of a query's hard negatives are of the intended kinds.
    """
    rng = np.random.default_rng([seed, STREAMS[split], number])
    train = split == "train"
    scene, sets = draw_sets(rng, TRAIN_SETS if train else EVALUATION_SETS, VAGUE, unseen=split == "test_unseen")
    flat = [member for members in sets for member in members]
    pictures = [
        Picture(f"{split}-{number}-{i}", shown, (seed, STREAMS[split], number, i))
        for i, shown in enumerate([scene, *(member.scene for member in flat)])
    ]
    reference, others = pictures[0], iter(pictures[1:])
    records = []
    for index, members in enumerate(sets):
        group = [(member, next(others)) for member in members]
        order = [reference.name, *(picture.name for _, picture in group)]
        order = [order[i] for i in rng.permutation(len(order))]  # the target must not stand in a fixed place
        for member, picture in group:
            if member.edits is None or (not train and member.role != "target"):
                continue
            records.append(
                {
                    "reference": reference.name,
                    "target_hard": picture.name,
                    "target_soft": {picture.name: 1.0},
                    **_query(rng, reference, member.edits),
                    "img_set": {"id": number * len(sets) + index, "members": order},
                    "roles": {p.name: m.role for m, p in group if m is not member} if not train else {},
                }
            )
    return Base(pictures, records)


def draw_shared_base(seed: int, split: str, number: int) -> Base:
    """Draw a reference with one query that several images answer, as a CIRCO record without ids.

    One addition leaves size, fill and place unsaid; images that differ only there are all right answers. The record
    names its images by their position in the base.
    """
    rng = np.random.default_rng([seed, STREAMS[f"circo_{split}"], number])
    wanted = 1 + number % 4
    while True:
        scene = random_scene(rng)
        if len(scene.objects) >= MAX_OBJECTS:
            continue
        members = _vague_set(rng, scene, 1 + number % 3)
        if members is None:
            continue
        right = answers(rng, scene, members[0].edits, wanted, unseen=False)
        wrong = [member.scene for member in members[1:]]
        kept = next((o for o in scene.objects if o.key not in {e.key for e in members[0].edits}), None)
        if len(right) == wanted and kept is not None and not {s.seen_as for s in right} & {s.seen_as for s in wrong}:
            break
    stream = (seed, STREAMS[f"circo_{split}"], number)
    pictures = [Picture(str(i), shown, (*stream, i)) for i, shown in enumerate([scene, *right, *wrong])]
    record = _query(rng, pictures[0], members[0].edits)
    record["relative_caption"] = record.pop("caption")
    record["semantic_aspects"] = record.pop("edits")
    answered = list(range(1, 1 + wanted))
    shared = f"has {describe_object(kept)}"
    return Base(
        pictures,
        [{"reference_img_id": 0, "target_img_id": 1, "gt_img_ids": answered, "shared_concept": shared, **record}],
    )


def _vague_set(rng: np.random.Generator, scene: Scene, more: int) -> list[Member] | None:
    """Draw an image set whose first edit is a vague addition, with ``more`` exact edits beside it."""
    addition = Add(200, random_object(rng, 200, pick(rng, scene.free_cells)), ("colour", "shape"))
    if not apply(scene, (addition,)).valid():
        return None
    return image_set(rng, scene, 1 + more, given=(addition,))
