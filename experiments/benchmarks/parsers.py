"""Measure the parsers of noun phrases: captions per second one by one and in bulk, and how far the parsers agree.

python -m experiments.benchmarks.parsers --captions CIRR/captions/cap.rc2.val.json CIRR/captions/cap.rc2.test1.json
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from contextcir.errors import InputError
from contextcir.files import write_json
from contextcir.phrases.chunks import ChunkParser
from contextcir.phrases.constituency import ConstituencyParser
from contextcir.phrases.parser import PhraseParser, Span
from contextcir.phrases.selection import AllPhrases, Candidate, HighestPhrases, Level, LowestPhrases, Quota
from experiments.command import command, processor
from experiments.outputs import output_file
from experiments.phrases.captions import read_captions

Phrases = list[tuple[Span, ...]]  # by caption
Result = TypeVar("Result")
EVERYTHING = Quota(max_phrases=10_000)  # parsers are compared without a limit
PAPER = 10  # phrases of a caption that the published code keeps at most


@dataclass
class Speed:
    """Captions per second of wall-clock time, and per second of CPU time, which background load hardly affects.

    Args:
        load: CPU seconds to load the model.
        one_by_one: Rate on the sample, by wall-clock time.
        one_by_one_cpu: Rate on the sample, by CPU time.
        bulk: Rate on all captions, by wall-clock time.
        bulk_cpu: Rate on all captions, by CPU time.
        changed: Number of captions with other phrases when all are parsed in another order.
        changed_alone: Number of captions of the sample with other phrases when they are parsed alone.
    """

    load: float
    one_by_one: float
    one_by_one_cpu: float
    bulk: float
    bulk_cpu: float
    changed: int
    changed_alone: int


@dataclass
class Agreement:
    """Agreement of one parser's spans with another's, in percent.

    Args:
        per_caption: Mean number of the first parser's phrases in a caption.
        precision: Share of its spans that the other finds.
        recall: Share of the other's spans that it finds.
        f1: Their harmonic mean.
        equal: Share of captions with the same spans.
    """

    per_caption: float
    precision: float
    recall: float
    f1: float
    equal: float


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """Return a result, its wall-clock seconds, and its CPU seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    return work(), time.perf_counter() - start, time.process_time() - cpu


def measure(parser: PhraseParser, captions: Sequence[str], sample: Sequence[int], seed: int) -> tuple[Phrases, Speed]:
    """Return the phrases of all captions, and the parser's speed."""
    _, _, load = timed(lambda: parser.parse(["a small dog"]))
    alone, alone_wall, alone_cpu = timed(lambda: [parser.parse([captions[place]])[0].phrases for place in sample])
    phrases, wall, cpu = timed(lambda: [parse.phrases for parse in parser.parse(captions)])
    order = random.Random(seed + 1).sample(range(len(captions)), len(captions))  # noqa: S311  (draws of an experiment, no secret)
    again = [parse.phrases for parse in parser.parse([captions[place] for place in order])]
    changed = sum(phrases[place] != other for place, other in zip(order, again, strict=True))
    changed_alone = sum(phrases[place] != other for place, other in zip(sample, alone, strict=True))
    rates = (len(sample) / alone_wall, len(sample) / alone_cpu, len(captions) / wall, len(captions) / cpu)
    return phrases, Speed(load, *rates, changed, changed_alone)


def choose(phrases: Phrases, level: Level) -> list[set[Span]]:
    """Return the phrases of a level in each caption."""
    return [{one.span for one in level.choose([Candidate(span, 0) for span in spans])} for spans in phrases]


def compare(first: list[set[Span]], other: list[set[Span]]) -> Agreement:
    """Return the agreement of two parsers on the same captions."""
    common = sum(len(one & two) for one, two in zip(first, other, strict=True))
    counts = sum(map(len, first)), sum(map(len, other))
    return Agreement(
        per_caption=counts[0] / len(first),
        precision=100 * common / max(counts[0], 1),
        recall=100 * common / max(counts[1], 1),
        f1=200 * common / max(sum(counts), 1),
        equal=100 * sum(one == two for one, two in zip(first, other, strict=True)) / len(first),
    )


def parsers(
    captions: list[Path],
    model_dir: str | None = None,
    package: str = "default",
    sample: int = 200,
    seed: int = 0,
    threads: int = 1,
    json: Path | None = None,
) -> None:
    """Measure both parsers on the captions of annotation files.

    Args:
        captions: Annotation files, manifests or .txt files.
        model_dir: Folder of Stanza's models; by default that of STANZA_RESOURCES_DIR, or Stanza's own.
        package: Set of Stanza's models.
        sample: Number of captions that are also parsed one by one.
        seed: Seed of the sample.
        threads: Threads of PyTorch.
        json: File for the results.
    """
    output_file(json, "json")
    torch.set_num_threads(threads)
    texts = [caption for path in captions for caption in read_captions(path)]
    if not 0 < sample <= len(texts):
        raise InputError(f"expected 1 to {len(texts)} (the number of captions), got {sample}", setting="sample")
    places = random.Random(seed).sample(range(len(texts)), sample)  # noqa: S311  (draws of an experiment, no secret)
    different = len(set(texts))
    print(f"{len(texts):,} captions ({different:,} different), {sample} of them also one by one, threads: {threads}")
    report: dict[str, Any] = {"captions": len(texts), "different": different, "sample": sample, "threads": threads}
    report |= {"machine": processor(), "torch": torch.__version__, "speed": {}, "agreement": {}}
    phrases: dict[str, Phrases] = {}
    for parser in (ConstituencyParser(EVERYTHING, AllPhrases(), model_dir, package), ChunkParser(EVERYTHING)):
        phrases[parser.key.parser], speed = measure(parser, texts, places, seed)
        report["speed"][str(parser.key)] = vars(speed)
        print(f"\n{parser.key}")
        print("\n".join(f"  {name:16}{value:10,.1f}" for name, value in vars(speed).items()), flush=True)
    beyond = sum(len(spans) > PAPER for spans in phrases["stanza"])
    print(f"\ncaptions with more than {PAPER} phrases by stanza: {beyond}")
    print(f"{'stanza against spacy':22}{'phrases':>10}{'precision':>10}{'recall':>10}{'F1':>10}{'equal':>10}")
    for level in (AllPhrases(), LowestPhrases(), HighestPhrases()):
        agreement = compare(choose(phrases["stanza"], level), [set(spans) for spans in phrases["spacy"]])
        report["agreement"][level.name] = vars(agreement)
        print(f"{level.name:22}" + "".join(f"{value:10.2f}" for value in vars(agreement).values()))
    if json is not None:
        write_json(json, report | {"beyond_quota": beyond}, indent=2)


if __name__ == "__main__":
    command(parsers)
