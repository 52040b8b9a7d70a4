"""What a synthesis asks of a vision-language model, whoever runs it.

What requests cost, and a budget that is never exceeded by what is in flight.
"""

import asyncio
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


Usage = dict[str, float]
NAMES = ("requests", "input_tokens", "output_tokens", "cost")


@dataclass(frozen=True)
class Prices:
    """What a server charges.

    Args:
        input: For a million tokens of prompts and images.
        output: For a million tokens of answers.
        currency: Name of the currency, for the data card.
    """

    input: float = 0.0
    output: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        if not (0 <= self.input < float("inf") and 0 <= self.output < float("inf")):
            raise ValueError(f"prices must be 0 or more per million tokens, got {self.input} and {self.output}")

    def usage(self, input_tokens: float, output_tokens: float) -> Usage:
        """Return the usage of one request."""
        cost = (input_tokens * self.input + output_tokens * self.output) / 1e6
        return {"requests": 1, "input_tokens": input_tokens, "output_tokens": output_tokens, "cost": cost}


@dataclass(frozen=True)
class Budget:
    """What a run may use at most, with all its restarts; null for no limit.

    Args:
        cost: In the currency of the prices.
        tokens: Of prompts and answers together.
        requests: Requests, with retries.
    """

    cost: float | None = None
    tokens: float | None = None
    requests: float | None = None

    def __post_init__(self) -> None:
        for name in ("cost", "tokens", "requests"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"budget.{name} must be above 0, or null for no limit, got {value}")

    def over(self, usage: Usage) -> str | None:
        """Return which limit a usage is over."""
        tokens = usage["input_tokens"] + usage["output_tokens"]
        found = (("cost", usage["cost"]), ("tokens", tokens), ("requests", usage["requests"]))
        for name, value in found:
            limit = getattr(self, name)
            if limit is not None and value > limit * (1 + 1e-12):
                return name
        return None


def none_used() -> Usage:
    """Return a usage of nothing."""
    return dict.fromkeys(NAMES, 0.0)


def add(to: Usage, more: Mapping[str, float], times: float = 1) -> None:
    """Add a usage to another."""
    for name in NAMES:
        to[name] += times * more.get(name, 0.0)


class Account:
    """What was spent, and what the requests in flight may cost at most.

    A request is let in only if the budget holds even if all in flight cost the most that they may. What earlier runs
    spent is added with `add_earlier`.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent = none_used()
        self.reserved = none_used()
        self.in_flight = 0

    def add_earlier(self, usage: Mapping[str, float]) -> None:
        """Count what was spent before this process began."""
        add(self.spent, usage)

    def fits(self, most: Usage) -> str | None:
        """Return which limit would be exceeded, at the worst, with one more request."""
        worst = dict(self.spent)
        add(worst, self.reserved)
        add(worst, most)
        return self.budget.over(worst)

    def reserve(self, most: Usage) -> bool:
        """Let a request in if there is room for the most that it may cost."""
        if self.fits(most) is not None:
            return False
        self.hold(most)
        return True

    def hold(self, most: Usage) -> None:
        """Count a request that is in flight already, whether there is room or not."""
        add(self.reserved, most)
        self.in_flight += 1

    async def admit(self, most: Usage) -> None:
        """Wait until there is room for a request.

        Raises:
            BudgetSpent: if nothing is in flight that could make room.
        """
        while not self.reserve(most):
            if self.in_flight == 0:
                raise self.used_up(most)
            await asyncio.sleep(0.01)

    def settle(self, most: Usage, real: Mapping[str, float]) -> None:
        """Replace what was reserved for a request by what it cost."""
        add(self.reserved, most, -1)
        self.in_flight -= 1
        add(self.spent, real)

    def used_up(self, most: Usage) -> BudgetSpent:
        """Return the error that says which limit stops the run."""
        name = self.fits(most)
        tokens = self.spent["input_tokens"] + self.spent["output_tokens"]
        return BudgetSpent(
            f"budget.{name} of {getattr(self.budget, str(name)):g} does not allow one more request: used are cost "
            f"{self.spent['cost']:.4g}, {tokens:,.0f} tokens, {self.spent['requests']:,.0f} requests, and one more may "
            f"need {most['cost']:.4g} and {most['input_tokens'] + most['output_tokens']:,.0f} tokens; all answers so "
            f"far are kept: raise the budget and start again"
        )


class PaidModel(VisionLanguageModel):
    """A model whose requests are counted in an account."""

    account: Account

    def count_earlier(self, usage: Mapping[str, float]) -> None:
        """Count what was used before this process began against the budget."""
        self.account.add_earlier(usage)
