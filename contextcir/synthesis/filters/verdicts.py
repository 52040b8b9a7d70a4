"""The filter stage: a verdict for every instruction."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from contextcir.synthesis.filters.base import Candidate, Filter, Finding
from contextcir.synthesis.filters.repeats import Duplicates, Found
from contextcir.synthesis.records import Description, Instruction, Pair, Verdict
from contextcir.synthesis.runner import Run, Tally, progress
from contextcir.synthesis.store import Lookup, read_stage

STAGE = "filter"
BATCH = 256


def sift(
    run: Run,
    filters: Sequence[Filter],
    duplicates: Duplicates = Duplicates(),  # noqa: B008
    images: Path = Path(),
) -> Tally:
    """Judge the instructions of this shard that have no verdict yet; `Tally.failed` counts rejections by reason.

    Filters come in order, and only see what those before them kept; duplicates are looked for first, over all shards.
    Batches are those of an undisturbed run, also after a kill: sums of a model depend in their last digits on the
    batch.

    Args:
        images: folder that image paths are below, for filters that look at images.

    Raises:
        ValueError: if a shard is damaged or in use.
    """
    with run.claimed(STAGE), run.shard(STAGE) as shard:
        known = {record["key"] for record in read_stage(run.folder, STAGE)}
        repeated = duplicates.find(instructions(run.folder))
        tally = Tally(STAGE)
        for instruction in instructions(run.folder):
            if run.is_mine(instruction.pair):
                tally.total += 1
                tally.before += instruction.key in known
        pairs, descriptions = Lookup(run.folder, "pairs"), Lookup(run.folder, "describe")
        for each in filters:
            each.begin(run.folder, images)
        mine = (each for each in instructions(run.folder) if run.is_mine(each.pair))
        with progress(tally) as bar:
            while batch := list(islice(mine, BATCH)):
                if all(instruction.key in known for instruction in batch):
                    continue
                candidates = [
                    Candidate(
                        instruction,
                        Pair.from_json(pairs[instruction.pair]),
                        Description.from_json(descriptions[instruction.pair]),
                    )
                    for instruction in batch
                ]
                verdicts = [each for each in judge(candidates, filters, repeated) if each.key not in known]
                shard.append([verdict.to_json() for verdict in verdicts])
                for verdict in verdicts:
                    if verdict.reason is None:
                        tally.done += 1
                    else:
                        tally.failed[verdict.reason] += 1
                bar.update(len(verdicts))
        return tally


def judge(candidates: Sequence[Candidate], filters: Sequence[Filter], repeated: Found) -> list[Verdict]:
    """Return a verdict for each candidate, in order: the first reason that was found, and all figures up to then."""
    reasons = [repeated.reason(candidate.instruction.key) for candidate in candidates]
    scores: list[dict[str, float]] = [{} for _ in candidates]
    for each in filters:
        left = [number for number, reason in enumerate(reasons) if reason is None]
        found: list[Finding] = each.judge([candidates[number] for number in left]) if left else []
        for number, finding in zip(left, found, strict=True):
            reasons[number] = finding.reason
            scores[number] |= finding.scores
    return [
        Verdict(candidate.instruction.key, reason, figures)
        for candidate, reason, figures in zip(candidates, reasons, scores, strict=True)
    ]


def instructions(folder: Path) -> Iterator[Instruction]:
    """Yield all instructions of a synthesis, those of a pair one after the other."""
    return map(Instruction.from_json, read_stage(folder, "instruct"))
