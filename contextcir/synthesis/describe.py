"""Describe: what is on the reference of each pair, then on the target, in the same words for what looks the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextcir.synthesis.models.base import Answer, Request
from contextcir.synthesis.prompts import Prompt, load_prompt
from contextcir.synthesis.records import Description, Pair, Stored
from contextcir.synthesis.stages import Item, Stage, Unusable, provenance, read_objects, seed_of
from contextcir.synthesis.store import Lookup, read_stage

OBJECTS = {
    "type": "object",
    "properties": {
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "object": {"type": "string"},
                    "descriptors": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["object", "descriptors"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["objects"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Seen(Stored):
    """What is on an image that is a reference: described once, however many pairs it is in. ``key``: its path."""

    key: str
    objects: tuple[dict[str, Any], ...]
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DescribeSettings:
    """How images are described.

    Args:
        objects: How many things are listed at most.
        reference_prompt: Prompt file in place of the one that comes along.
        target_prompt: Likewise, for the second image of a pair.
    """

    objects: int = 12
    reference_prompt: Path | None = None
    target_prompt: Path | None = None

    def __post_init__(self) -> None:
        if self.objects < 1:
            raise ValueError(f"--describe.objects must be at least 1, got {self.objects}")


class DescribeReference(Stage):
    """Asks about every image that is some pair's reference.

    Args:
        images: folder that image paths are below.
        settings: see there.
        seed: of the synthesis.
    """

    name = "describe-reference"

    def __init__(self, images: Path, settings: DescribeSettings = DescribeSettings(), seed: int = 0) -> None:
        self.images = images
        self.settings = settings
        self.seed = seed
        self.prompt = load_prompt("describe_reference", settings.reference_prompt, frozenset({"objects"}))

    @property
    def prompts(self) -> Sequence[Prompt]:
        return [self.prompt]

    def items(self, folder: Path) -> Iterator[Item]:
        known: set[str] = set()
        for record in read_stage(folder, "pairs"):
            image = record["reference"]
            if image not in known:
                known.add(image)
                yield Item(image, image, image)

    def request(self, item: Item) -> Request:
        return Request(
            key=item.key,
            system=self.prompt.system,
            user=self.prompt.fill({"objects": self.settings.objects}),
            schema=OBJECTS,
            images=(self.images / item.record,),
            seed=seed_of(self.seed, self.name, item.key),
            context={"stage": self.name, "image": item.record},
        )

    def records(self, item: Item, answer: Answer) -> list[Stored]:
        objects = read_objects(answer.content)[: self.settings.objects]
        return [Seen(item.key, objects, provenance(self.prompt, seed_of(self.seed, self.name, item.key), answer))]


class DescribeTarget(Stage):
    """Asks about the target of every pair, given what is on the reference; arguments as for `DescribeReference`."""

    name = "describe"

    def __init__(self, images: Path, settings: DescribeSettings = DescribeSettings(), seed: int = 0) -> None:
        self.images = images
        self.settings = settings
        self.seed = seed
        self.prompt = load_prompt(
            "describe_target", settings.target_prompt, frozenset({"objects", "reference_objects"})
        )

    @property
    def prompts(self) -> Sequence[Prompt]:
        return [self.prompt]

    def items(self, folder: Path) -> Iterator[Item]:
        """Yield pairs with what is on their reference, which is None where that could not be told.

        Pairs go by their reference, like its description, so that a shard needs nothing of another.
        """
        references = Lookup(folder, DescribeReference.name)
        failed = Lookup(folder, f"{DescribeReference.name}-failures")
        for record in read_stage(folder, "pairs"):
            pair = Pair.from_json(record)
            if pair.reference in references:
                seen = Seen.from_json(references[pair.reference])
                yield Item(pair.key, pair.reference, (pair, seen))
            elif pair.reference in failed:
                yield Item(pair.key, pair.reference, (pair, None))

    def request(self, item: Item) -> Request:
        pair, seen = item.record
        if seen is None:
            raise Unusable("reference not described", pair.reference)
        return Request(
            key=item.key,
            system=self.prompt.system,
            user=self.prompt.fill({"objects": self.settings.objects}, {"reference_objects": seen.objects}),
            schema=OBJECTS,
            images=(self.images / pair.target,),
            seed=seed_of(self.seed, self.name, item.key),
            context={"stage": self.name, "image": pair.target, "reference_objects": seen.objects},
        )

    def records(self, item: Item, answer: Answer) -> list[Stored]:
        _, seen = item.record
        objects = read_objects(answer.content)[: self.settings.objects]
        told = provenance(self.prompt, seed_of(self.seed, self.name, item.key), answer)
        told["reference"] = {name: value for name, value in seen.provenance.items() if name != "usage"}
        return [Description(item.key, seen.objects, objects, told)]
