"""Make triplets for training from pairs of images, or from images alone, with a vision-language model.

python -m experiments.synthesize --config synthesis/scenes
python -m experiments.synthesize --config my.yaml --stage describe --shard 0/8

Stages: pairs, describe, instruct, filter, write; all of them in this order if none is named. Finished work is kept: the
same command continues where it was stopped, and sends no request twice.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from contextcir.errors import InputError
from contextcir.synthesis.describe import DescribeReference, DescribeSettings, DescribeTarget
from contextcir.synthesis.filters.base import Filter
from contextcir.synthesis.filters.repeats import Duplicates
from contextcir.synthesis.filters.verdicts import FilterStage
from contextcir.synthesis.instruct import Instruct, InstructSettings
from contextcir.synthesis.models.base import AnswersAwaited, BudgetSpent, VisionLanguageModel
from contextcir.synthesis.outputs.exports import ExportStage
from contextcir.synthesis.outputs.write import WriteSettings, WriteStage
from contextcir.synthesis.pairs import PairSource, PairStage
from contextcir.synthesis.request_stage import RequestStage
from contextcir.synthesis.stages import Run, Stage
from experiments.arguments import Parser
from experiments.command import one_line_errors, read_shard

STAGES = ("pairs", "describe", "instruct", "filter", "write")
BUDGET_SPENT = 3  # exit status, so that a job script can tell it from an error
ANSWERS_AWAITED = 4  # likewise


class Synthesis:
    """A synthesis: settings, and the objects that do the work.

    Args:
        out: Folder of the run: a folder of shards for each stage, and the manifest.
        images: Folder that image paths are below.
        pairs: Gives the pairs of images; if it has to look at them, its intermediate results are in pairs-work.
        model: Answers the requests.
        filters: Reject texts, in this order.
        describe: How images are described.
        instruct: Which texts are requested.
        duplicates: How often a text may occur.
        write: How the manifest is written.
        seed: The same seed gives the same requests.
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
        write: WriteSettings = WriteSettings(),  # noqa: B008
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

    def stages(self, pair_settings: Any, config: str) -> list[Stage]:
        """Return the pipeline.

        Args:
            pair_settings: plain values of the setting ``pairs``, which are kept with the pairs.
            config: all settings as YAML, for the data card.
        """
        images, model = self.images, self.model
        return [
            PairStage(self.pairs, images, pair_settings),
            RequestStage("describe", DescribeReference(images, self.describe, self.seed), model),
            RequestStage("describe", DescribeTarget(images, self.describe, self.seed), model),
            RequestStage("instruct", Instruct(self.instruct, self.seed), model),
            FilterStage(self.filters, self.duplicates, images),
            WriteStage(images, self.write, self.seed, config),
            *(ExportStage(export, images) for export in self.write.exports),
        ]


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="python -m experiments.synthesize", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with settings; several add up")
    parser.add_argument("--stage", type=Literal[STAGES] | None, default=None, help="only this one; null for all")
    parser.add_argument("--shard", type=str, default="0/1", help="I/N: only part I of N, from 0 on")
    parser.add_argument("--retry_failures", type=bool, default=False, help="send requests that failed before once more")
    parser.add_class_arguments(Synthesis)
    return parser


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors("all answers are kept, the same command continues"):
        parser = build_parser()
        settings = parser.parse_args(None if args is None else list(args))
        try:
            _run(parser, settings)
        except BudgetSpent as error:
            print(f"stopped: {error}; the same command continues with a larger budget", file=sys.stderr)
            raise SystemExit(BUDGET_SPENT) from None
        except AnswersAwaited as error:
            print(f"stopped: {error}", file=sys.stderr)
            raise SystemExit(ANSWERS_AWAITED) from None


def _run(parser: ArgumentParser, settings: Namespace) -> None:
    index, count = read_shard(settings.shard) or (0, 1)
    if count > 1 and settings.stage is None:
        raise InputError(
            "a shard needs a stage that can be divided (pairs, describe, instruct, filter), got none", setting="stage"
        )
    config = parser.dump(settings)
    pair_settings = json.loads(json.dumps(settings.pairs, default=str))
    # `instantiate` is the newer name; where jsonargparse has it, the other one warns
    objects: Any = getattr(parser, "instantiate", parser.instantiate_classes)(settings)
    names = ("out", "images", "pairs", "model", "filters", "describe", "instruct", "duplicates", "write", "seed")
    synthesis = Synthesis(**{name: objects[name] for name in names})
    run = Run(synthesis.out, index, count, settings.retry_failures)
    for stage in synthesis.stages(pair_settings, config):
        if settings.stage in (None, stage.name):
            if count > 1 and not stage.sharded:
                raise InputError(
                    f"the stage {stage.name} is not divided: run it once, without a shard, after all shards of filter",
                    setting="shard",
                )
            print(stage.run(run), flush=True)


if __name__ == "__main__":
    main()
