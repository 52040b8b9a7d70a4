"""Measure how often an edit goes wrong when others stand in the same text: a curve over 1, 2 and 4 edits.

python -m experiments.quality.interference --checkpoint runs/scenes/ID/checkpoints/last.ckpt --json interference.json

A text asks for 1, 2 or 4 edits of a reference; the target shows all of them, a wrong picture all but one. It has
another outcome of that edit (wrong value), or the edit done to an object that nobody mentioned (wrong object). The
figure is how often the query is closer to the target than to the wrong picture. The ceiling is the same with a twin of
the target, the same scene in another rendering, as the query: what falls in that row is due to the pictures, not to
the text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contextcir.batch import Clauses, phrases_of
from contextcir.checks import whole
from contextcir.files import write_json
from contextcir.training.module import ContextCIR
from experiments.command import command, processor, table
from experiments.outputs import output_file
from experiments.quality.company import KINDS, SIZES, STREAM, Asked, Question, Span, draw_asked
from experiments.quality.pictures import BATCH, Pictures

DRAWS = 2000  # of the bootstrap
COMPOSED, WITHOUT_CLAUSES, TWIN = "composed query", "composed query, captions as one clause", "twin of the target"


@dataclass(frozen=True)
class Cell:
    """A share in percent of ``n`` cases, and its 95 % interval; None where there is no case."""

    percent: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Curve:
    """How often the target came first, by edits in the text, and how much that changes from the fewest to the most."""

    cells: Mapping[int, Cell]
    change: Cell


@dataclass(frozen=True)
class Outcome:
    """Whether the target came before a wrong picture. ``reference``: its number."""

    reference: int
    size: int
    kind: str
    right: bool


def curves(outcomes: Sequence[Outcome], seed: int = 0, draws: int = DRAWS) -> dict[str, Curve]:
    """Return by kind the curve over the edits in the text.

    Intervals are percentiles of a bootstrap over references, whose cases are drawn together.
    """
    references = sorted({outcome.reference for outcome in outcomes})
    position = {reference: row for row, reference in enumerate(references)}
    found = {}
    for kind in KINDS:
        right, count = np.zeros((2, len(references), len(SIZES)))  # (R, sizes) each
        for outcome in outcomes:
            if outcome.kind == kind:
                cell = position[outcome.reference], SIZES.index(outcome.size)
                right[cell] += outcome.right
                count[cell] += 1
        rng = np.random.default_rng(seed)
        rows = rng.integers(len(references), size=(draws, len(references))) if references else np.zeros((draws, 0), int)
        drawn = _percent(right[rows].sum(axis=1), count[rows].sum(axis=1))  # (draws, sizes)
        mean, total = _percent(right.sum(axis=0), count.sum(axis=0)), count.sum(axis=0).astype(int)
        cells = {size: _cell(mean[i], drawn[:, i], total[i]) for i, size in enumerate(SIZES)}
        found[kind] = Curve(cells, _cell(mean[-1] - mean[0], drawn[:, -1] - drawn[:, 0], min(total[0], total[-1])))
    return found


def _percent(right: np.ndarray, count: np.ndarray) -> np.ndarray:
    return 100 * np.divide(right, count, out=np.full(right.shape, np.nan), where=count > 0)


def _cell(value: float, drawn: np.ndarray, count: int) -> Cell:
    if np.isnan(value):
        return Cell(None, None, None, 0)
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Cell(float(value), float(low), float(high), int(count))


def compose_queries(
    model: ContextCIR,
    images: Tensor,
    captions: Sequence[str],
    spans: Sequence[Sequence[Span]],
    clauses: Sequence[Sequence[Span]] | None,
) -> Tensor:
    """Compose references (B, 3, S, S) with B captions: (B, E), L2-normalised.

    ``spans``: of noun phrases, by caption. ``clauses``: likewise; None where every caption is one clause.
    """
    given = None if clauses is None else Clauses(*phrases_of(clauses, images.device)[:2])
    return model.embed_query(images, captions, phrases_of(spans, images.device), given)


def measure(model: ContextCIR, asked: Sequence[Asked], seed: int = 0) -> dict[str, list[Outcome]]:
    """Return all outcomes by what is the query: the composed one, the same without clauses, a twin of the target.

    The row without clauses is there for fusions that read them.
    """
    owner = [number for number, each in enumerate(asked) for _ in each.questions]
    questions = [question for each in asked for question in each.questions]
    pictures = Pictures(model.backbone, [seed, STREAM, 0, 1])
    references = torch.cat([pictures.render([each.reference]) for each in asked])  # (R, 3, S, S)
    targets, twins = (pictures.embed([question.target for question in questions]) for _ in range(2))
    wrong = [(row, kind, scene) for row, question in enumerate(questions) for kind, scene in question.wrong.items()]
    wrongs = pictures.embed([scene for _, _, scene in wrong])  # (N, E)
    queries = {COMPOSED: _composed(model, references, owner, questions, True)}
    if getattr(model.fusion, "reads_clauses", False):
        queries[WITHOUT_CLAUSES] = _composed(model, references, owner, questions, False)
    rows = torch.tensor([row for row, _, _ in wrong])
    outcomes = {}
    for name, embeddings in {**queries, TWIN: twins}.items():
        query = embeddings[rows]  # (N, E)
        first = (query * targets[rows]).sum(dim=1) > (query * wrongs).sum(dim=1)  # (N,)
        outcomes[name] = [
            Outcome(owner[row], questions[row].size, kind, right)
            for (row, kind, _), right in zip(wrong, first.tolist(), strict=True)
        ]
    return outcomes


def _composed(
    model: ContextCIR, references: Tensor, owner: Sequence[int], questions: Sequence[Question], by_clause: bool
) -> Tensor:
    parts = []
    for start in range(0, len(questions), BATCH):
        chosen = questions[start : start + BATCH]
        clauses = [question.clauses for question in chosen] if by_clause else None
        captions, phrases = [question.caption for question in chosen], [question.phrases for question in chosen]
        parts.append(compose_queries(model, references[owner[start : start + BATCH]], captions, phrases, clauses))
    return torch.cat(parts)


def markdown(measured: Mapping[str, Mapping[str, Curve]]) -> str:
    """Return the table of all curves."""
    header = ["percent right (95 % interval)", "wrong picture", *(f"{n} edit{'s' * (n > 1)}" for n in SIZES)]
    rows = []
    for name, by_kind in measured.items():
        for kind, curve in by_kind.items():
            cells = [*map(_words, curve.cells.values()), _words(curve.change, signed=True)]
            rows.append([name, kind, *cells, str(curve.cells[SIZES[0]].n)])
    return table([*header, f"from {SIZES[0]} to {SIZES[-1]}", "n a cell"], rows, left=2)


def _words(cell: Cell, signed: bool = False) -> str:
    if cell.percent is None:
        return "-"
    form = "+.1f" if signed else ".1f"
    return f"{cell.percent:{form}} ({cell.low:{form}} to {cell.high:{form}})"


def interference(
    checkpoint: Path, references: int = 60, seed: int = 0, threads: int = 1, json: Path | None = None
) -> None:
    """Measure how often an edit goes wrong, alone and with others in the text, on scenes that no split holds.

    Args:
        checkpoint: Checkpoint of any model of experiments.run.
        references: References that are drawn, each with four edits.
        seed: Draws references, edits, pictures and bootstrap samples.
        threads: CPU threads.
        json: File for all figures.
    """
    whole(references, 1, "references")
    whole(seed, 0, "seed", 2**32 - 1)
    whole(threads, 1, "threads")
    output_file(json, "json")
    torch.set_num_threads(threads)
    model = ContextCIR.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    asked = [draw_asked(seed, number) for number in range(references)]
    outcomes = measure(model, asked, seed)
    measured = {name: curves(each, seed) for name, each in outcomes.items()}
    questions = list(chain.from_iterable(each.questions for each in asked))
    print(f"{checkpoint.name}: {len(questions)} texts on {references} references, seed {seed}\n")
    print(markdown(measured))
    if json is not None:
        report = {"checkpoint": checkpoint.name, "references": references, "seed": seed, "machine": processor()}
        report |= {"texts": len(questions), "torch": torch.__version__}
        figures = {name: {kind: asdict(curve) for kind, curve in each.items()} for name, each in measured.items()}
        write_json(json, {**report, "curves": figures}, indent=2)


def main() -> None:
    """Parse the command line."""
    command(interference)


if __name__ == "__main__":
    main()
