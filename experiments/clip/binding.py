"""Does a CLIP know which attribute belongs to which object? "a red circle and a blue star" against the exchanged text.

A test of attributes as in ARO (Yuksekgonul et al., ICLR 2023), on scenes drawn for it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from contextcir.encoders.features import ImageFeatures
from data_modules.scenes.graph import Scene, SceneObject
from data_modules.scenes.render import place, render
from data_modules.scenes.wording import article
from experiments.clip.plain import pair_of_objects
from experiments.clip.scenes import normalise

STREAM = 12  # keeps these scenes apart from all others
CASES = 400
CHUNK = 200  # images encoded at a time
ATTRIBUTES = ("colour", "size", "fill")


def _text(first: SceneObject, second: SceneObject, name: str) -> str:
    extra = () if name == "colour" else (name,)
    words = [article(" ".join([*(getattr(o, n) for n in extra), o.colour, o.shape])) for o in (first, second)]
    return " and ".join(words)


def _exchanged(scene: Scene, first: SceneObject, second: SceneObject, name: str) -> tuple[SceneObject, SceneObject]:
    """Return both objects with each other's attribute; they differ in it."""
    return replace(first, **{name: getattr(second, name)}), replace(second, **{name: getattr(first, name)})


@torch.no_grad()
def binding(
    encode_images: Callable[[Tensor], ImageFeatures],
    embed_texts: Callable[[list[str]], Tensor],
    seed: int,
    cases: int = CASES,
) -> dict[str, float]:
    """Return in percent how often the true text is closer to the image than the one with an attribute exchanged.

    Chance is 50. ``encode_images``: preprocessed images (B, 3, S, S). ``embed_texts``: L2-normalised (B, E). A case is
    a new scene with two objects that differ in colour, shape and the attribute; no other object makes the exchanged
    text true.
    """
    figures = {}
    for number, name in enumerate(ATTRIBUTES):
        rng = np.random.default_rng([seed, STREAM, number])
        images, right, wrong = [], [], []
        while len(images) < cases:
            scene, first, second = pair_of_objects(rng)
            if getattr(first, name) == getattr(second, name):
                continue
            changed = _exchanged(scene, first, second, name)
            known = ("colour", "shape") if name == "colour" else (name, "colour", "shape")
            if any(c.unseen for c in changed):
                continue  # in no training image, which alone would make the text improbable
            if any(all(getattr(o, n) == getattr(c, n) for n in known) for o in scene.objects for c in changed):
                continue
            images.append(render(scene, place(scene, rng), rng))
            right.append(_text(first, second, name))
            wrong.append(_text(*changed, name))
        chunks = np.array_split(np.stack(images), -(-cases // CHUNK))
        image = torch.cat([encode_images(normalise(chunk)).embedding for chunk in chunks])
        better = (image * embed_texts(right)).sum(-1) > (image * embed_texts(wrong)).sum(-1)  # (N,)
        figures[name] = round(100 * better.float().mean().item(), 1)
    return figures
