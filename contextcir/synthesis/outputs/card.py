"""The data card of a synthesis: what is in it, where it came from, what it cost, and what was thrown away.

What the shards of a synthesis say about it, in numbers.
"""

import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contextcir.synthesis.outputs.manifest import SPLITS, Written
from contextcir.synthesis.runner import Run
from contextcir.synthesis.store import read_stage

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


PACKAGES = ("contextcir", "open_clip_torch", "torch", "openai", "transformers", "spacy", "stanza", "py3langid")
Rows = Iterable[Sequence[object]]


def write_card(figures: Figures, written: Written, settings: str) -> str:
    """Return the card as Markdown.

    Args:
        figures: of all stages.
        written: of the manifest.
        settings: the configuration, as YAML.
    """
    parts = [
        "# Data card: synthetic triplets",
        _triplets(written),
        _concepts(written),
        _stages(figures),
        _rejections(figures),
        _failures(figures),
        _origins(figures),
        "## Versions\n\n" + table(("package", "version"), versions()),
        "## Settings\n\n" + fenced(settings),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Rows) -> str:
    """Return a table in which no cell can end the table or be taken for markup."""
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    """Return a value for a table: numbers with thousands, all else as text without markup."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*\[\]|#!])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def fenced(text: str) -> str:
    """Return a text as a code block, between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"


def versions() -> list[tuple[str, str]]:
    """Return Python, and those packages that are installed."""
    found = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _triplets(written: Written) -> str:
    rows = [(split, written.triplets[split], written.images[split]) for split in SPLITS]
    total = sum(written.triplets.values())
    words = sum(count * length for length, count in written.words.items()) / max(total, 1)
    return (
        f"{total:,} triplets, {words:.1f} words a text.\n\n"
        + table(("split", "triplets", "images"), rows)
        + f"\n\nNo image is in both splits: the {written.groups:,} groups of triplets that share images were divided, "
        f"the largest of {written.largest:,} triplets. "
        + ("val has exactly its share." if not written.off else f"val is off its share by {written.off:+,} triplets.")
    )


def _concepts(written: Written) -> str:
    numbers = sorted(set().union(*(written.concepts[split] for split in SPLITS)))
    rows = [(number, *(written.concepts[split][number] for split in SPLITS)) for number in numbers]
    return "## Changes that a text asks for\n\n" + table(("changes", *SPLITS), rows)


def _stages(figures: Figures) -> str:
    items = (figures.references, figures.pairs.total(), figures.stages["describe"].done)
    rows: list[tuple[object, ...]] = []
    for stage, count in zip(ASKED, items, strict=True):
        found = figures.stages[stage]
        failed = found.failed.total()
        rows.append((stage, count, found.done, failed, count - found.done - failed, *_used(found)))
    together = totals(figures.stages.values())
    rows.append(("all", "", "", "", "", *_used(StageFigures(usage=together))))
    head = ("stage", "items", "done", "failed", "not asked", "requests", "input tokens", "output tokens", "cost")
    return (
        f"## Stages\n\n{figures.pairs.total():,} pairs with {figures.references:,} references, "
        f"{figures.instructions:,} texts.\n\n" + table(head, rows)
    )


def _used(stage: StageFigures) -> tuple[object, ...]:
    usage = stage.usage
    return int(usage["requests"]), int(usage["input_tokens"]), int(usage["output_tokens"]), float(usage["cost"])


def _rejections(figures: Figures) -> str:
    judged = figures.verdicts.total()
    rows = [
        ("kept" if reason is None else reason, count, f"{100 * count / judged:.1f} %")
        for reason, count in figures.verdicts.most_common()
    ]
    missing = figures.instructions - judged
    words = f"\n\n{missing:,} texts were not judged." if missing else ""
    return "## Filter\n\n" + table(("verdict", "texts", "share"), rows) + words


def _failures(figures: Figures) -> str:
    rows = [
        (stage, reason, count)
        for stage, found in figures.stages.items()
        for reason, count in found.failed.most_common()
    ]
    return "## Failures\n\n" + (table(("stage", "reason", "items"), rows) if rows else "None.")


def _origins(figures: Figures) -> str:
    def listed(kind: str, counts: Mapping[str, Mapping[str, int]]) -> Rows:
        return [(kind, stage, name, count) for stage, found in counts.items() for name, count in found.items()]

    rows = [
        *(("pairs from", "pairs", source, count) for source, count in figures.pairs.items()),
        *listed("model", {stage: found.models for stage, found in figures.stages.items()}),
        *listed("prompt", {stage: found.prompts for stage, found in figures.stages.items()}),
    ]
    return "## Origins\n\n" + table(("what", "stage", "name, version and digest", "records"), rows)
