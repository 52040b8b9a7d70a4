"""Edits: how a target differs from its reference, and how that is said."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data_modules.scenes.graph import (
    BACKGROUNDS,
    COLOURS,
    FILLS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    pick,
    pick_other,
    random_object,
)  # fmt: skip
from data_modules.scenes.wording import Caption, article, place_words, refer


@dataclass(frozen=True)
class Edit(ABC):
    """One change of one thing. ``key`` is the object it concerns; an added object has a key of its own."""

    key: int
    kind: ClassVar[str]

    @abstractmethod
    def apply(self, scene: Scene) -> Scene:
        """Return the changed scene."""

    @abstractmethod
    def say(self, rng: np.random.Generator, scene: Scene, caption: Caption) -> None:
        """Append the clause that asks for this edit of the reference ``scene``."""

    @abstractmethod
    def wrong_value(self, rng: np.random.Generator, scene: Scene) -> "Edit":
        """Return the same kind of edit of the same thing with another outcome."""

    def onto(self, rng: np.random.Generator, key: int) -> "Edit | None":
        """Return this edit asked of another object, or None where that makes no sense."""
        return None


@dataclass(frozen=True)
class AttributeEdit(Edit):
    """Give an object another value of one attribute."""

    value: str
    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]]
    wordings: ClassVar[tuple[str, ...]]

    def apply(self, scene: Scene) -> Scene:
        return scene.change(self.key, **{self.name: self.value})

    def wrong_value(self, rng: np.random.Generator, scene: Scene) -> Edit:
        current = getattr(scene.find(self.key), self.name)
        rest = [option for option in self.options if option not in (current, self.value)]
        if rest:
            return type(self)(self.key, pick(rng, rest))
        return Recolour(self.key, pick_other(rng, COLOURS, scene.find(self.key).colour))  # there are but two sizes

    def onto(self, rng: np.random.Generator, key: int) -> Edit:
        return type(self)(key, self.value)

    def say(self, rng: np.random.Generator, scene: Scene, caption: Caption) -> None:
        words = refer(rng, scene, scene.find(self.key))
        caption.say(pick(rng, self.wordings).replace("<v>", self.value), o=(words, self.key))


class Recolour(AttributeEdit):
    """Change an object's colour."""

    kind, name, options = "recolour", "colour", COLOURS
    wordings = (
        "make {o} <v>", "change {o} to <v>", "turn {o} <v>", "paint {o} <v>", "{o} should be <v>",
        "{o} is <v> now", "colour {o} <v>", "{o} becomes <v>", "recolour {o} in <v>",
    )  # fmt: skip


class Refill(AttributeEdit):
    """Change how an object is filled."""

    kind, name, options = "refill", "fill", FILLS
    wordings = (
        "make {o} <v>", "fill {o} so that it is <v>", "{o} should be <v>", "{o} is <v> now", "change {o} to <v>",
        "{o} becomes <v>", "give {o} a <v> fill",
    )  # fmt: skip


class Resize(AttributeEdit):
    """Change an object's size."""

    kind, name, options = "resize", "size", SIZES
    wordings = ("make {o} <v>", "{o} should be <v>", "change {o} to <v>", "{o} is <v> now")
    _verbs: ClassVar[dict[str, tuple[str, ...]]] = {
        "small": ("shrink {o}", "make {o} smaller", "scale {o} down", "reduce {o}"),
        "large": ("enlarge {o}", "make {o} bigger", "make {o} larger", "scale {o} up"),
    }

    def say(self, rng: np.random.Generator, scene: Scene, caption: Caption) -> None:
        words = refer(rng, scene, scene.find(self.key))
        template = pick(rng, self.wordings + self._verbs[self.value]).replace("<v>", self.value)
        caption.say(template, o=(words, self.key))


class Reshape(AttributeEdit):
    """Change an object's shape."""

    kind, name, options = "reshape", "shape", SHAPES
    wordings = (
        "turn {o} into {n}", "replace {o} with {n}", "change {o} to {n}", "{o} should be {n}", "make {o} {n}",
        "{n} instead of {o}", "swap {o} for {n}",
    )  # fmt: skip

    def say(self, rng: np.random.Generator, scene: Scene, caption: Caption) -> None:
        words = refer(rng, scene, scene.find(self.key))
        caption.say(pick(rng, self.wordings), o=(words, self.key), n=(article(self.value), None))


@dataclass(frozen=True)
class Move(Edit):
    """Put an object into another, free cell."""

    cell: int
    kind = "move"

    def apply(self, scene: Scene) -> Scene:
        return scene.change(self.key, cell=self.cell)

    def wrong_value(self, rng: np.random.Generator, scene: Scene) -> Edit:
        return Move(self.key, pick_other(rng, tuple(scene.free_cells), self.cell))

    def onto(self, rng: np.random.Generator, key: int) -> Edit:
        return Move(key, self.cell)

    def say(self, rng: np.random.Generator, scene: Scene, caption: Caption) -> None:
        words = (refer(rng, scene, scene.find(self.key)), self.key)
        template = pick(
            rng, ("move {o} <p> {place}", "shift {o} <p> {place}", "put {o} <p> {place}", "{o} is <p> {place} now")
        )
        motion = template.startswith(("move", "shift"))
        preposition, place = place_words(rng, self.cell, motion=motion)
        caption.say(template.replace("<p>", preposition), o=words, place=(place, None))


@dataclass(frozen=True)
class Remove(Edit):
    """Take an object away."""

    kind = "remove"

    def apply(self, scene: Scene) -> Scene:
        return Scene(tuple(o for o in scene.objects if o.key != self.key), scene.background)

    def wrong_value(self, rng: np.random.Generator, scene: Scene) -> Edit:
        return Recolour(self.key, pick_other(rng, COLOURS, scene.find(self.key).colour))

    def onto(self, rng: np.random.Generator, key: int) -> Edit:
        return Remove(key)

    def say(self, rng: np.random.Generator, scene: Scene, caption: Caption) -> None:
        words = refer(rng, scene, scene.find(self.key))
        templates = (
            "remove {o}",
            "delete {o}",
            "take away {o}",
            "get rid of {o}",
            "without {o}",
            "{o} is gone",
            "erase {o}",
        )
        caption.say(pick(rng, templates), o=(words, self.key))


@dataclass(frozen=True)
class Add(Edit):
    """Put a new object into a free cell. ``stated`` names the attributes that the caption tells, place included."""

    item: SceneObject
    stated: tuple[str, ...] = ("size", "fill", "colour", "shape", "cell")
    kind = "add"

    def apply(self, scene: Scene) -> Scene:
        return Scene((*scene.objects, self.item), scene.background)

    def wrong_value(self, rng: np.random.Generator, scene: Scene) -> Edit:
        # Colour and shape are always stated, so another one is wrong whatever else goes unsaid.
        name, options = pick(rng, (("colour", COLOURS), ("shape", SHAPES)))
        values = {**self.item.__dict__, name: pick_other(rng, options, getattr(self.item, name))}
        return Add(self.key, SceneObject(**values), self.stated)

    def another(self, rng: np.random.Generator, scene: Scene) -> "Add":
        """Return an edit that answers the same words: what goes unsaid may differ."""
        drawn = random_object(rng, self.key, pick(rng, scene.free_cells))
        kept = {name: getattr(self.item, name) for name in self.stated}
        return Add(self.key, SceneObject(**{**drawn.__dict__, **kept}), self.stated)

    def say(self, rng: np.random.Generator, scene: Scene, caption: Caption) -> None:
        words = article(
            " ".join(getattr(self.item, name) for name in ("size", "fill", "colour", "shape") if name in self.stated)
        )
        verb = pick(rng, ("add {n}", "put {n}", "place {n}", "there should be {n}", "insert {n}", "draw {n}"))
        if "cell" not in self.stated:
            caption.say(verb + pick(rng, ("", " somewhere")), n=(words, None))
            return
        preposition, place = place_words(rng, self.item.cell)
        caption.say(f"{verb} {preposition} {{place}}", n=(words, None), place=(place, None))


@dataclass(frozen=True)
class ChangeBackground(Edit):
    """Change the background; its key is -1, no object's."""

    background: str
    kind = "background"

    def apply(self, scene: Scene) -> Scene:
        return Scene(scene.objects, self.background)

    def wrong_value(self, rng: np.random.Generator, scene: Scene) -> Edit:
        rest = [b for b in BACKGROUNDS if b not in (scene.background, self.background)]
        return ChangeBackground(-1, pick(rng, rest))

    def say(self, rng: np.random.Generator, scene: Scene, caption: Caption) -> None:
        templates = (
            "change {b} to <v>", "{b} is <v>", "on {v}", "with {v}", "make {b} <v>", "use {v}", "{b} should be <v>",
        )  # fmt: skip
        value = (article(f"{self.background} background"), None)
        caption.say(pick(rng, templates).replace("<v>", self.background), b=("the background", None), v=value)
