"""The page of a report: one HTML file with everything in it, on which all that comes from data is escaped text."""

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.report.cards import Card, Cards
from experiments.report.groups import groups_of
from experiments.report.pictures import Thumbnails
from experiments.report.results import COMPOSED, Run, Split, check_comparable
from experiments.report.statistics import DRAWS
from experiments.report.tables import (
    BASELINES,
    Line,
    by_group,
    compare,
    confusions,
    one_sided_columns,
    recall_columns,
    roles,
)

FOLDER = Path(__file__).parent
REASONS = {"failure": "worst failure", "near": "near miss", "won": "won by the second", "lost": "lost by the second"}
COLOURS = {"sum": "#D55E00", "image_only": "#7A4FBF", "text_only": "#8C6D00"}  # of the rows in charts


@dataclass(frozen=True)
class Look:
    """How much a page shows.

    ``examples``: queries of each kind (failures, near misses, won, lost); ``of_group`` of each group of a benchmark at
    least. ``images``: first images of a ranking; ``side``: pixels of the longer side of an image.
    """

    examples: int = 16
    of_group: int = 3
    images: int = 5
    side: int = 160


def render(runs: Sequence[Run], look: Look, root: Path | None = None) -> str:
    """Return the page of a run, or of two on the same queries.

    Args:
        runs: one or two.
        look: how much is shown.
        root: folder of the benchmark, if it has moved since.

    Raises:
        InputError: if two runs can't be compared.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # no other command needs it

    names = list(runs[0].splits) if len(runs) == 1 else check_comparable(*runs)
    environment = Environment(autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(FOLDER))
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    labels = run_labels(runs)
    return environment.get_template("page.html").render(
        title=f"Report of {labels[0]}" if len(runs) == 1 else f"{labels[1]} against {labels[0]}",
        runs=[{"label": label, "folder": str(run.folder)} for label, run in zip(labels, runs, strict=True)],
        made=f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by experiments.report.",
        draws=DRAWS,
        parts=[part(name, dict(zip(labels, runs, strict=True)), look, root) for name in names],
        legend=[(row.replace("_", " "), COLOURS[row]) for row in BASELINES],
        reason_names=REASONS,
        p_text=p_text,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def part(name: str, runs: Mapping[str, Run], look: Look, root: Path | None) -> dict[str, Any]:
    """Return what the template shows of a split."""
    splits = {label: run.splits[name] for label, run in runs.items()}
    first = next(iter(splits.values()))
    thumbnails = Thumbnails(joined_head(splits), look.side, root)
    paired = compare(*splits.values()) if len(splits) == 2 else []
    cards, warnings = shown_cards(splits, thumbnails, look), []
    if any(split.found is None for split in splits.values()):
        lacking = ", ".join(label for label, split in splits.items() if split.found is None)
        warnings.append(
            f"No captions and images of {lacking}: the run has ranks only. Tables by length of the caption, confusions"
            f" and examples need retrieved/{name}.jsonl.gz, which QueryResults writes when a run is evaluated again."
        )
    if thumbnails.missing:
        why = next(iter(thumbnails.missing.values()))
        warnings.append(
            f"{len(thumbnails.missing):,} of {len(thumbnails.wanted):,} images are not where they were: {why}. The "
            "page is made without them; --root names their new folder."
        )
    widest = max((abs(bound) for _, lines in paired for line in lines for bound in line.difference[1:3]), default=1.0)
    kinds = [reason for reason in REASONS if any(reason in card["reasons"] for card in cards)]
    return {
        "anchor": f"split-{name}",
        "title": f"{first.benchmark} {name}".strip(),
        "about": about(first),
        "warnings": warnings,
        "paired": paired,
        "span": min(100, max(5, 5 * math.ceil(widest / 5))),
        "runs": [tables(label, split) for label, split in splits.items()],
        "cards": cards,
        "cards_note": (
            f"Chosen by rule: of each kind the first {look.examples} of all queries and {look.of_group} of each group. "
            "Worst failures: the target comes last; near misses: it comes 2nd to 5th, its score closest to the first "
            "one. Framed: a right answer; below the others, what they are to the query, where that is known."
        ),
        "reasons": [(reason, REASONS[reason]) for reason in kinds],
        "filters": [(title, groups) for title, groups in groups_of(first).items() if title != "All"],
    }


def about(split: Split) -> str:
    """Return what is ranked, in a sentence."""
    images = f", {split.head.gallery:,} images" if split.head is not None else ""
    references = len(set(split.clusters()))
    text = f"{len(split.queries):,} queries of {references:,} references{images}."
    if split.in_subsets:
        text += " Ranks are in the queries' own sets of images."
    if split.head is not None and split.head.of_first:
        text += " Ranks are of the target that the query was written for; the others count as right answers in mAP."
    return text


def tables(label: str, split: Split) -> dict[str, Any]:
    """Return the tables of a run."""
    columns = recall_columns(split)
    found, totals = confusions(split)
    named = {
        "target": "a right answer" if split.several_targets else "the target",
        "reference": "the reference itself",
        "same set": "an image of the same set",
    }
    explained = "R@k: the target is among the first k."
    if any(column.title == "Rsub@1" for column in columns):
        explained += " Rsub@1: it comes first of the query's own set."
    if split.several_targets:
        explained += " mAP@5 counts all right answers."
    one_sided, recall = one_sided_columns(split), by_group(split, columns)
    highest = max((line.cells[0].high for s in recall.sections for line in s.lines if line.cells[0]), default=100.0)
    target_first = sum(line.counts[COMPOSED] for line in found if line.kind == "target")
    return {
        "label": label,
        "recall": recall,
        "top": min(100, 20 * math.ceil(highest / 20)) or 20,  # of the scale of the charts
        "charts": chart_values([column.title for column in columns]),
        "explained": explained,
        "one_sided": by_group(split, one_sided) if one_sided else None,
        "confusions": [
            {
                "name": named.get(
                    line.kind, f"{line.kind} (hard negative)" if line.kind in split.before else line.kind
                ),
                "cells": [(line.counts[row], f"{100 * line.counts[row] / max(totals[row], 1):.1f}") for row in totals],
            }
            for line in found
        ],
        "confusions_note": (
            f"What the highest score belongs to, of all queries; {totals.get(COMPOSED, 0) - target_first:,} have "
            "another image than a right answer first."
        ),
        "totals": [row.replace("_", " ") for row in totals],
        "roles": roles(split),
    }


def chart_values(titles: Sequence[str]) -> Callable[[Line], list[tuple[float, str]]]:
    """Return the function that gives the figures of the baselines, with their colours, of a line of the table."""
    places = {
        number: COLOURS[row]
        for number, title in enumerate(titles)
        for row in BASELINES
        if title.startswith(f"{row.replace('_', ' ')} ")
    }

    def values(line: Line) -> list[tuple[float, str]]:
        figures = ((line.cells[number], colour) for number, colour in places.items())
        return [(figure.mean, colour) for figure, colour in figures if figure is not None]

    return values


def shown_cards(splits: Mapping[str, Split], thumbnails: Thumbnails, look: Look) -> list[dict[str, Any]]:
    """Return the queries to look at: won and lost ones of two runs, then failures and near misses of the last."""
    if any(split.found is None for split in splits.values()):
        return []
    maker = Cards(dict(splits), thumbnails, look.images)
    cards: list[tuple[Card, str]] = []
    if len(splits) == 2:
        cards += [(card, "") for card in maker.changes(look.examples)]
    last = list(splits)[-1]
    cards += [(card, last if len(splits) > 1 else "") for card in maker.failures(last, look.examples, look.of_group)]
    return [{**vars(card), "run": run} for card, run in cards]


def joined_head(splits: Mapping[str, Split]) -> Any:
    """Return the head of the first run with the pictures of all: the second may name other images."""
    heads = [split.head for split in splits.values() if split.head is not None]
    if not heads:
        return None
    pictures = {name: picture for head in reversed(heads) for name, picture in head.pictures.items()}
    return heads[0]._replace(pictures=pictures)


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run, the whole path where two have the same."""
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        labels = [str(run.folder) for run in runs]
    return labels if len(set(labels)) == len(labels) else [f"{labels[0]} (first)", f"{labels[0]} (second)"]


def p_text(p: float) -> str:
    """Return a p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
