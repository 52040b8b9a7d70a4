"""The filter stage: a verdict for every instruction."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

from contextcir.shards.keys import KeyTable
from contextcir.synthesis.filters.base import Candidate, Filter
from contextcir.synthesis.filters.repeats import Duplicates, Repeated
from contextcir.synthesis.photos import Photos, photos_of
from contextcir.synthesis.records import Description, Instruction, Pair, Verdict
from contextcir.synthesis.request_stage import nothing
from contextcir.synthesis.stages import Run, Stage, Tally, progress
from contextcir.synthesis.store import Lookup, keys_of, read_stage

BATCH = 256


class FilterStage(Stage):
    """Judges the instructions that have no verdict yet; `Tally.failed` counts rejections by reason.

    Filters come in order and see only what those before them kept; duplicates are found first, over all shards.
    Batches are those of an undisturbed run, also after a kill: a model's sums depend in their last digits on the batch.

    Args:
        filters: in their order.
        duplicates: how often a text may occur.
        images: the images, or the folder that their paths are below, for filters that read them.
        links: let links lead out of it.
    """

    name: ClassVar[str] = "filter"

    def __init__(
        self,
        filters: Sequence[Filter],
        duplicates: Duplicates = Duplicates(),  # noqa: B008
        images: Path | Photos = Path(),
        links: bool = False,
    ) -> None:
        self.links = links
        self.filters = filters
        self.duplicates = duplicates
        self.images = images

    def begin(self, run: Run) -> None:
        photos_of(self.images, self.links).begin(run.folder)

    def run(self, run: Run) -> Tally:
        with run.claimed(self.name), run.shard(self.name) as shard:
            known = keys_of(run.folder, self.name)
            tally = Tally(self.name, words=("kept", "rejected"))
            repeated = self.duplicates.find(_counted(run, known, tally))
            if not tally.total and next(read_stage(run.folder, "instruct"), None) is None:
                raise nothing(run.folder, "instruct")
            pairs, descriptions = Lookup(run.folder, "pairs"), Lookup(run.folder, "describe")
            for each in self.filters:
                each.begin(run.folder, self.images, self.links)
            own = (each for each in instructions(run.folder) if run.owns(each.pair))
            with progress(tally) as bar:
                while batch := list(islice(own, BATCH)):
                    if all(instruction.key in known for instruction in batch):
                        continue
                    for instruction in batch:
                        pairs.require(instruction.pair, "instruct")
                        descriptions.require(instruction.pair, "instruct")
                    candidates = [
                        Candidate(
                            instruction,
                            Pair.from_json(pairs[instruction.pair]),
                            Description.from_json(descriptions[instruction.pair]),
                        )
                        for instruction in batch
                    ]
                    verdicts = [each for each in judge(candidates, self.filters, repeated) if each.key not in known]
                    shard.append([verdict.to_json() for verdict in verdicts])
                    tally.done += sum(verdict.reason is None for verdict in verdicts)
                    tally.failed.update(verdict.reason for verdict in verdicts if verdict.reason is not None)
                    bar.update(len(verdicts))
            return tally


def _counted(run: Run, known: KeyTable, tally: Tally) -> Iterator[Instruction]:
    """Yield all instructions, and count those of this process's shard."""
    for instruction in instructions(run.folder):
        if run.owns(instruction.pair):
            tally.total += 1
            tally.before += instruction.key in known
        yield instruction


def judge(candidates: Sequence[Candidate], filters: Sequence[Filter], repeated: Repeated) -> list[Verdict]:
    """Return a verdict for each candidate, in order: the first reason, and all scores up to it."""
    reasons = [repeated.reason(candidate.instruction.key) for candidate in candidates]
    scores: list[dict[str, float]] = [{} for _ in candidates]
    for each in filters:
        left = [number for number, reason in enumerate(reasons) if reason is None]
        findings = each.judge([candidates[number] for number in left]) if left else []
        for number, finding in zip(left, findings, strict=True):
            reasons[number] = finding.reason
            scores[number] |= finding.scores
    return [
        Verdict(candidate.instruction.key, reason, figures)
        for candidate, reason, figures in zip(candidates, reasons, scores, strict=True)
    ]


def instructions(folder: Path) -> Iterator[Instruction]:
    """Yield all instructions of a synthesis, those of a pair one after the other."""
    return map(Instruction.from_json, read_stage(folder, "instruct"))
