"""Ideal choosers: how often an eye without error picks the target, by the text and a part of the reference.

A chooser picks at random among the members of a query's set that answer the text, as far as it knows the reference.
"""

from collections.abc import Mapping, Sequence

from data_modules.records import Evaluation
from data_modules.scenes.answerable import Unbound, answers, follows
from data_modules.scenes.graph import Scene
from data_modules.scenes.reading import Statement, read

TEXT = "ideal chooser, text alone"
UNBOUND = "ideal chooser, text and unbound attributes of the reference"
BOUND = "ideal chooser, text and reference"
METRIC = "subset_recall_at_1"


def fitting(statements: Sequence[Statement], reference: Scene, members: Sequence[Scene]) -> dict[str, int]:
    """Return by chooser how many of the members it can't rule out."""
    known = Unbound.of(reference)
    return {
        TEXT: sum(answers(statements, member) for member in members),
        UNBOUND: sum(answers(statements, member, known) for member in members),
        BOUND: sum(follows(statements, reference, member) for member in members),
    }


def choosers(evaluation: Evaluation, scenes: Mapping[str, Scene]) -> dict[str, dict[str, float]]:
    """Return by chooser its expected figure in percent, over all queries and by stratum.

    ``scenes``: what the images of the gallery show, by name. Raises `reading.Unreadable` for a text that the grammar of
    the benchmark does not have.
    """
    protocol = evaluation.protocol
    shown = [scenes[name] for name in protocol.gallery]
    shares: dict[str, list[float]] = {TEXT: [], UNBOUND: [], BOUND: []}
    for number, record in enumerate(evaluation.records):
        (target,), reference = protocol.targets[number], protocol.references[number]
        others = [shown[image] for image in (protocol.subsets or ())[number] if image not in (target, reference)]
        counts = fitting(read(record.caption), shown[reference], others)
        for name, count in counts.items():
            shares[name].append(100 / (1 + count))
    strata: dict[str, Sequence[int]] = {"": range(len(evaluation.records))}
    strata |= {f"_{name}": members for name, members in protocol.strata.items()}
    return {
        row: {METRIC + name: sum(values[n] for n in members) / len(members) for name, members in strata.items()}
        for row, values in shares.items()
    }
