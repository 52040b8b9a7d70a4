"""Score the instructions of a synthesis on scenes against what the images show: Markdown tables.

python -m experiments.quality.synthesis_precision --run runs/synthesis/scenes --root datasets/scenes

A text is true if every change that it asks for is one of its pair, and complete if it asks for all of them. Texts are
parsed by a grammar of their own (data_modules/scenes/reading.py); the statements of the describer are not used.
"""

import json as json_format
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.synthesis.records import Instruction
from contextcir.synthesis.store import Lookup, read_stage
from data_modules.scenes.describer import SceneGraphs
from data_modules.scenes.truth import Judgement, judge
from experiments.command import command, table
from experiments.outputs import output_file

LEVEL = 0.95  # of confidence intervals
MEASURES = ("true", "complete", "right")
LAST = 5  # numbers of changes from here on share a row
Group = tuple[str, str]  # "all" or "kept", and the number of changes, or "all"


@dataclass
class Score:
    """Counts among ``n`` texts: ``true``, ``complete``, ``right`` (both), ``unread``, ``idle`` (see `Judgement`)."""

    n: int = 0
    true: int = 0
    complete: int = 0
    right: int = 0
    unread: int = 0
    idle: int = 0

    def take(self, judgement: Judgement) -> None:
        """Count a text."""
        self.n += 1
        self.true += judgement.true
        self.complete += judgement.complete
        self.right += judgement.true and judgement.complete
        self.unread += bool(judgement.unread)
        self.idle += judgement.idle > 0


@dataclass(frozen=True)
class Judged:
    """A text, its errors, and why filters rejected it: None if they kept it, "" if they did not see it."""

    instruction: Instruction
    judgement: Judgement
    reason: str | None


def judge_run(run: Path, root: Path) -> Iterator[Judged]:
    """Yield every text of a synthesis.

    Raises:
        InputError: if there is none, a shard is damaged, an image is none of the scenes, or there are no scenes.
    """
    graphs, pairs, verdicts = SceneGraphs(root), Lookup(run, "pairs"), Lookup(run, "filter")
    empty = True
    for record in read_stage(run, "instruct"):
        empty = False
        instruction = Instruction.from_json(record)
        pair = pairs[instruction.pair]
        scenes = (graphs.find(pair[side]) for side in ("reference", "target"))
        reason = verdicts[instruction.key]["reason"] if instruction.key in verdicts else ""
        yield Judged(instruction, judge(instruction.caption, *scenes), reason)
    if empty:
        raise InputError(f"{run} holds no instructions: give the folder of a synthesis", setting="run")


def score(texts: Iterable[Judged]) -> dict[Group, Score]:
    """Count texts by the number of changes that they ask for: all texts, and those that the filters kept."""
    scores: dict[Group, Score] = {}
    for text in texts:
        count = text.instruction.concepts
        row = str(count) if count < LAST else f"{LAST} or more"
        for kept in ("all", "kept") if text.reason is None else ("all",):
            for changes in (row, "all"):
                scores.setdefault((kept, changes), Score()).take(text.judgement)
    return dict(sorted(scores.items()))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, from 0 to 1 (Wilson, 1927; as in Brown, Cai and DasGupta, 2001)."""
    if not n:
        return 0.0, 1.0
    from scipy.stats import binomtest  # takes seconds to import

    low, high = binomtest(hits, n).proportion_ci(LEVEL, "wilson")
    return float(low), float(high)


def markdown(scores: Mapping[Group, Score]) -> str:
    """Return the table: percentages, and their intervals in brackets."""
    header = ("texts", "changes", "n", "true %", "complete %", "right %", "idle", "unread")
    rows = []
    for (kept, changes), row in scores.items():
        shares = [_share(getattr(row, measure), row.n) for measure in MEASURES]
        rows.append([kept, changes, f"{row.n:,}", *shares, f"{row.idle:,}", f"{row.unread:,}"])
    return table(header, rows, left=2).rstrip("\n")


def _share(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{100 * hits / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def synthesis_precision(
    run: Path = Path("runs/synthesis/scenes"),
    root: Path = Path("datasets/scenes"),
    json: Path | None = None,
    examples: int = 5,
) -> None:
    """Print how many texts are true, complete, and right (both), of all texts and of those that the filters kept.

    Args:
        run: Folder of the synthesis.
        root: Of the scenes.
        json: File for the numbers.
        examples: How many wrong texts are listed below the table.
    """
    whole(examples, 0, "examples")
    output_file(json, "json")
    texts = list(judge_run(run, root))
    scores = score(texts)
    print(markdown(scores))
    wrong = [text for text in texts if not (text.judgement.true and text.judgement.complete)]
    for text in wrong[:examples]:
        errors = text.judgement.unread or f"{text.judgement.false} false, {text.judgement.missing} missing"
        print(f"{text.instruction.key}: {text.instruction.caption!r}: {errors}")
    if json is not None:
        rows = [{"texts": kept, "changes": changes, **asdict(row)} for (kept, changes), row in scores.items()]
        json.write_text(json_format.dumps(rows, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line."""
    command(synthesis_precision)


if __name__ == "__main__":
    main()
