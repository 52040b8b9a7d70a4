"""A model for tests of a synthesis: answers from what it is asked, and keeps a list of that on the disk."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from contextcir.synthesis.models.base import Answer, BudgetSpent, Request, VisionLanguageModel


class ScriptedModel(VisionLanguageModel):
    """Describes an image by its file name, and asks for that of the target.

    Args:
        log: file that gets a line for every request, before it is answered; None for none.
        pause: seconds until an answer, at most.
        at_once: how many requests are under way together.
        budget: answers until the budget is spent.
        failing: parts of keys whose requests fail.
    """

    name = "scripted"

    def __init__(
        self,
        log: Path | None = None,
        pause: float = 0.0,
        at_once: int = 4,
        budget: int | None = None,
        failing: tuple[str, ...] = (),
    ) -> None:
        self.log = log
        self.pause = pause
        self.at_once = at_once
        self.budget = budget
        self.failing = failing
        self.requests: list[Request] = []

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        waiting = iter(requests)
        tasks: set[asyncio.Task[Answer]] = set()
        while True:
            while len(tasks) < self.at_once and (request := next(waiting, None)) is not None:
                self._note(request)
                tasks.add(asyncio.create_task(self._one(request)))
            if not tasks:
                return
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if self.budget is not None:
                    if self.budget == 0:
                        raise BudgetSpent("the budget of 1.00 is spent")
                    self.budget -= 1
                yield task.result()

    def _note(self, request: Request) -> None:
        self.requests.append(request)
        if self.log is not None:
            with open(self.log, "ab", buffering=0) as file:
                file.write(f"{request.context['stage']} {request.key}\n".encode())

    async def _one(self, request: Request) -> Answer:
        await asyncio.sleep(self.pause * random.random())
        usage = {"input_tokens": 100, "output_tokens": 10, "requests": 1, "cost": 0.5}
        if any(part in request.key for part in self.failing):
            return Answer(request.key, None, "refused", "I would rather not", "scripted-1", usage)
        return Answer(request.key, self.content(request), model="scripted-1", usage=usage)

    def content(self, request: Request) -> dict[str, Any]:
        """Return what is answered."""
        stage = request.context["stage"]
        if stage != "instruct":
            name = Path(request.context["image"]).stem
            table = {"object": "table", "descriptors": ["round", "of wood"]}
            return {"objects": [table, {"object": "cup", "descriptors": [f"labelled {name}"]}]}
        pair, plan = request.context["pair"], request.context["plan"]
        target = Path(pair.target).stem
        captions = [f"Label the cup {target}, way {number}." for number in range(len(plan))]
        return {"texts": [{"caption": caption, "changes": ["label"]} for caption in captions]}


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> Path:
    """Write a file of pairs."""
    path.write_text(json.dumps([{"reference": reference, "target": target} for reference, target in pairs]))
    return path


def asked(log: Path) -> list[str]:
    """Return what the models that kept this log were asked."""
    return log.read_text().splitlines() if log.exists() else []
