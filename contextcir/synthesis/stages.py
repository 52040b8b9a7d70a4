"""What a stage that asks a model is: which items it has, what it asks about one, and what it makes of the answer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from contextcir.synthesis.models.base import Answer, Request
from contextcir.synthesis.prompts import Prompt
from contextcir.synthesis.records import Stored


class Unusable(Exception):
    """There is nothing to ask about an item, or its answer is of no use: ``reason`` in a word or two, and details."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Item(NamedTuple):
    """Something to ask about: the ``key`` of what will be known, the key that its ``shard`` goes by, and the record."""

    key: str
    shard: str
    record: Any


class Stage(ABC):
    """Asks a model about each of its items once. A stage is a plain object: settings in, no files held open."""

    name: ClassVar[str]  # of the folder of its shards
    answered_by: ClassVar[str] = "key"  # field of its records that names the item

    @abstractmethod
    def items(self, folder: Path) -> Iterator[Item]:
        """Yield all items, of all shards, from what the stages before wrote below ``folder``."""

    @abstractmethod
    def request(self, item: Item) -> Request:
        """Return what is asked; raises Unusable where there is nothing to ask."""

    @abstractmethod
    def records(self, item: Item, answer: Answer) -> Sequence[Stored]:
        """Return what an answer that follows the schema tells, at least one record; raises Unusable if it is no use."""

    @property
    @abstractmethod
    def prompts(self) -> Sequence[Prompt]:
        """The prompts in use, for the data card."""


def seed_of(seed: int, *names: str) -> int:
    """Return a seed below 2**31 for what has these names: the same in every run and on every machine."""
    return int.from_bytes(blake2b("\n".join(names).encode(), digest_size=4, salt=_salt(seed)).digest(), "big") >> 1


def provenance(prompt: Prompt, request_seed: int, answer: Answer) -> dict[str, Any]:
    """Return how a record came about: of the answer its model, tokens and cost."""
    return {
        "model": answer.model,
        "prompt": f"{prompt.name} {prompt.version} {prompt.digest}",
        "seed": request_seed,
        "usage": dict(answer.usage),
    }


def plain(text: Any, most: int = 2000) -> str:
    """Return a model's text, white space made single spaces, without control characters and halves of characters.

    '' for what is no text, or longer than ``most`` characters.
    """
    if not isinstance(text, str) or len(text) > most:
        return ""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def read_objects(content: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the objects of an answer, without empty names and descriptors.

    Raises:
        Unusable: if none is left.
    """
    objects = []
    for entry in content["objects"]:
        descriptors = [text for text in map(plain, entry["descriptors"]) if text]
        if plain(entry["object"]):
            objects.append({"object": plain(entry["object"]), "descriptors": list(dict.fromkeys(descriptors))})
    if not objects:
        raise Unusable("no objects")
    return tuple(objects)


def _salt(seed: int) -> bytes:
    return seed.to_bytes(8, "big", signed=True)
