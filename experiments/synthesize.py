"""Make triplets for training from pairs of images, or from images alone, with a vision-language model.

python -m experiments.synthesize --config synthesis/scenes
python -m experiments.synthesize --config my.yaml --stage describe --shard 0/8

Stages: pairs, describe, instruct, filter, write; all of them, one after the other, if none is named. What a stage has
done is kept: the same command goes on where it was stopped, and asks nothing twice.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from contextcir.phrases.parser import PhraseParser
from contextcir.synthesis.describe import DescribeReference, DescribeSettings, DescribeTarget
from contextcir.synthesis.filters.base import Filter
from contextcir.synthesis.filters.repeats import Duplicates
from contextcir.synthesis.filters.verdicts import sift
from contextcir.synthesis.instruct import Instruct, InstructSettings
from contextcir.synthesis.models.base import BudgetSpent, VisionLanguageModel
from contextcir.synthesis.outputs.card import count, spent, write_card
from contextcir.synthesis.outputs.exports.export import Export, export
from contextcir.synthesis.outputs.manifest import write_manifest
from contextcir.synthesis.outputs.sheet import LinkedImages, SheetImages, write_sheet
from contextcir.synthesis.pairs import ImageSource, PairSource, collect
from contextcir.synthesis.runner import Run, ask
from experiments.arguments import Parser

STAGES = ("pairs", "describe", "instruct", "filter", "write")
BUDGET_SPENT = 3  # exit status, so that a job script can tell it from an error


@dataclass(frozen=True)
class WriteSettings:
    """How the manifest is written.

    Args:
        phrases: Finds the noun phrases that records bring along; null to find them later with `experiments.phrases`.
        val_share: Share of triplets for validation; no image is in both splits.
        samples: How many texts the page of samples shows.
        images: How that page gets at images; null for links to them.
        exports: Formats of other sets that it is written in as well, to the folder exports.
    """

    phrases: PhraseParser | None = None
    val_share: float = 0.1
    samples: int = 60
    images: SheetImages | None = None
    exports: list[Export] = field(default_factory=list)


class Synthesis:
    """A synthesis: settings, and the objects that do the work.

    Args:
        out: Folder of the run: a folder of shards for each stage, and the manifest.
        images: Folder that image paths are below.
        pairs: Gives the pairs of images; if it has to look at them, what it finds is kept in the folder pairs-work.
        model: Answers what is asked.
        filters: Reject texts, in this order.
        describe: How images are described.
        instruct: Which texts are asked for.
        duplicates: How often a text may come.
        write: How the manifest is written.
        seed: The same seed asks the same.
    """

    def __init__(
        self,
        out: Path,
        images: Path,
        pairs: PairSource,
        model: VisionLanguageModel,
        filters: list[Filter],
        describe: DescribeSettings = DescribeSettings(),  # noqa: B008  (immutable, as the next three)
        instruct: InstructSettings = InstructSettings(),  # noqa: B008
        duplicates: Duplicates = Duplicates(),  # noqa: B008
        write: WriteSettings = WriteSettings(),
        seed: int = 0,
    ) -> None:
        self.out = Path(out).expanduser()
        self.images = Path(images).expanduser()
        self.pairs = pairs
        self.model = model
        self.filters = filters
        self.describe = describe
        self.instruct = instruct
        self.duplicates = duplicates
        self.write = write
        self.seed = seed
        self._counted = False  # what was spent before this process began

    def run(self, stage: str, shard: tuple[int, int], retry: bool, settings: Namespace, text: str) -> None:
        """Do one of the `STAGES`, and print a line about it.

        Args:
            stage: its name.
            shard: which part, and of how many.
            retry: ask again what failed before.
            settings: all settings, as plain values; those of the pairs are kept with these.
            text: all settings, as YAML.
        """
        run = Run(self.out, *shard, retry)
        if stage in ("describe", "instruct") and not self._counted:
            self.model.count_earlier(spent(run))
            self._counted = True
        if stage == "pairs":
            self._pairs(run, json.loads(json.dumps(settings.pairs, default=str)))
        elif stage == "describe":
            for part in (DescribeReference, DescribeTarget):
                print(ask(run, part(self.images, self.describe, self.seed), self.model), flush=True)
        elif stage == "instruct":
            print(ask(run, Instruct(self.instruct, self.seed), self.model), flush=True)
        elif stage == "filter":
            tally = sift(run, self.filters, self.duplicates, self.images)
            print(str(tally).replace(" done,", " kept,", 1).replace(" failed", " rejected", 1), flush=True)
        else:
            self._write(text)

    def _pairs(self, run: Run, settings: Any) -> None:
        if not isinstance(self.pairs, ImageSource):
            print(collect(run, self.pairs, settings))
            return
        source = self.pairs.within(self.images, self.out / "pairs-work")
        if run.count > 1:
            with run.claimed("pairs"):
                print(source.prepare(run.index, run.count))
        else:
            print(collect(run, source, settings))

    def _write(self, text: str) -> None:
        written = write_manifest(self.out, self.write.phrases, self.write.val_share, self.seed)
        folder = self.out / "manifest"
        (folder / "card.md").write_text(write_card(count(self.out), written, text), encoding="utf-8")
        sheet = write_sheet(self.out, self.images, self.write.images or LinkedImages(), self.write.samples, self.seed)
        splits = ", ".join(f"{number:,} in {split}" for split, number in written.triplets.items())
        print(f"write: {splits}; {folder}/*.jsonl, {folder / 'card.md'}, {sheet}")
        for kind in self.write.exports:
            where, records = export(self.out, self.images, kind)
            print(f"write: {records:,} records in {where}")


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="python -m experiments.synthesize", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with settings; several add up")
    parser.add_argument("--stage", type=Literal[STAGES] | None, default=None, help="only this one; null for all")
    parser.add_argument("--shard", type=str, default="0/1", help="I/N: only part I of N, from 0 on")
    parser.add_argument("--retry_failures", type=bool, default=False, help="ask again what failed before")
    parser.add_class_arguments(Synthesis)
    return parser


def read_shard(text: str) -> tuple[int, int]:
    """Return I and N of ``I/N``; raises ValueError if it is not that, with I below N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f"--shard must be I/N with I from 0 to N - 1, such as 0/8, got {text!r}")
    return int(found[1]), int(found[2])


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    parser = build_parser()
    settings = parser.parse_args(None if args is None else list(args))
    try:
        _run(parser, settings)
    except BudgetSpent as error:
        print(f"stopped: {error}; answers are kept: the same command, with a larger budget, goes on", file=sys.stderr)
        raise SystemExit(BUDGET_SPENT) from None
    except (ValueError, OSError) as error:  # a disk that is full, a file that is not there
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("stopped: all answers are kept, the same command goes on") from None


def _run(parser: ArgumentParser, settings: Namespace) -> None:
    shard = read_shard(settings.shard)
    chosen = STAGES if settings.stage is None else (settings.stage,)
    if shard[1] > 1 and settings.stage is None:
        raise ValueError("--shard needs --stage describe, instruct or filter: the other stages are not divided")
    if shard[1] > 1 and settings.stage == "write":
        raise ValueError("--stage write is not divided: run it once, without --shard, when all shards are filtered")
    text = parser.dump(settings)
    plain = settings.clone()
    # the newer name, where jsonargparse has it: the other one warns
    objects: Any = getattr(parser, "instantiate", parser.instantiate_classes)(settings)
    names = ("out", "images", "pairs", "model", "filters", "describe", "instruct", "duplicates", "write", "seed")
    synthesis = Synthesis(**{name: objects[name] for name in names})
    for stage in chosen:
        synthesis.run(stage, shard, settings.retry_failures, plain, text)


if __name__ == "__main__":
    main()
