"""The manifest: kept texts as records that train, split into train and val without shared images."""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np

from contextcir.checks import between
from contextcir.errors import InputError
from contextcir.files import whole_file
from contextcir.phrases.parser import PhraseParser, clean
from contextcir.shards.keys import PLACE, KeySorter
from contextcir.shards.texts import SortedTexts
from contextcir.synthesis.records import Instruction, Pair
from contextcir.synthesis.request_stage import nothing
from contextcir.synthesis.store import Lookup, read_stage

Group = TypeVar("Group", int, str)
FOLDER = "manifest"
SPLITS = ("train", "val")
BATCH = 512  # captions that are parsed at a time


class Components:
    """Groups of images, by their numbers from 0, that are connected by pairs (union-find with path halving).

    Args:
        count: of the images.
    """

    def __init__(self, count: int) -> None:
        self._parents = array("q", range(count))  # 8 bytes an image

    def join(self, images: Sequence[int]) -> None:
        """Merge the groups of some images."""
        first = self.find(images[0])
        for image in images[1:]:
            other = self.find(image)
            # the least number leads, so that the name of a group does not depend on the order
            first, other = min(first, other), max(first, other)
            self._parents[other] = first

    def find(self, image: int) -> int:
        """Return the name of an image's group: the least number in it."""
        parents = self._parents
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image


def choose(sizes: dict[Group, int], share: float, seed: int) -> set[Group]:
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
    chosen, left = set[Group](), wanted
    for name in names:  # nearly always exact, as most groups are small
        if sizes[name] <= left:
            chosen.add(name)
            left -= sizes[name]
    return chosen if left == 0 else _nearest(names, sizes, wanted, total)


def _nearest(names: Sequence[Group], sizes: dict[Group, int], wanted: int, total: int) -> set[Group]:
    """Return the best choice by dynamic programming over reachable sums (bounded knapsack, binary bundles)."""
    by_size: dict[int, list[Group]] = defaultdict(list)
    for name in names:
        by_size[sizes[name]].append(name)
    limit = min(2 * wanted, total - 1)  # a sum beyond is worse than the empty choice
    reached = np.zeros(limit + 1, bool)
    reached[0] = True
    made_by = np.full(limit + 1, -1)  # the bundle by which a sum was reached first
    bundles: list[list[Group]] = []
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
    chosen: set[Group] = set()
    while best:
        bundle = bundles[made_by[best]]
        chosen.update(bundle)
        best -= sizes[bundle[0]] * len(bundle)
    return chosen


def _bundles(members: Sequence[Group]) -> Iterable[list[Group]]:
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
    kept = SortedTexts()
    for record in read_stage(folder, "filter"):
        if record["reason"] is None:
            kept.add(record["key"])
    if not len(kept):
        raise _nothing_kept(folder)

    def triplets() -> Iterator[tuple[str, Instruction, Pair]]:
        for key in kept:
            texts.require(key, "filter")
            instruction = Instruction.from_json(texts[key])
            pairs.require(instruction.pair, "instruct")
            yield key, instruction, Pair.from_json(pairs[instruction.pair])

    images = _Images(pair for _, _, pair in triplets())
    groups, members = Components(len(images)), Counter[int]()
    for _, _, pair in triplets():
        groups.join([images.number(pair.reference), images.number(pair.target)])
    for _, _, pair in triplets():
        members[groups.find(images.number(pair.reference))] += 1
    val = choose(dict(members), val_share, seed)
    written = Written(groups=len(members), largest=max(members.values()))
    written.off = sum(members[group] for group in val) - round(val_share * len(kept))
    seen = {split: bytearray(len(images)) for split in SPLITS}

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, (key, instruction, pair) in enumerate(triplets()):
            places = images.number(pair.reference), images.number(pair.target)
            split = "val" if groups.find(places[0]) in val else "train"
            for place in places:
                seen[split][place] = 1
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
                record["image_set"] = images.set_number(pair)
            yield split, {**record, "provenance": _provenance(instruction, pair, verdicts[key]["scores"])}

    used = ("train", *(["val"] if val else []))  # the share of val is below 1
    paths = {split: folder / FOLDER / f"{split}.jsonl" for split in SPLITS}
    with ExitStack() as stack:
        files = {split: stack.enter_context(whole_file(paths[split])) for split in used}
        rest = records()
        while batch := list(islice(rest, BATCH)):
            for (split, record), phrases in zip(batch, _phrases([r["caption"] for _, r in batch], parser), strict=True):
                files[split].write(_line(record if phrases is None else {**record, "phrases": phrases}))
    for split in sorted(set(SPLITS) - set(used)):
        paths[split].unlink(missing_ok=True)
    written.images.update({split: places.count(1) for split, places in seen.items()})
    return written


class _Images:
    """Numbers of the images of pairs in the order of their paths, and of their image sets as they come."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        paths, sets = SortedTexts(), KeySorter()
        for order, pair in enumerate(pairs):
            paths.add(pair.reference)
            paths.add(pair.target)
            if pair.image_set:
                sets.add(_set_key(pair), 0, order, 0)
        numbers = KeySorter()
        self._count = 0
        for path in paths:
            numbers.add(path, 0, self._count, 0)
            self._count += 1
        self._numbers, self._sets = numbers.table(), sets.table()
        _, _, self._firsts = self._sets.distinct()

    def __len__(self) -> int:
        return self._count

    def number(self, path: str) -> int:
        """Return the number of an image."""
        return self._numbers.first(path).start

    def set_number(self, pair: Pair) -> int:
        """Return the number of a pair's image set."""
        return self._firsts.first(PLACE.pack(*self._sets.first(_set_key(pair))))


def _set_key(pair: Pair) -> str:
    return "\0".join(sorted(pair.image_set))


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
