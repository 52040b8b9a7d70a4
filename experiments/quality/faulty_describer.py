"""A describer of scenes that makes faults at given rates, so that a score of what it says can be checked."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from contextcir.synthesis.stages import seed_of
from data_modules.scenes.describer import SceneDescriber, SceneGraphs
from data_modules.scenes.graph import COLOURS, Scene, pick, pick_other, random_object

FREE = 1000  # key of an object that is not there


@dataclass(frozen=True)
class Rates:
    """Shares of target images that are seen wrongly; at most one fault each.

    Args:
        swapped: Two objects have each other's colour; where all have the same one, one object has another.
        invented: There is an object more.
        left_out: There is an object less.
    """

    swapped: float = 0.0
    invented: float = 0.0
    left_out: float = 0.0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0 or sum(asdict(self).values()) > 1:
            raise ValueError(f"--model.rates must not be negative, or above 1 together, got {asdict(self)}")


class FaultyDescriber(SceneDescriber):
    """Describes references as they are, and targets with faults: the same ones in each of its answers on an image.

    Args:
        root: of the benchmark.
        rates: how often.
        seed: of the faults.
    """

    name = "faulty-scene-graphs"

    def __init__(self, root: Path, rates: Rates = Rates(), seed: int = 0) -> None:
        super().__init__(root)
        self.targets = FaultyGraphs(root, rates, seed)

    def target(self, path: str) -> Scene:
        """Return what the second image of a pair is taken to show."""
        return self.targets.find(path)


class FaultyGraphs(SceneGraphs):
    """What images show, with faults; see `FaultyDescriber`."""

    def __init__(self, root: Path, rates: Rates, seed: int) -> None:
        super().__init__(root)
        self.rates = rates
        self.seed = seed

    def find(self, path: str) -> Scene:
        """Return what an image is taken to show."""
        scene = super().find(path)
        rng = np.random.default_rng(seed_of(self.seed, "faults", path))
        drawn = rng.random()
        for name, rate in asdict(self.rates).items():
            if drawn < rate:
                return FAULTS[name](rng, scene)
            drawn -= rate
        return scene


def swap_colours(rng: np.random.Generator, scene: Scene) -> Scene:
    """Give two objects each other's colour."""
    first = pick(rng, scene.objects)
    others = [item for item in scene.objects if item.colour != first.colour]
    if not others:
        return scene.change(first.key, colour=pick_other(rng, COLOURS, first.colour))
    second = pick(rng, others)
    return scene.change(first.key, colour=second.colour).change(second.key, colour=first.colour)


def invent(rng: np.random.Generator, scene: Scene) -> Scene:
    """Add an object."""
    return replace(scene, objects=(*scene.objects, random_object(rng, FREE, pick(rng, scene.free_cells))))


def leave_out(rng: np.random.Generator, scene: Scene) -> Scene:
    """Take an object away."""
    gone = pick(rng, scene.objects)
    return replace(scene, objects=tuple(item for item in scene.objects if item is not gone))


FAULTS: dict[str, Callable[[np.random.Generator, Scene], Scene]] = {
    "swapped": swap_colours,
    "invented": invent,
    "left_out": leave_out,
}
