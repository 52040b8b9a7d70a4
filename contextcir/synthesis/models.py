"""What a synthesis asks of a vision-language model, whoever runs it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """One question: a prompt, images, and the JSON schema of the answer.

    ``key``: the caller's name for it. ``system``: instructions of ours; ``user``: what is asked, with data in it.
    ``context``: what a describer that looks nothing up in images needs to know (stage name, pair, earlier lists); a
    language model is not shown it.
    """

    key: str
    system: str
    user: str
    schema: dict[str, Any]
    images: tuple[Path, ...] = ()
    seed: int = 0
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came back: ``content`` follows the schema, or is None and ``failure`` says why in a word or two.

    ``usage``: ``input_tokens``, ``output_tokens``, ``requests`` (with retries), ``cost`` in the currency of the prices.
    """

    key: str
    content: dict[str, Any] | None
    failure: str = ""
    detail: str = ""
    model: str = ""
    usage: dict[str, float] = field(default_factory=dict)


class VisionLanguageModel(ABC):
    """Answers requests, as many at once as it likes, in any order, each exactly once."""

    name: str

    @abstractmethod
    def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        """Yield an answer for every request; nothing but a used-up budget or a bug is raised.

        ``requests`` is drawn from only as fast as there is room, so that it may be endless.
        """

    def count_earlier(self, usage: Mapping[str, float]) -> None:  # noqa: B027  (most have no budget)
        """Learn what was used before this process began, for a budget; comes before the first `answer`."""


class BudgetSpent(ValueError):
    """The budget that the user set is used up: the run stops, and goes on from there with a larger one."""
