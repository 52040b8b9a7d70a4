"""A model for scenes that knows instead of looking: it draws their graphs again from the seed of the benchmark.

`difference` gives the fewest edits between two scenes, which the describer words in the grammar of the benchmark.
"""

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import lru_cache
from itertools import combinations, permutations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.synthesis.models.base import Answer, Request, VisionLanguageModel
from data_modules.scenes.edits import Add, ChangeBackground, Edit, Move, Recolour, Refill, Remove, Reshape, Resize
from data_modules.scenes.graph import PLACES, Scene, SceneObject
from data_modules.scenes.groups import caption
from data_modules.scenes.records import STREAMS, Base, draw_base, draw_shared_base
from data_modules.scenes.wording import Caption
from data_modules.scenes.writer import STATE, VERSION, VERSIONS

ATTRIBUTES = (Recolour, Reshape, Resize, Refill)
ADDED = 100  # keys of added objects begin here, as in `groups.random_edit`
NAME = re.compile(r"(train|val|test|test_unseen|hard)-(\d+)-(\d+)")
SHARED_NAME = re.compile(r"\d{12}")
BASES = 4096  # drawn bases in the cache
Matching = tuple[tuple[SceneObject, SceneObject], ...]


def difference(reference: Scene, target: Scene) -> tuple[Edit, ...]:
    """Return the fewest edits of ``reference`` that lead to what ``target`` shows.

    Keys of the target are ignored, so that scenes may have different bases. Of equally few edits, those win that change
    objects instead of replacing them, and those that keep objects in their place.
    """
    matching = min(_matchings(reference, target), key=lambda pairs: _cost(reference, target, pairs))
    edits: list[Edit] = []
    if reference.background != target.background:
        edits.append(ChangeBackground(-1, target.background))
    for before, after in matching:
        edits += _changes(before, after)
    kept = {before.key for before, _ in matching}
    edits += [Remove(item.key) for item in reference.objects if item.key not in kept]
    made = [after for _, after in matching]
    added = [item for item in target.objects if not any(item is other for other in made)]
    for number, item in enumerate(added):
        key = ADDED + number
        edits.append(Add(key, SceneObject(key, item.shape, item.colour, item.size, item.fill, item.cell)))
    return tuple(edits)


def _changes(before: SceneObject, after: SceneObject) -> list[Edit]:
    """Return the edits of one object."""
    edits: list[Edit] = [
        kind(before.key, getattr(after, kind.name))
        for kind in ATTRIBUTES
        if getattr(before, kind.name) != getattr(after, kind.name)
    ]
    return edits + ([Move(before.key, after.cell)] if before.cell != after.cell else [])


def _matchings(reference: Scene, target: Scene) -> Iterator[Matching]:
    """Yield all matchings of objects of the reference with objects of the target; a scene has at most five."""
    for count in range(min(len(reference.objects), len(target.objects)) + 1):
        for chosen in combinations(reference.objects, count):
            for others in permutations(target.objects, count):
                pairs = tuple(zip(chosen, others, strict=True))
                # an object with more than two changed attributes counts as another object
                if all(len(_changes(before, after)) <= 2 for before, after in pairs):
                    yield pairs


def _cost(reference: Scene, target: Scene, pairs: Matching) -> tuple[int, int, int]:
    changed = sum(len(_changes(before, after)) for before, after in pairs)
    replaced = len(reference.objects) + len(target.objects) - 2 * len(pairs)
    moved = sum(before.cell != after.cell for before, after in pairs)
    return changed + replaced, replaced, moved


class SceneGraphs:
    """The graphs of the images of a drawn benchmark.

    Only its seed is read: what an image shows follows from the seed and the name of the image.

    Args:
        root: of the benchmark.

    Raises (from `find`):
        MissingFileError: if there is no benchmark.
        InputError: if it was drawn by another version, or a path is that of no image of it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        self._seed: int | None = None
        self._base = lru_cache(BASES)(self._draw)

    def find(self, path: str) -> Scene:
        """Return what an image shows, by its path or name."""
        stem = PurePosixPath(path).stem
        named, shared = NAME.fullmatch(stem), SHARED_NAME.fullmatch(stem)
        if named:
            split, number, index = named[1], int(named[2]), int(named[3])
        elif shared and int(stem) // 1_000_000 in (1, 2):  # `coco_id`
            split = f"circo_{('val', 'test')[int(stem) // 1_000_000 - 1]}"
            number, index = divmod(int(stem) % 1_000_000, 100)
        else:
            raise InputError(f"{path!r} is no image of the scenes in {self.root}", setting="model.root")
        pictures = self._base(split, number).pictures
        if index >= len(pictures):
            raise InputError(
                f"{path!r} is no image of the scenes in {self.root}: base {number} has {len(pictures)}",
                setting="model.root",
            )
        return pictures[index].scene

    def _draw(self, split: str, number: int) -> Base:
        if split not in STREAMS:
            raise InputError(f"no split {shown(split)} of scenes", setting="split")
        if split.startswith("circo_"):
            return draw_shared_base(self._known_seed(), split.removeprefix("circo_"), number)
        return draw_base(self._known_seed(), split, number)

    def _known_seed(self) -> int:
        if self._seed is None:
            path = self.root / STATE
            if not path.is_file():
                raise MissingFileError(
                    f"no file {path}: draw scenes there with `python -m experiments.scenes`", setting="model.root"
                )
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["version"] not in VERSIONS:
                raise InputError(f"is of version {state['version']}, not {VERSION}: draw the scenes again", file=path)
            self._seed = state["seed"]
        return self._seed


class SceneDescriber(VisionLanguageModel):
    """Describes scenes without an error, and words their differences in the grammar of the benchmark.

    Styles are those of the grammar; a text has at most as many changes as the scenes.

    Args:
        root: of the benchmark.
    """

    name = "scene-graphs"

    def __init__(self, root: str | Path) -> None:
        self.graphs = SceneGraphs(root)

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        for request in requests:
            context = request.context
            if context["stage"] == "instruct":
                content = texts(request, self.reference(context["pair"].reference), self.target(context["pair"].target))
            elif context["stage"] == "describe":
                content = objects(self.target(context["image"]))
            else:
                content = objects(self.reference(context["image"]))
            yield Answer(request.key, content, model=f"{self.name}-{VERSIONS[0]}", usage={"requests": 1})

    def reference(self, path: str) -> Scene:
        """Return what is on the first image of a pair."""
        return self.graphs.find(path)

    def target(self, path: str) -> Scene:
        """Return what is on the second image of a pair."""
        return self.graphs.find(path)


def objects(scene: Scene) -> dict[str, Any]:
    """Return the description of a scene by the schema `describe.OBJECTS`."""
    items = [{"object": item.shape, "descriptors": descriptors(item)} for item in scene.objects]
    return {"objects": [*items, {"object": "background", "descriptors": [scene.background]}]}


def texts(request: Request, reference: Scene, target: Scene) -> dict[str, Any]:
    """Return the texts of a request by the schema `instruct.TEXTS`."""
    rng = np.random.default_rng(request.seed)
    edits = difference(reference, target)
    answers = []
    for text in request.context["plan"]:
        count = len(edits) if text["concepts"] is None else min(text["concepts"], len(edits))
        chosen = tuple(edits[i] for i in rng.permutation(len(edits))[:count])
        if chosen:
            changes = [_words(rng, reference, edit) for edit in chosen]
            answers.append({"caption": caption(rng, reference, chosen).text, "changes": changes})
    return {"texts": answers}


def descriptors(item: SceneObject) -> list[str]:
    """Return the descriptors of an object, its place last; equal looks have equal words."""
    name = PLACES[item.cell]
    if name == "centre":
        place = "in the centre"
    elif " " in name:
        place = f"in the {name} corner"
    elif name in ("left", "right"):
        place = f"on the {name} side"
    else:
        place = f"at the {name} edge"
    return [item.size, item.fill, item.colour, place]


def _words(rng: np.random.Generator, scene: Scene, edit: Edit) -> str:
    words = Caption()
    edit.say(rng, scene, words)
    return words.text
