"""What the shards of a synthesis say about it, in numbers."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextcir.synthesis.runner import Run
from contextcir.synthesis.shards import read_stage

ASKED = ("describe-reference", "describe", "instruct")  # stages that ask a model
USAGE = ("requests", "input_tokens", "output_tokens", "cost")


@dataclass
class StageFigures:
    """A stage that asks: items ``done``, and ``failed`` by reason; what its requests used, failed ones too."""

    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)

    def take(self, told: dict[str, Any]) -> None:
        """Count what a record's provenance says."""
        self.usage.update({name: told.get("usage", {}).get(name, 0) for name in USAGE})
        self.models[told.get("model") or "unknown"] += 1
        self.prompts[told.get("prompt") or "unknown"] += 1


@dataclass
class Figures:
    """A whole synthesis: pairs by source, stages by name, instructions, and verdicts by reason (None: kept)."""

    pairs: Counter[str] = field(default_factory=Counter)
    stages: dict[str, StageFigures] = field(default_factory=dict)
    references: int = 0
    instructions: int = 0
    verdicts: Counter[str | None] = field(default_factory=Counter)


def count(folder: Path) -> Figures:
    """Read all shards of a synthesis and count; memory holds the keys of one stage."""
    figures = Figures()
    references = set()
    for record in read_stage(folder, "pairs"):
        figures.pairs[record["source"]] += 1
        references.add(record["reference"])
    figures.references = len(references)
    for stage in ASKED:
        figures.stages[stage] = _count_stage(folder, stage)
    figures.instructions = sum(1 for _ in read_stage(folder, "instruct"))
    figures.verdicts.update(record["reason"] for record in read_stage(folder, "filter"))
    return figures


def _count_stage(folder: Path, stage: str) -> StageFigures:
    found, done = StageFigures(), set()
    for record in read_stage(folder, stage):
        done.add(record["pair"] if stage == "instruct" else record["key"])
        found.take(record["provenance"])
    found.done = len(done)
    reasons: dict[str, str] = {}
    for record in read_stage(folder, f"{stage}-failures"):
        found.usage.update({name: record["provenance"].get("usage", {}).get(name, 0) for name in USAGE})
        if record["key"] not in done:  # what failed, and was asked again with success, is no failure any more
            reasons[record["key"]] = record["reason"]
    found.failed.update(reasons.values())
    return found


def spent(run: Run) -> Counter[str]:
    """Return what the requests of one process's shards have used so far, failed ones too."""
    used: Counter[str] = Counter()
    for stage in ASKED:
        for name in (stage, f"{stage}-failures"):
            for record in run.shard(name).read():
                used.update({kind: record["provenance"].get("usage", {}).get(kind, 0) for kind in USAGE})
    return used


def totals(stages: Iterable[StageFigures]) -> Counter[str]:
    """Return what several stages used together."""
    together: Counter[str] = Counter()
    for stage in stages:
        together.update(stage.usage)
    return together
