"""A describer of scenes with faults at given rates, by which the scores of texts can be checked."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from contextcir.checks import between
from contextcir.errors import InputError
from contextcir.synthesis.request_stage import seed_of
from data_modules.scenes.describer import SceneDescriber, SceneGraphs
from data_modules.scenes.graph import COLOURS, Scene, pick, pick_other, random_object

INVENTED = 1000  # key of an invented object


@dataclass(frozen=True)
class Rates:
    """Shares of target images with a fault; an image has at most one.

    Args:
        swapped: Two objects exchange their colours; where all have the same one, one object gets another.
        invented: There is one object too many.
        left_out: One object is missing.
    """

    swapped: float = 0.0
    invented: float = 0.0
    left_out: float = 0.0

    def __post_init__(self) -> None:
        for name, rate in asdict(self).items():
            between(rate, 0, 1, f"model.rates.{name}")
        if sum(asdict(self).values()) > 1:
            raise InputError(f"expected at most 1 together, got {asdict(self)}", setting="model.rates")


class FaultyDescriber(SceneDescriber):
    """Describes references correctly, and targets with faults, which are the same in all answers about an image.

    Args:
        root: of the benchmark.
        rates: of the faults.
        seed: of the faults.
    """

    name = "faulty-scene-graphs"

    def __init__(self, root: Path, rates: Rates = Rates(), seed: int = 0) -> None:
        super().__init__(root)
        self.targets = FaultyGraphs(root, rates, seed)

    def target(self, path: str) -> Scene:
        """Return the scene that the second image of a pair is described as."""
        return self.targets.find(path)


class FaultyGraphs(SceneGraphs):
    """The graphs of images with the faults of a `FaultyDescriber`."""

    def __init__(self, root: Path, rates: Rates, seed: int) -> None:
        super().__init__(root)
        self.rates = rates
        self.seed = seed

    def find(self, path: str) -> Scene:
        """Return the scene that an image is described as."""
        scene = super().find(path)
        rng = np.random.default_rng(seed_of(self.seed, "faults", path))
        drawn = rng.random()
        for name, rate in asdict(self.rates).items():
            if drawn < rate:
                return FAULTS[name](rng, scene)
            drawn -= rate
        return scene


def swap_colours(rng: np.random.Generator, scene: Scene) -> Scene:
    """Exchange the colours of two objects."""
    first = pick(rng, scene.objects)
    others = [item for item in scene.objects if item.colour != first.colour]
    if not others:
        return scene.change(first.key, colour=pick_other(rng, COLOURS, first.colour))
    second = pick(rng, others)
    return scene.change(first.key, colour=second.colour).change(second.key, colour=first.colour)


def invent(rng: np.random.Generator, scene: Scene) -> Scene:
    """Add an object."""
    return replace(scene, objects=(*scene.objects, random_object(rng, INVENTED, pick(rng, scene.free_cells))))


def leave_out(rng: np.random.Generator, scene: Scene) -> Scene:
    """Remove an object."""
    gone = pick(rng, scene.objects)
    return replace(scene, objects=tuple(item for item in scene.objects if item is not gone))


FAULTS: dict[str, Callable[[np.random.Generator, Scene], Scene]] = {
    "swapped": swap_colours,
    "invented": invent,
    "left_out": leave_out,
}
