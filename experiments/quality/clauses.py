"""Measure how well the parsers find the clauses of captions of Scenes, whose grammar gives the true ones.

python -m experiments.quality.clauses --root /path/to/scenes --split val
"""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from contextcir.errors import InputError
from contextcir.phrases.chunks import ChunkParser
from contextcir.phrases.constituency import ConstituencyParser
from contextcir.phrases.parser import Parse, PhraseParser
from data_modules.reading.json_files import read_records
from data_modules.scenes.clauses import SceneClauses
from experiments.command import command


def exact(found: Sequence[Parse], true: Sequence[Parse], edits: Sequence[int]) -> dict[int, float]:
    """Return the share of captions, in percent, all of whose clauses are right, by number of edits; 0 for all."""
    right: Counter[int] = Counter()
    count: Counter[int] = Counter()
    for one, other, number in zip(found, true, edits, strict=True):
        for group in (0, number):
            count[group] += 1
            right[group] += one.clauses == other.clauses
    return {group: 100 * right[group] / count[group] for group in sorted(count)}


def f1(found: Sequence[Parse], true: Sequence[Parse]) -> float:
    """Return the F1 of spans, in percent."""
    common = sum(len({*one.clauses} & {*other.clauses}) for one, other in zip(found, true, strict=True))
    return 200 * common / max(sum(len(parse.clauses) for parse in (*found, *true)), 1)


def clauses(root: Path, split: str = "val", model_dir: str | None = None) -> None:
    """Measure both parsers on the captions of a split.

    Args:
        root: Of a drawn Scenes benchmark.
        split: Train, val, test or test_unseen.
        model_dir: Folder of Stanza's models; by default that of STANZA_RESOURCES_DIR, or Stanza's own.
    """
    torch.set_num_threads(1)
    records = read_records(root / "captions" / f"cap.scenes.{split}.json")
    try:
        captions, edits = [record["caption"] for record in records], [record["concepts"] for record in records]
    except (KeyError, TypeError):
        raise InputError("holds no captions of Scenes", file=root, setting="root") from None
    true = SceneClauses().find(captions)
    parsers: tuple[PhraseParser, ...] = (ConstituencyParser(model_dir=model_dir), ChunkParser())
    for parser in parsers:
        start = time.process_time()
        found = parser.parse(captions)
        seconds = time.process_time() - start
        shares = ", ".join(f"{group or 'all'}: {share:.1f}" for group, share in exact(found, true, edits).items())
        print(f"{parser.key}\n  exact % by edits {shares}; F1 {f1(found, true):.1f}; {seconds:.1f} CPU s", flush=True)


if __name__ == "__main__":
    command(clauses)
