"""The manifest: kept texts as records that train, split into train and val without shared images."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from contextcir.checks import between
from contextcir.errors import InputError
from contextcir.files import whole_file
from contextcir.phrases.parser import PhraseParser, clean
from contextcir.synthesis.records import Instruction, Pair
from contextcir.synthesis.request_stage import nothing
from contextcir.synthesis.store import Lookup, read_stage

FOLDER = "manifest"
SPLITS = ("train", "val")
BATCH = 512  # captions that are parsed at a time


class Components:
    """Groups of images that are connected by pairs (union-find with path halving)."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, images: Sequence[str]) -> None:
        """Merge the groups of some images."""
        first = self.find(images[0])
        for image in images[1:]:
            other = self.find(image)
            # the least name leads, so that the name of a group does not depend on the order
            first, other = min(first, other), max(first, other)
            self._parents[other] = first

    def find(self, image: str) -> str:
        """Return the name of an image's group: the least path in it."""
        parents = self._parents
        parents.setdefault(image, image)
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image


def choose(sizes: dict[str, int], share: float, seed: int) -> set[str]:
    """Return groups whose sizes add up as near to a share of all as possible, and never to all.

    The seed draws the choice, which is the same for the same groups. Of two equally near sums, the smaller one counts.

    Args:
        sizes: triplets by name of the group.
        share: from 0 to below 1.
        seed: of the draw.

    Raises:
        InputError: if the share is not in range.
    """
    if between(share, 0, 1, "write.val_share") == 1:
        raise InputError("expected a share below 1", setting="write.val_share")
    total = sum(sizes.values())
    wanted = min(round(share * total), total - 1)
    names = sorted(sizes)
    Random(seed).shuffle(names)  # noqa: S311  (draws of an experiment, no secret)
    chosen, left = set(), wanted
    for name in names:  # nearly always exact, as most groups are small
        if sizes[name] <= left:
            chosen.add(name)
            left -= sizes[name]
    return chosen if left == 0 else _nearest(names, sizes, wanted, total)


def _nearest(names: Sequence[str], sizes: dict[str, int], wanted: int, total: int) -> set[str]:
    """Return the best choice by dynamic programming over reachable sums (bounded knapsack, binary bundles)."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_size[sizes[name]].append(name)
    limit = min(2 * wanted, total - 1)  # a sum beyond is worse than the empty choice
    reached = np.zeros(limit + 1, bool)
    reached[0] = True
    made_by = np.full(limit + 1, -1)  # the bundle by which a sum was reached first
    bundles: list[list[str]] = []
    for size, members in by_size.items():
        for bundle in _bundles(members):
            weight = size * len(bundle)
            if weight <= limit:
                new = np.flatnonzero(reached[: limit + 1 - weight] & ~reached[weight:]) + weight
                reached[new] = True
                made_by[new] = len(bundles)
            bundles.append(bundle)
    sums = np.flatnonzero(reached)
    best = int(sums[np.argmin(np.abs(sums - wanted))])  # the first, so the smaller, of two
    chosen: set[str] = set()
    while best:
        bundle = bundles[made_by[best]]
        chosen.update(bundle)
        best -= sizes[bundle[0]] * len(bundle)
    return chosen


def _bundles(members: Sequence[str]) -> Iterable[list[str]]:
    """Yield bundles of 1, 2, 4, ... members and the rest, of which any number of members can be composed."""
    start, count = 0, 1
    while start < len(members):
        yield list(members[start : start + count])
        start, count = start + count, 2 * count


@dataclass
class Written:
    """The counts of a manifest, by split: triplets, images, and triplets by number of concepts.

    ``groups``: sets of triplets that share images. ``largest``: triplets in the largest of them. ``off``: triplets
    by which val misses its share, because groups stay together. ``turned``: images that are not stored upright.
    """

    triplets: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    concepts: dict[str, Counter[int]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    words: Counter[int] = field(default_factory=Counter)
    groups: int = 0
    largest: int = 0
    off: int = 0
    turned: int = 0


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
        InputError: if nothing was kept, or the share is not in range.
    """
    verdicts, texts, pairs = (Lookup(folder, stage) for stage in ("filter", "instruct", "pairs"))
    kept = sorted({record["key"] for record in read_stage(folder, "filter") if record["reason"] is None})
    if not kept:
        raise _nothing_kept(folder)
    groups, members = Components(), Counter[str]()
    for key in kept:
        texts.require(key, "filter")
    of_pair = Counter(texts[key]["pair"] for key in kept)
    for pair in of_pair:
        pairs.require(pair, "instruct")
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

    used = ("train", *(["val"] if val else []))  # the share of val is below 1
    paths = {split: folder / FOLDER / f"{split}.jsonl" for split in SPLITS}
    with ExitStack() as stack:
        files = {split: stack.enter_context(whole_file(paths[split])) for split in used}
        rest = records()
        while batch := list(islice(rest, BATCH)):
            for (split, record), phrases in zip(batch, _phrases([r["caption"] for _, r in batch], parser), strict=True):
                files[split].write(_line(record if phrases is None else {**record, "phrases": phrases}))
    for split in set(SPLITS) - set(used):
        paths[split].unlink(missing_ok=True)
    written.images.update({split: len(names) for split, names in images.items()})
    return written


def _nothing_kept(folder: Path) -> InputError:
    """Return the error that says why no text is there to be written."""
    rejected = Counter(record["reason"] for record in read_stage(folder, "filter"))
    if not rejected:
        missing = "filter" if next(read_stage(folder, "instruct"), None) is not None else "instruct"
        why = nothing(folder, missing)
        return InputError(f"no instruction was kept, nothing to write: {why.problem}", file=folder, setting=why.setting)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejected.most_common(4))
    return InputError(
        f"no instruction was kept, so there is nothing to write: {rejected.total():,} were rejected ({reasons})",
        file=folder,
        setting="filters",
    )


def _provenance(instruction: Instruction, pair: Pair, scores: dict[str, float]) -> dict[str, Any]:
    origin = {name: value for name, value in instruction.provenance.items() if name != "usage"}
    keys = {"pairs": pair.key, "describe": pair.key, "instruct": instruction.key, "filter": instruction.key}
    return {"source": pair.source, **origin, "edits": list(instruction.edits), "stages": keys, "scores": scores}


def _phrases(captions: Sequence[str], parser: PhraseParser | None) -> list[list[dict[str, Any]] | None]:
    if parser is None:
        return [None] * len(captions)
    return [
        [{"text": clean(caption)[start:end], "start": start, "end": end} for start, end in parse.phrases]
        for caption, parse in zip(captions, parser.parse(captions), strict=True)
    ]


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
