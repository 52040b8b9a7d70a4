"""Instruct: texts that ask for the change from the reference to the target, from their descriptions alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from contextcir.synthesis.models.base import Answer, Request
from contextcir.synthesis.prompts import Prompt, load_prompt
from contextcir.synthesis.records import Description, Instruction, Pair, Stored
from contextcir.synthesis.stages import Item, Stage, Unusable, plain, provenance, seed_of
from contextcir.synthesis.store import Lookup, read_stage

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
    """Which texts are asked for.

    Args:
        captions: How many texts for a pair: [n], or [fewest, most], between which the seed draws.
        concepts: Numbers of changes that a text may ask for, one of them drawn for each; null for all differences.
        styles: Ways to put it, drawn for each text; a pair has no style twice while there are enough.
        prompt: Prompt file in place of the one that comes along.
    """

    captions: tuple[int, ...] = (1, 3)
    concepts: tuple[int | None, ...] = (1, 2, 3, None)
    styles: tuple[str, ...] = STYLES
    prompt: Path | None = None

    def __post_init__(self) -> None:
        if len(self.captions) not in (1, 2) or not 1 <= self.captions[0] <= self.captions[-1]:
            raise ValueError(f"--instruct.captions must be [n] or [fewest, most] from 1 on, got {[*self.captions]}")
        if not self.concepts or any(number is not None and number < 1 for number in self.concepts):
            raise ValueError(f"--instruct.concepts must be numbers from 1 on, or null, got {list(self.concepts)}")
        if not self.styles:
            raise ValueError("--instruct.styles must name at least one style")

    def plan(self, seed: int) -> list[dict[str, Any]]:
        """Draw the texts of a pair: for each, ``concepts`` (None for all) and ``style``."""
        random = Random(seed)
        count = random.randint(self.captions[0], self.captions[-1])
        styles: list[str] = []
        while len(styles) < count:
            styles += random.sample(self.styles, len(self.styles))
        return [{"concepts": random.choice(self.concepts), "style": style} for style in styles[:count]]


class Instruct(Stage):
    """Asks for the texts of every pair that is described; one request for all texts of a pair, without images.

    Args:
        settings: see there.
        seed: of the synthesis.
    """

    name = "instruct"
    answered_by = "pair"

    def __init__(self, settings: InstructSettings = InstructSettings(), seed: int = 0) -> None:
        self.settings = settings
        self.seed = seed
        expected = frozenset({"captions", "plan", "reference_objects", "target_objects"})
        self.prompt = load_prompt("instruct", settings.prompt, expected)

    @property
    def prompts(self) -> Sequence[Prompt]:
        return [self.prompt]

    def items(self, folder: Path) -> Iterator[Item]:
        pairs = Lookup(folder, "pairs")
        for record in read_stage(folder, "describe"):
            description = Description.from_json(record)
            yield Item(description.key, description.key, (Pair.from_json(pairs[description.key]), description))

    def request(self, item: Item) -> Request:
        pair, description = item.record
        if not differs(description):
            raise Unusable("no difference", "the descriptions of the two images are the same")
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
        """Return the texts as they are: nothing is cut off or taken apart. What was paid for stands at the first."""
        told = provenance(self.prompt, seed_of(self.seed, self.name, item.key), answer)
        told["description"] = _without_usage(item.record[1].provenance)
        plan = self.settings.plan(told["seed"])
        found: list[Stored] = []
        for number, text in enumerate(answer.content["texts"][: len(plan)]):
            caption, edits = plain(text["caption"]), tuple(filter(None, map(plain, text["changes"])))
            if caption:
                concepts = len(edits) or plan[number]["concepts"] or 1
                about = {**told, "style": plan[number]["style"], "asked_concepts": plan[number]["concepts"]}
                found.append(Instruction(f"{item.key}#{number}", item.key, caption, concepts, edits, about))
                told = {**told, "usage": {}}
        if not found:
            raise Unusable("no texts")
        return found


def differs(description: Description) -> bool:
    """Whether the descriptions of the two images are not the same, in whatever order."""
    return _bag(description.reference) != _bag(description.target)


def _without_usage(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "usage"}


def _bag(objects: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return sorted((entry["object"].lower(), *sorted(map(str.lower, entry["descriptors"]))) for entry in objects)


def _line(number: int, text: dict[str, Any]) -> str:
    count = text["concepts"]
    changes = "all changes" if count is None else "1 change" if count == 1 else f"{count} changes"
    return f"{number}. {changes}; {text['style']}"
