"""Instruct: texts that ask for the change from the reference to the target, from their descriptions alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from contextcir.checks import whole
from contextcir.errors import InputError, shown
from contextcir.shards.keys import Place
from contextcir.synthesis.models.base import Answer, Request
from contextcir.synthesis.prompts import Prompt, load_prompt
from contextcir.synthesis.records import Description, Instruction, Pair, Stored
from contextcir.synthesis.request_stage import Entry, Item, ItemFailed, Items, Task, plain, provenance, seed_of
from contextcir.synthesis.store import Lookup, Records

TEXTS = {
    "type": "object",
    "properties": {
        "texts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "caption": {"type": "string"},
                    "changes": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["caption", "changes"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["texts"],
    "additionalProperties": False,
}

MOST = 100  # texts of a pair
STYLES = (
    "a short command",
    "commands that are joined with 'and' or commas",
    "a wish, such as one that begins with 'I would like'",
    "a friendly request in the form of a question",
    "a terse note without verbs, as one types it into a search box",
    "a statement of how it should be, such as '... instead of ...' or 'has ... and no ...'",
    "two or three short sentences",
    "casual talk, as in a message to a friend",
)


@dataclass(frozen=True)
class InstructSettings:
    """Which texts are requested.

    Args:
        captions: How many texts for a pair: [n], or [fewest, most], between which the seed draws.
        concepts: Numbers of changes that a text may ask for, one of them drawn for each; null for all differences.
        styles: Styles of wording, one drawn for each text; a pair has no style twice while there are enough.
        prompt: Prompt file in place of the project's own.
    """

    captions: tuple[int, ...] = (1, 3)
    concepts: tuple[int | None, ...] = (1, 2, 3, None)
    styles: tuple[str, ...] = STYLES
    prompt: Path | None = None

    def __post_init__(self) -> None:
        if len(self.captions) not in (1, 2):
            problem = f"expected [n] or [fewest, most], got {shown(list(self.captions))}"
            raise InputError(problem, setting="instruct.captions")
        for number in self.captions:
            whole(number, 1, "instruct.captions", MOST)
        if self.captions[0] > self.captions[-1]:
            problem = f"expected [fewest, most], got {shown(list(self.captions))}"
            raise InputError(problem, setting="instruct.captions")
        if not self.concepts:
            raise InputError("expected numbers from 1 on, or null, got none", setting="instruct.concepts")
        for concepts in self.concepts:
            if concepts is not None:
                whole(concepts, 1, "instruct.concepts")
        if not self.styles or not all(isinstance(style, str) and style.strip() for style in self.styles):
            raise InputError("expected at least one style, each of some words", setting="instruct.styles")

    def plan(self, seed: int) -> list[dict[str, Any]]:
        """Draw the texts of a pair: for each, ``concepts`` (None for all) and ``style``."""
        random = Random(seed)  # noqa: S311  (draws of an experiment, no secret)
        count = random.randint(self.captions[0], self.captions[-1])
        styles: list[str] = []
        while len(styles) < count:
            styles += random.sample(self.styles, len(self.styles))
        return [{"concepts": random.choice(self.concepts), "style": style} for style in styles[:count]]


class _Described(Items):
    """The described pairs."""

    def __init__(self, folder: Path) -> None:
        self.descriptions = Records(folder, "describe")
        self.pairs = Lookup(folder, "pairs")

    def entries(self) -> Iterator[Entry]:
        for place, record in self.descriptions.placed():
            self.pairs.require(record["key"], "describe")
            yield Entry(record["key"], record["key"], place)

    def item(self, place: Place) -> Item:
        description = Description.from_json(self.descriptions.at(place))
        return Item(description.key, description.key, (Pair.from_json(self.pairs[description.key]), description))


class Instruct(Task):
    """Asks for the texts of every described pair: one request for all texts of a pair, without images.

    Args:
        settings: see there.
        seed: of the synthesis.
    """

    name: ClassVar[str] = "instruct"
    item_field: ClassVar[str] = "pair"
    source: ClassVar[str] = "describe"

    def __init__(self, settings: InstructSettings = InstructSettings(), seed: int = 0) -> None:
        self.settings = settings
        self.seed = seed
        expected = frozenset({"captions", "plan", "reference_objects", "target_objects"})
        self.prompt = load_prompt("instruct", settings.prompt, expected, "instruct.prompt")

    @property
    def prompts(self) -> Sequence[Prompt]:
        return [self.prompt]

    def items(self, folder: Path) -> Items:
        return _Described(folder)

    def request(self, item: Item) -> Request:
        pair, description = item.record
        if not differs(description):
            raise ItemFailed("no difference", "the descriptions of the two images are the same")
        seed = seed_of(self.seed, self.name, item.key)
        plan = self.settings.plan(seed)
        return Request(
            key=item.key,
            system=self.prompt.system,
            user=self.prompt.fill(
                {"captions": len(plan), "plan": "\n".join(map(_line, range(1, len(plan) + 1), plan))},
                {"reference_objects": description.reference, "target_objects": description.target},
            ),
            schema=TEXTS,
            seed=seed,
            context={"stage": self.name, "pair": pair, "plan": plan},
        )

    def records(self, item: Item, answer: Answer) -> list[Stored]:
        """Return the texts unchanged: none is cut or split. The first one carries the usage of the request."""
        origin = provenance(self.prompt, seed_of(self.seed, self.name, item.key), answer)
        origin["description"] = {name: value for name, value in item.record[1].provenance.items() if name != "usage"}
        plan = self.settings.plan(origin["seed"])
        texts: list[Stored] = []
        for number, text in enumerate((answer.content or {"texts": []})["texts"][: len(plan)]):
            caption, edits = plain(text["caption"]), tuple(filter(None, map(plain, text["changes"])))
            if caption:
                concepts = len(edits) or plan[number]["concepts"] or 1
                about = {**origin, "style": plan[number]["style"], "asked_concepts": plan[number]["concepts"]}
                texts.append(Instruction(f"{item.key}#{number}", item.key, caption, concepts, edits, about))
                origin = {**origin, "usage": {}}
        if not texts:
            raise ItemFailed("no texts")
        return texts


def differs(description: Description) -> bool:
    """Tell whether the descriptions of the two images differ; the order of objects and descriptors does not count."""
    return _bag(description.reference) != _bag(description.target)


def _bag(objects: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return sorted((entry["object"].lower(), *sorted(map(str.lower, entry["descriptors"]))) for entry in objects)


def _line(number: int, text: dict[str, Any]) -> str:
    count = text["concepts"]
    changes = "all changes" if count is None else "1 change" if count == 1 else f"{count} changes"
    return f"{number}. {changes}; {text['style']}"
