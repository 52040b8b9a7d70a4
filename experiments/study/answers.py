"""The questions of a study and their answers: differences of two variants, over references and over seeds."""

from collections.abc import Mapping
from typing import NamedTuple

from experiments import command
from experiments.study.plan import Pair, Plan
from experiments.study.queries import DRAWS, Bootstrapped, QueryFigures, bootstrap_difference
from experiments.study.results import Interval, mean, paired_difference
from experiments.study.tables import NONE


class Difference(NamedTuple):
    """A figure of a pair: its difference with the interval over references, and with that over seeds."""

    over_references: Bootstrapped
    over_seeds: Interval


class Answer(NamedTuple):
    """A question and its differences by label of the figure."""

    pair: Pair
    differences: dict[str, Difference]


def collect_answers(plan: Plan, queries: Mapping[str, Mapping[int, QueryFigures]], labels: list[str]) -> list[Answer]:
    """Return the answers of a study from its runs' outcomes by variant and seed, to the figures of these labels.

    Questions whose variants have no run of the same seed are left out.
    """
    answers = []
    for pair in plan.pairs:
        first, second = queries.get(pair.first, {}), queries.get(pair.second, {})
        differences: dict[str, Difference] = {}
        for label in labels:
            name = plan.answers[label]
            over_references = bootstrap_difference(first, second, name)
            if over_references is not None:
                differences[label] = Difference(over_references, difference_over_seeds(first, second, name))
        if differences:
            answers.append(Answer(pair, differences))
    return answers


def difference_over_seeds(first: Mapping[int, QueryFigures], second: Mapping[int, QueryFigures], name: str) -> Interval:
    """Return the paired difference of a figure in percent, one value a seed, with Student's interval."""
    pairs = []
    for seed in sorted(first.keys() & second.keys()):
        ours, theirs = first[seed].outcomes(name), second[seed].outcomes(name)
        both = ours.keys() & theirs.keys()
        if both:
            pairs.append((mean([100 * ours[query] for query in both]), mean([100 * theirs[query] for query in both])))
    return paired_difference([ours for ours, _ in pairs], [theirs for _, theirs in pairs])


def answers_text(answers: list[Answer], labels: list[str]) -> str:
    """Return the section of the report: two tables, and what their intervals mean."""
    over_references, over_seeds = [], []
    for pair, differences in answers:
        names = f"{pair.first} - {pair.second}"
        cells = [differences.get(label) for label in labels]
        over_references.append(
            [pair.question, names, *(NONE if cell is None else cell.over_references.text() for cell in cells)]
        )
        over_seeds.append([names, *(NONE if cell is None else seeds_text(cell.over_seeds) for cell in cells)])
    sizes = [d.over_references for answer in answers for d in answer.differences.values()]
    largest = max(sizes, key=lambda size: size.queries)
    explained = (
        f"Difference in percentage points [95 % interval], **bold** where it excludes 0: bootstrap over references "
        f"({DRAWS:,} draws; up to {largest.queries:,} queries of {largest.references:,} references), each with all of "
        f"its queries and all seeds ({max(size.seeds for size in sizes)}). It tells how the difference varies with the "
        "queries; the second table, how it varies with the seed (Student's t). A claim needs both."
    )
    return "\n\n".join(
        [
            "## Answers",
            explained,
            command.table(["question", "difference", *labels], over_references, left=2).rstrip("\n"),
            command.table(["over seeds", *labels], over_seeds).rstrip("\n"),
        ]
    )


def seeds_text(interval: Interval) -> str:
    """Return a difference over seeds as it stands in the table, in bold where its interval excludes 0."""
    text = interval.text(signed=True)
    return f"**{text}**" if interval.excludes_zero else text
