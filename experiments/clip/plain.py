"""Scenes that have nothing to do with each other, and one short clause about each: captions as those of the web."""

import numpy as np

from data_modules.scenes.graph import Scene, SceneObject, pick, random_scene
from data_modules.scenes.render import place, render
from data_modules.scenes.wording import article, place_words
from experiments.clip.scenes import Drawn

PLAIN_STREAM = 11  # keeps these scenes apart from those of the benchmark, and from other training scenes


def draw_plain(seed: int, number: int) -> Drawn:
    """Draw a scene: itself, no edits, and its pixels."""
    rng = np.random.default_rng([seed, PLAIN_STREAM, number])
    scene = random_scene(rng)
    return [scene], [None], render(scene, place(scene, rng), rng)[None]


def clause(rng: np.random.Generator, scene: Scene) -> str:
    """Say one thing of a scene: name an object, two of them, an object and the background, or the background."""
    chance = rng.random()
    if chance < 0.1:
        return article(f"{scene.background} background")
    first, second = (scene.objects[i] for i in rng.permutation(len(scene.objects))[:2])
    if chance < 0.45:
        return _name(rng, first, told=0.6)
    if chance < 0.85:
        return f"{_name(rng, first, told=0.3)} and {_name(rng, second, told=0.3)}"
    return f"{_name(rng, first, told=0.5)} on {scene.background}"


def _name(rng: np.random.Generator, item: SceneObject, told: float) -> str:
    """Name an object by colour and shape, and by size, fill and place each with the chance ``told``."""
    words = [word for word in (item.size, item.fill) if rng.random() < told]
    name = article(" ".join([*words, item.colour, item.shape]))
    if rng.random() >= told:
        return name
    preposition, where = place_words(rng, item.cell)
    return f"{name} {preposition} {where}"


def pair_of_objects(rng: np.random.Generator) -> tuple[Scene, SceneObject, SceneObject]:
    """Draw a scene with two objects that differ in colour and in shape, and return these."""
    while True:
        scene = random_scene(rng)
        first, second = pick(rng, scene.objects), pick(rng, scene.objects)
        if first.colour != second.colour and first.shape != second.shape:
            return scene, first, second
