"""Describe: what is on the reference of each pair, then on the target, in the same words for what looks the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from contextcir.checks import whole
from contextcir.errors import InputError, MissingFileError
from contextcir.shards.keys import Place
from contextcir.synthesis.models.base import Answer, Request
from contextcir.synthesis.photos import Photos, photos_of
from contextcir.synthesis.prompts import Prompt, load_prompt
from contextcir.synthesis.records import Description, Pair, ReferenceObjects, Stored
from contextcir.synthesis.request_stage import (
    NO_REFERENCE,
    Entry,
    Item,
    ItemFailed,
    Items,
    Task,
    plain,
    provenance,
    seed_of,
)
from contextcir.synthesis.store import Lookup, Records, keys_of

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
class DescribeSettings:
    """How images are described.

    Args:
        objects: How many objects are listed at most.
        reference_prompt: Prompt file in place of the project's own.
        target_prompt: Likewise, for the second image of a pair.
    """

    objects: int = 12
    reference_prompt: Path | None = None
    target_prompt: Path | None = None

    def __post_init__(self) -> None:
        whole(self.objects, 1, "describe.objects", 1000)


class _Describe(Task):
    """What the two tasks have in common.

    Args:
        images: the images, or the folder that their paths are below.
        settings: see there.
        seed: of the synthesis.
        links: let links lead out of that folder.
    """

    prompt_name: ClassVar[str]
    placeholders: ClassVar[frozenset[str]]

    def __init__(
        self,
        images: Path | Photos,
        settings: DescribeSettings = DescribeSettings(),
        seed: int = 0,
        links: bool = False,
    ) -> None:
        self.images = photos_of(images, links)
        self.settings = settings
        self.seed = seed
        setting = self.prompt_name.removeprefix("describe_") + "_prompt"
        path = getattr(settings, setting)
        self.prompt = load_prompt(self.prompt_name, path, self.placeholders, f"describe.{setting}")

    def begin(self, folder: Path) -> None:
        self.images.begin(folder)

    @property
    def prompts(self) -> Sequence[Prompt]:
        return [self.prompt]

    def _request(self, key: str, image: str, data: Mapping[str, Any]) -> Request:
        try:
            found = self.images.image(image)
        except MissingFileError as error:
            raise ItemFailed("unreadable image", str(error)) from None
        except InputError as error:
            raise ItemFailed("outside the image folder", str(error)) from None
        return Request(
            key=key,
            system=self.prompt.system,
            user=self.prompt.fill({"objects": self.settings.objects}, data),
            schema=OBJECTS,
            images=(found,),
            seed=seed_of(self.seed, self.name, key),
            context={"stage": self.name, "image": image, **data},
        )

    def _read(self, item: Item, answer: Answer) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
        """Return objects and provenance of an answer."""
        objects = read_objects(answer.content or {"objects": []})[: self.settings.objects]
        return objects, provenance(self.prompt, seed_of(self.seed, self.name, item.key), answer)


class DescribeReference(_Describe):
    """Asks once about every image that is the reference of some pair."""

    name: ClassVar[str] = "describe-reference"
    prompt_name = "describe_reference"
    placeholders = frozenset({"objects"})

    def items(self, folder: Path) -> Items:
        return _References(folder)

    def request(self, item: Item) -> Request:
        return self._request(item.key, item.record, {})

    def records(self, item: Item, answer: Answer) -> list[Stored]:
        return [ReferenceObjects(item.key, *self._read(item, answer))]


class _References(Items):
    """The references of all pairs."""

    def __init__(self, folder: Path) -> None:
        self.pairs = Records(folder, "pairs")

    def entries(self) -> Iterator[Entry]:
        for place, record in self.pairs.placed():
            yield Entry(record["reference"], record["reference"], place)

    def item(self, place: Place) -> Item:
        image = self.pairs.at(place)["reference"]
        return Item(image, image, image)


class _Targets(Items):
    """Pairs with the objects of their reference, None where its description failed.

    Pairs are sharded by their reference, like its description, so that a shard needs no records of another one.
    """

    def __init__(self, folder: Path) -> None:
        self.pairs = Records(folder, "pairs")
        self.references = Lookup(folder, DescribeReference.name)
        self.failed = keys_of(folder, f"{DescribeReference.name}-failures")

    def entries(self) -> Iterator[Entry]:
        for place, record in self.pairs.placed():
            if record["reference"] in self.references or record["reference"] in self.failed:
                yield Entry(record["key"], record["reference"], place)

    def item(self, place: Place) -> Item:
        pair = Pair.from_json(self.pairs.at(place))
        found = self.references.get(pair.reference)
        return Item(pair.key, pair.reference, (pair, None if found is None else ReferenceObjects.from_json(found)))


class DescribeTarget(_Describe):
    """Asks about the target of every pair, given the objects of its reference."""

    name: ClassVar[str] = "describe"
    prompt_name = "describe_target"
    placeholders = frozenset({"objects", "reference_objects"})

    def items(self, folder: Path) -> Items:
        return _Targets(folder)

    def request(self, item: Item) -> Request:
        pair, reference = item.record
        if reference is None:
            raise ItemFailed(NO_REFERENCE, pair.reference)
        return self._request(item.key, pair.target, {"reference_objects": reference.objects})

    def records(self, item: Item, answer: Answer) -> list[Stored]:
        _, reference = item.record
        objects, origin = self._read(item, answer)
        origin["reference"] = {name: value for name, value in reference.provenance.items() if name != "usage"}
        return [Description(item.key, reference.objects, objects, origin)]


def read_objects(content: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the objects of an answer, without empty names and empty or repeated descriptors.

    Raises:
        ItemFailed: if none is left.
    """
    objects = []
    for entry in content["objects"]:
        descriptors = [text for text in map(plain, entry["descriptors"]) if text]
        if plain(entry["object"]):
            objects.append({"object": plain(entry["object"]), "descriptors": list(dict.fromkeys(descriptors))})
    if not objects:
        raise ItemFailed("no objects")
    return tuple(objects)
