"""Scenes with descriptions to train the small CLIP on, drawn by the generator of the scenes benchmark."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from contextcir.processors import leave_interrupts_to_parent
from data_modules.scenes.edits import Edit, Refill, Reshape
from data_modules.scenes.graph import Scene, pick, pick_other, random_scene
from data_modules.scenes.groups import caption, draw_sets
from data_modules.scenes.render import SIDE, place, render
from data_modules.scenes.wording import describe

STREAM, LOOKS_STREAM = 9, 10  # keep these scenes apart from those of the benchmark, numbered from 0
IMAGES_PER_BASE = 11  # a reference and two sets of five
LONGEST = 75  # words and punctuation marks of a story, to fit into CLIP's 77 tokens with start and end of text


class Pairs(NamedTuple):
    """A batch: preprocessed images (B, 3, S, S), B descriptions, B scenes."""

    images: Tensor
    texts: list[str]
    scenes: list[Scene]


@dataclass
class Pool:
    """Rendered scenes: ``images`` uint8 (N, SIDE, SIDE, 3), the `IMAGES_PER_BASE` rows of a base together."""

    images: np.ndarray
    scenes: list[Scene]
    edits: list[tuple[Edit, ...] | None]

    def batch(self, rng: np.random.Generator, size: int, per_base: int, stories: float) -> Pairs:
        """Draw images, ``per_base`` of each base, with new descriptions. ``stories``: share of stories."""
        bases = rng.choice(len(self.scenes) // IMAGES_PER_BASE, size // per_base, replace=False)
        rows = [b * IMAGES_PER_BASE + i for b in bases for i in rng.permutation(IMAGES_PER_BASE)[:per_base]]
        texts = [self.story(rng, row) if rng.random() < stories else describe(rng, self.scenes[row]) for row in rows]
        return Pairs(normalise(self.images[rows]), texts, [self.scenes[row] for row in rows])

    def story(self, rng: np.random.Generator, row: int) -> str:
        """Describe an image by its reference, and by how it differs from it."""
        reference = self.scenes[row - row % IMAGES_PER_BASE]
        if self.edits[row] is None:  # the reference itself, or an image without a caption of edits
            return describe(rng, self.scenes[row])
        text = f"{describe(rng, reference, omit=0.0)}. {caption(rng, reference, self.edits[row]).text}"
        # Every word and mark is one token; a truncated story would be a wrong description.
        return text if len(re.findall(r"\w+|[^\w\s]", text)) <= LONGEST else describe(rng, self.scenes[row])


def normalise(images: np.ndarray) -> Tensor:
    """Preprocess uint8 images (B, S, S, 3) as the model does: float32 (B, 3, S, S)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(0.5).div_(0.25)  # (B, 3, S, S)


Drawn = tuple[list[Scene], list[tuple[Edit, ...] | None], np.ndarray]


def draw_edited(seed: int, number: int) -> Drawn:
    """Draw a reference and two image sets like the benchmark's: scenes, the edits that lead to them, pixels."""
    rng = np.random.default_rng([seed, STREAM, number])
    reference, sets = draw_sets(rng, 2)
    members = [member for members in sets for member in members]
    return _rendered(rng, [reference, *(m.scene for m in members)], [None, *(m.edits for m in members)])


def draw_looks(seed: int, number: int) -> Drawn:
    """Draw a reference and ten scenes that differ from it in the shape or fill of one object."""
    rng = np.random.default_rng([seed, LOOKS_STREAM, number])
    reference = random_scene(rng)
    scenes: list[Scene] = [reference]
    edits: list[tuple[Edit, ...] | None] = [None]
    while len(scenes) < IMAGES_PER_BASE:
        item, kind = pick(rng, reference.objects), pick(rng, (Reshape, Reshape, Refill))
        edit = kind(item.key, pick_other(rng, kind.options, getattr(item, kind.name)))
        scene = edit.apply(reference)
        if scene.valid() and scene not in scenes:
            scenes.append(scene)
            edits.append((edit,))
    return _rendered(rng, scenes, edits)


def _rendered(rng: np.random.Generator, scenes: list[Scene], edits: list[tuple[Edit, ...] | None]) -> Drawn:
    return scenes, edits, np.stack([render(scene, place(scene, rng), rng) for scene in scenes])


def make_pool(
    draw: Callable[[int, int], Drawn], seed: int, first: int, bases: int, workers: int, each: int = IMAGES_PER_BASE
) -> Pool:
    """Draw and render scenes, ``each`` of a base, in worker processes; the result does not depend on their number."""
    images = np.empty((bases * each, SIDE, SIDE, 3), np.uint8)
    scenes: list[Scene] = []
    edits: list[tuple[Edit, ...] | None] = []
    with get_context("fork").Pool(workers, leave_interrupts_to_parent) as pool:
        for drawn, changes, pixels in pool.imap(partial(draw, seed), range(first, first + bases), chunksize=64):
            images[len(scenes) : len(scenes) + len(drawn)] = pixels
            scenes += drawn
            edits += changes
    return Pool(images, scenes, edits)
