"""Write: what was kept becomes a manifest that trains, split into train and val without shared images."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from contextcir.phrases.parser import PhraseParser
from contextcir.synthesis.lookup import Lookup
from contextcir.synthesis.records import Instruction, Pair
from contextcir.synthesis.shards import read_stage
from contextcir.synthesis.split import Components, choose

FOLDER = "manifest"
SPLITS = ("train", "val")
BATCH = 512  # captions that are parsed at a time


@dataclass
class Written:
    """What a manifest holds, by split: triplets, images, and triplets by number of concepts.

    ``groups``: sets of triplets that share images. ``largest``: triplets in the largest of them. ``off``: triplets
    by which val is off its share, for groups are not taken apart.
    """

    triplets: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    concepts: dict[str, Counter[int]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    words: Counter[int] = field(default_factory=Counter)
    groups: int = 0
    largest: int = 0
    off: int = 0


def write_manifest(folder: Path, parser: PhraseParser | None, val_share: float = 0.1, seed: int = 0) -> Written:
    """Write ``manifest/train.jsonl`` and ``manifest/val.jsonl`` below the folder of a synthesis, whole or not at all.

    Records are sorted by key, so that the same instructions and verdicts give the same bytes. Each has ``reference``,
    ``target``, ``caption``, ``concepts``, ``phrases`` with spans in the cleaned caption, ``image_set`` where the pair
    has one, and ``provenance``. A split without records has no file.

    Args:
        folder: of the synthesis.
        parser: finds noun phrases; None writes none.
        val_share: of all triplets.
        seed: draws the split.

    Raises:
        ValueError: if nothing was kept, or the share is not in range.
    """
    verdicts, texts, pairs = (Lookup(folder, stage) for stage in ("filter", "instruct", "pairs"))
    kept = sorted(record["key"] for record in read_stage(folder, "filter") if record["reason"] is None)
    if not kept:
        raise ValueError(f"{folder}: no instruction was kept, so there is nothing to write: look at its folder filter")
    groups, members = Components(), Counter()
    of_pair = Counter(texts[key]["pair"] for key in kept)
    for pair in of_pair:
        groups.join([pairs[pair]["reference"], pairs[pair]["target"]])
    for pair, count in of_pair.items():
        members[groups.find(pairs[pair]["reference"])] += count
    val = choose(dict(members), val_share, seed)
    written = Written(groups=len(members), largest=max(members.values()))
    written.off = sum(members[group] for group in val) - round(val_share * len(kept))
    images: dict[str, set[str]] = {split: set() for split in SPLITS}
    sets: dict[tuple[str, ...], int] = {}

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, key in enumerate(kept):
            instruction = Instruction.from_json(texts[key])
            pair = Pair.from_json(pairs[instruction.pair])
            split = "val" if groups.find(pair.reference) in val else "train"
            images[split] |= {pair.reference, pair.target}
            written.triplets[split] += 1
            written.concepts[split][instruction.concepts] += 1
            written.words[len(instruction.caption.split())] += 1
            record = {
                "id": number,
                "reference": pair.reference,
                "target": pair.target,
                "caption": instruction.caption,
                "concepts": instruction.concepts,
            }
            if pair.image_set:
                record["image_set"] = sets.setdefault(tuple(sorted(pair.image_set)), len(sets))
            yield split, {**record, "provenance": _provenance(instruction, pair, verdicts[key]["scores"])}

    with _whole_files(folder / FOLDER) as files:
        rest = records()
        while batch := list(islice(rest, BATCH)):
            for (split, record), phrases in zip(batch, _phrases([r["caption"] for _, r in batch], parser), strict=True):
                files[split].write(_line(record if phrases is None else {**record, "phrases": phrases}))
    written.images.update({split: len(names) for split, names in images.items()})
    return written


def _provenance(instruction: Instruction, pair: Pair, scores: dict[str, float]) -> dict[str, Any]:
    told = {name: value for name, value in instruction.provenance.items() if name != "usage"}
    keys = {"pairs": pair.key, "describe": pair.key, "instruct": instruction.key, "filter": instruction.key}
    return {"source": pair.source, **told, "edits": list(instruction.edits), "stages": keys, "scores": scores}


def _phrases(captions: Sequence[str], parser: PhraseParser | None) -> list[list[dict[str, Any]] | None]:
    if parser is None:
        return [None] * len(captions)
    from contextcir.phrases.parser import clean  # imports torch, which takes seconds

    return [
        [{"text": clean(caption)[start:end], "start": start, "end": end} for start, end in spans]
        for caption, spans in zip(captions, parser.parse(captions), strict=True)
    ]


@contextmanager
def _whole_files(folder: Path) -> Iterator[dict[str, BinaryIO]]:
    """Open a file for every split; they take their names when all is written, and one that stayed empty is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    new = {split: folder / f"{split}.new" for split in SPLITS}
    try:
        with ExitStack() as stack:
            files = {split: stack.enter_context(path.open("wb")) for split, path in new.items()}
            yield files
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        for split, path in new.items():
            final = folder / f"{split}.jsonl"
            if path.stat().st_size:
                path.replace(final)
            else:
                final.unlink(missing_ok=True)
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
