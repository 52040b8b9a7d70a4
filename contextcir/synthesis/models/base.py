"""The interface of a vision-language model, what requests cost, and a budget that requests in flight can't exceed."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from contextcir.checks import not_negative, positive
from contextcir.errors import InputError
from contextcir.images import ImageFile

Usage = dict[str, float]  # by the names in USAGE
USAGE = ("requests", "input_tokens", "output_tokens", "cost")


@dataclass(frozen=True)
class Request:
    """One question: a prompt, images, and the JSON schema of the answer.

    ``key``: the caller's name for it. ``system``: the project's instructions. ``user``: the question, with data in it.
    ``context``: what a describer that knows instead of looking needs (stage, pair, earlier lists); a language model is
    not shown it.
    """

    key: str
    system: str
    user: str
    schema: dict[str, Any]
    images: tuple[ImageFile, ...] = ()
    seed: int = 0
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The result of a request: ``content`` follows the schema, or is None and ``failure`` says why in a word or two.

    ``usage``: `Usage` of the request with its retries; ``cost`` is in the currency of the prices.
    """

    key: str
    content: dict[str, Any] | None
    failure: str = ""
    detail: str = ""
    model: str = ""
    usage: Usage = field(default_factory=dict)


class Stopped(ValueError):
    """The run stops in good order: all answers so far are kept, and the same command continues later."""


class BudgetSpent(Stopped):
    """The budget of the user is used up; the run continues with a larger one."""


class AnswersAwaited(Stopped):
    """Requests wait for answers that somebody else brings; the run continues when they are there."""


class VisionLanguageModel(ABC):
    """Answers requests, any number at once, in any order, each exactly once."""

    name: str

    def begin(self, index: int, count: int) -> None:  # noqa: B027  (most need nothing)
        """Get ready for part ``index`` of ``count`` of a synthesis; called before any stage begins.

        Raises:
            InputError: if something is missing without which no request can be answered, such as a key.
        """

    @abstractmethod
    def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        """Yield an answer for every request.

        ``requests`` is consumed only as fast as there is room, so that it may be endless.

        Raises:
            Stopped: after all answers that could be had were yielded.
        """

    def count_earlier(self, usages: Iterable[Mapping[str, float]]) -> None:  # noqa: B027  (most have no budget)
        """Count what earlier processes used against the budget.

        Called before each stage with the same usages; only the first call counts.
        """


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
        not_negative(self.input, "model.chat.prices.input")
        not_negative(self.output, "model.chat.prices.output")

    def usage(self, input_tokens: float, output_tokens: float) -> Usage:
        """Return the usage of one request."""
        cost = (input_tokens * self.input + output_tokens * self.output) / 1e6
        return {"requests": 1, "input_tokens": input_tokens, "output_tokens": output_tokens, "cost": cost}


@dataclass(frozen=True)
class Budget:
    """The most that a run may use, with all its restarts; null for no limit.

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
            if getattr(self, name) is not None:
                positive(getattr(self, name), f"model.budget.{name}")

    def exceeded(self, usage: Usage) -> str | None:
        """Return the name of a limit that a usage exceeds."""
        tokens = usage["input_tokens"] + usage["output_tokens"]
        for name, value in (("cost", usage["cost"]), ("tokens", tokens), ("requests", usage["requests"])):
            limit = getattr(self, name)
            if limit is not None and value > limit * (1 + 1e-12):
                return name
        return None

    def check(self, prices: Prices) -> None:
        """Raise InputError if the cost is limited and nothing has a price."""
        if self.cost is not None and prices.input == prices.output == 0:
            raise InputError(
                "a limit of the cost needs prices: set chat.prices.input and chat.prices.output, per million tokens",
                setting="model.budget.cost",
            )


def no_usage() -> Usage:
    """Return the usage of nothing."""
    return dict.fromkeys(USAGE, 0.0)


def add(to: Usage, more: Mapping[str, float], times: float = 1) -> None:
    """Add a usage to another."""
    for name in USAGE:
        to[name] += times * more.get(name, 0.0)


class Account:
    """What was spent, and the most that requests in flight may cost.

    A request is admitted only if the budget holds even when all requests in flight cost their most.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent = no_usage()
        self.reserved = no_usage()
        self.in_flight = 0
        self._counted_earlier = False

    def count_earlier(self, usages: Iterable[Mapping[str, float]]) -> None:
        """Count what earlier processes spent; only the first call counts."""
        if not self._counted_earlier:
            self._counted_earlier = True
            for usage in usages:
                add(self.spent, usage)

    def exceeded(self, most: Usage) -> str | None:
        """Return the name of a limit that one more request might exceed."""
        worst = dict(self.spent)
        add(worst, self.reserved)
        add(worst, most)
        return self.budget.exceeded(worst)

    def reserve(self, most: Usage) -> bool:
        """Admit a request if the budget has room for the most that it may cost."""
        if self.exceeded(most) is not None:
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
        name = self.exceeded(most)
        tokens = self.spent["input_tokens"] + self.spent["output_tokens"]
        return BudgetSpent(
            f"budget.{name} of {getattr(self.budget, str(name)):g} has no room for one more request (up to "
            f"{most['cost']:.4g}, {most['input_tokens'] + most['output_tokens']:,.0f} tokens); used: "
            f"{self.spent['cost']:.4g}, {tokens:,.0f} tokens, {self.spent['requests']:,.0f} requests; raise the budget"
        )


class PaidModel(VisionLanguageModel):
    """A model whose requests are counted in an account."""

    account: Account

    def count_earlier(self, usages: Iterable[Mapping[str, float]]) -> None:
        self.account.count_earlier(usages)
