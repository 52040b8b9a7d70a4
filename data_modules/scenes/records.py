"""Annotation records of the scenes benchmark, in the formats of CIRR and CIRCO, drawn base by base from a seed."""

from dataclasses import dataclass

import numpy as np

from data_modules.scenes.answerable import kind_of
from data_modules.scenes.edits import Add, Edit
from data_modules.scenes.graph import MAX_OBJECTS, Scene, pick, random_object, random_scene
from data_modules.scenes.groups import Member, answers, apply, caption, draw_sets, image_set, kinds
from data_modules.scenes.hard import draw_hard_sets
from data_modules.scenes.render import SIDE, Placed, box, place
from data_modules.scenes.wording import Caption, describe_object

TRAIN_SETS, EVALUATION_SETS = 2, 4  # queries, each with its own image set, on one reference
VAGUE = 0.2  # share of additions that leave size, fill and place unsaid
# Streams of the random generator; a new split gets a new number, so that the others stay as they are.
STREAMS = {"train": 0, "val": 1, "test": 2, "test_unseen": 3, "circo_val": 4, "circo_test": 5, "hard": 6}


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

    def kinds(self) -> list[str]:
        """Return what it takes to answer each query of a split in CIRR's format, see `answerable.kind_of`."""
        shown = {picture.name: picture.scene for picture in self.pictures}
        found = []
        for record in self.records:
            reference, target = record["reference"], record["target_hard"]
            others = [shown[name] for name in record["img_set"]["members"] if name not in (reference, target)]
            found.append(kind_of(record["caption"], shown[reference], shown[target], others))
        return found


def _query(reference: Picture, edits: tuple[Edit, ...], worded: Caption) -> dict:
    """Return what a record says of its text: caption, phrases with boxes, number of concepts, kinds of edit."""
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
    texts: list[Caption] = []  # of the queries, where they are worded already
    if split == "hard":
        scene, drawn = draw_hard_sets(rng, EVALUATION_SETS)
        sets, texts = [members for members, _ in drawn], [worded for _, worded in drawn]
    else:
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
            worded = texts[index] if texts else caption(rng, scene, member.edits)
            records.append(
                {
                    "reference": reference.name,
                    "target_hard": picture.name,
                    "target_soft": {picture.name: 1.0},
                    **_query(reference, member.edits, worded),
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
    record = _query(pictures[0], members[0].edits, caption(rng, scene, members[0].edits))
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
