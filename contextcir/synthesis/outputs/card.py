"""The data card of a synthesis: counts of its shards, and a page about what is in it, its origin, cost, and losses."""

import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contextcir.shards.keys import KeySorter, SeenKeys
from contextcir.synthesis.models.base import USAGE, Usage, add, no_usage
from contextcir.synthesis.outputs.manifest import SPLITS, Written
from contextcir.synthesis.outputs.public import as_lines, public
from contextcir.synthesis.request_stage import TASKS
from contextcir.synthesis.store import Lookup, read_stage

PACKAGES = ("contextcir", "open_clip_torch", "torch", "openai", "transformers", "spacy", "stanza", "py3langid")
TURNED = (
    "\n\n{:,} images are stored turned, with an EXIF orientation other than 1. Their texts were made for the upright "
    "images; training and evaluation read the pixels as stored. Turn the files (`exiftran -ai`, `jpegtran`, or "
    "`mogrify -auto-orient`) before training."
)
Rows = Iterable[Sequence[object]]


@dataclass
class StageFigures:
    """A task of requests: items ``done``, and ``failed`` by reason; the usage of all requests, failed ones too."""

    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    usage: dict[str, float] = field(default_factory=no_usage)
    models: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)

    def take(self, provenance: Mapping[str, Any]) -> None:
        """Count a record by its provenance."""
        self.add_usage(provenance)
        self.models[provenance.get("model") or "unknown"] += 1
        self.prompts[provenance.get("prompt") or "unknown"] += 1

    def add_usage(self, provenance: Mapping[str, Any]) -> None:
        """Add the usage of a record."""
        used = provenance.get("usage", {})
        for name in USAGE:
            self.usage[name] += used.get(name, 0)


@dataclass
class Figures:
    """A synthesis in numbers: pairs by source, tasks by name, instructions, and verdicts by reason (None: kept)."""

    pairs: Counter[str] = field(default_factory=Counter)
    stages: dict[str, StageFigures] = field(default_factory=dict)
    references: int = 0
    instructions: int = 0
    verdicts: Counter[str | None] = field(default_factory=Counter)


def count(folder: Path) -> Figures:
    """Count the records of all shards."""
    figures = Figures()
    references = SeenKeys()
    for record in read_stage(folder, "pairs"):
        figures.pairs[record["source"]] += 1
        figures.references += references.add(record["reference"])
    for stage in TASKS:
        figures.stages[stage] = _count_stage(folder, stage)
    figures.instructions = sum(1 for _ in read_stage(folder, "instruct"))
    figures.verdicts.update(record["reason"] for record in read_stage(folder, "filter"))
    return figures


def _count_stage(folder: Path, stage: str) -> StageFigures:
    figures, sorter = StageFigures(), KeySorter()
    for record in read_stage(folder, stage):
        sorter.add(record["pair"] if stage == "instruct" else record["key"], 0, 0, 0)
        figures.take(record["provenance"])
    done = sorter.table()
    figures.done, _, _ = done.distinct()
    failures = Lookup(folder, f"{stage}-failures")
    for place, record in failures.placed():
        figures.add_usage(record["provenance"])
        if failures.is_last(place, record["key"]) and record["key"] not in done:  # one that succeeded later is none
            figures.failed[record["reason"]] += 1
    return figures


def write_card(figures: Figures, written: Written, settings: Mapping[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        figures: of all stages.
        written: of the manifest.
        settings: the configuration, as plain values, of which those of `public` are shown.
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
        "## Settings\n\n" + fenced("\n".join(as_lines(public(settings)))),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table in which no cell can end the table or act as markup."""
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    """Return the text of a cell: numbers with thousands separators, other values without markup."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*\[\]|#!])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def fenced(text: str) -> str:
    """Return a text as a code block whose fences are longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"


def versions() -> list[tuple[str, str]]:
    """Return the versions of Python and of installed packages."""
    installed = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            installed.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return installed


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
        + (TURNED.format(written.turned) if written.turned else "")
    )


def _concepts(written: Written) -> str:
    numbers = sorted(set().union(*(written.concepts[split] for split in SPLITS)))
    rows = [(number, *(written.concepts[split][number] for split in SPLITS)) for number in numbers]
    return "## Changes that a text asks for\n\n" + table(("changes", *SPLITS), rows)


def _stages(figures: Figures) -> str:
    items = (figures.references, figures.pairs.total(), figures.stages["describe"].done)
    rows: list[tuple[object, ...]] = []
    for stage, count in zip(TASKS, items, strict=True):
        done, failed = figures.stages[stage].done, figures.stages[stage].failed.total()
        rows.append((stage, count, done, failed, count - done - failed, *_used(figures.stages[stage].usage)))
    total = no_usage()
    for stage_figures in figures.stages.values():
        add(total, stage_figures.usage)
    rows.append(("all", "", "", "", "", *_used(total)))
    head = ("stage", "items", "done", "failed", "not asked", "requests", "input tokens", "output tokens", "cost")
    return (
        f"## Stages\n\n{figures.pairs.total():,} pairs with {figures.references:,} references, "
        f"{figures.instructions:,} texts.\n\n" + table(head, rows)
    )


def _used(usage: Usage) -> tuple[object, ...]:
    return int(usage["requests"]), int(usage["input_tokens"]), int(usage["output_tokens"]), float(usage["cost"])


def _rejections(figures: Figures) -> str:
    judged = figures.verdicts.total()
    rows = [
        ("kept" if reason is None else reason, count, f"{100 * count / judged:.1f} %")
        for reason, count in figures.verdicts.most_common()
    ]
    missing = figures.instructions - judged
    note = f"\n\n{missing:,} texts were not judged." if missing else ""
    return "## Filter\n\n" + table(("verdict", "texts", "share"), rows) + note


def _failures(figures: Figures) -> str:
    rows = [
        (stage, reason, count)
        for stage, stage_figures in figures.stages.items()
        for reason, count in stage_figures.failed.most_common()
    ]
    return "## Failures\n\n" + (table(("stage", "reason", "items"), rows) if rows else "None.")


def _origins(figures: Figures) -> str:
    def listed(kind: str, counts: Mapping[str, Mapping[str, int]]) -> Rows:
        return [(kind, stage, name, count) for stage, names in counts.items() for name, count in names.items()]

    rows = [
        *(("pairs from", "pairs", source, count) for source, count in figures.pairs.items()),
        *listed("model", {stage: each.models for stage, each in figures.stages.items()}),
        *listed("prompt", {stage: each.prompts for stage, each in figures.stages.items()}),
    ]
    return "## Origins\n\n" + table(("what", "stage", "name, version and digest", "records"), rows)
