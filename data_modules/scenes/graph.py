"""Scene graphs: what a rendered image holds, before any pixel is drawn."""

from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZES = ("small", "large")
FILLS = ("solid", "striped", "dotted")
BACKGROUNDS = ("sand", "grass", "water", "brick", "paper", "stone")
# Cells of the 3 x 3 layout, row by row; an object keeps to its cell.
PLACES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
MIN_OBJECTS, MAX_OBJECTS = 2, 5

# Colour and shape pairs that no image of train, val or test holds: only `test_unseen` asks for them.
# Each colour and each shape is in exactly one pair, so every word is known and only the combination is new.
UNSEEN = frozenset((colour, SHAPES[(3 * i + 2) % 8]) for i, colour in enumerate(COLOURS))


@dataclass(frozen=True)
class SceneObject:
    """One object; ``key`` follows it through edits, and is no part of what is seen."""

    key: int
    shape: str
    colour: str
    size: str
    fill: str
    cell: int

    @property
    def look(self) -> tuple[str, str, str, str]:
        """All attributes but the place."""
        return self.size, self.fill, self.colour, self.shape

    @property
    def unseen(self) -> bool:
        """Whether its colour and shape never occur together in training."""
        return (self.colour, self.shape) in UNSEEN


@dataclass(frozen=True)
class Scene:
    """Objects on a background."""

    objects: tuple[SceneObject, ...]
    background: str

    def find(self, key: int) -> SceneObject:
        """Return the object with this key."""
        return next(o for o in self.objects if o.key == key)

    def change(self, key: int, **attributes: object) -> "Scene":
        """Return a scene in which one object has other attributes."""
        return replace(self, objects=tuple(replace(o, **attributes) if o.key == key else o for o in self.objects))

    @property
    def seen_as(self) -> tuple[str, frozenset[tuple]]:
        """What can be seen of the scene: two scenes with equal values show the same."""
        return self.background, frozenset((*o.look, o.cell) for o in self.objects)

    @property
    def free_cells(self) -> list[int]:
        """Cells without an object."""
        return sorted(set(range(len(PLACES))) - {o.cell for o in self.objects})

    def valid(self, allow_unseen: bool = False) -> bool:
        """Whether the scene may be drawn: 2 to 5 objects, one to a cell, no two alike, no held-out combination."""
        looks = {o.look for o in self.objects}
        cells = {o.cell for o in self.objects}
        count = len(self.objects)
        if not MIN_OBJECTS <= count <= MAX_OBJECTS or len(looks) < count or len(cells) < count:
            return False
        return allow_unseen or not any(o.unseen for o in self.objects)


def pick(rng: np.random.Generator, options: tuple | list) -> object:
    """Draw one of the options (`Generator.choice` is slow and turns strings into numpy strings)."""
    return options[int(rng.integers(len(options)))]


def pick_other(rng: np.random.Generator, options: tuple, current: object) -> object:
    """Draw one of the options that is not the current one."""
    return pick(rng, [option for option in options if option != current])


def random_object(rng: np.random.Generator, key: int, cell: int) -> SceneObject:
    """Draw an object whose colour and shape occur together in training."""
    while True:
        drawn = SceneObject(key, pick(rng, SHAPES), pick(rng, COLOURS), pick(rng, SIZES), pick(rng, FILLS), cell)
        if not drawn.unseen:
            return drawn


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a valid scene; some objects share attributes, so that a phrase has something to tell apart."""
    while True:
        count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
        cells = rng.permutation(len(PLACES))[:count]
        objects = [random_object(rng, key, int(cell)) for key, cell in enumerate(cells)]
        if rng.random() < 0.5:  # a second object of the first one's shape or colour
            shared = "shape" if rng.random() < 0.5 else "colour"
            objects[1] = replace(objects[1], **{shared: getattr(objects[0], shared)})
        scene = Scene(tuple(objects), pick(rng, BACKGROUNDS))
        if scene.valid():
            return scene
