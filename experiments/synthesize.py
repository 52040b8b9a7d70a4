"""Make triplets for training from pairs of images, or from images alone, with a vision-language model.

python -m experiments.synthesize --config synthesis/scenes
python -m experiments.synthesize --config my.yaml --stage describe --shard 0/8

Stages: pairs, describe, instruct, filter, write; all of them in this order if none is named. Finished work is kept: the
same command continues where it was stopped, and sends no request twice.
"""

import errno
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from contextcir.checks import whole
from contextcir.errors import InputError, one_line
from contextcir.synthesis.describe import DescribeReference, DescribeSettings, DescribeTarget
from contextcir.synthesis.filters.base import Filter
from contextcir.synthesis.filters.repeats import Duplicates
from contextcir.synthesis.filters.verdicts import FilterStage
from contextcir.synthesis.instruct import Instruct, InstructSettings
from contextcir.synthesis.models.base import AnswersAwaited, BudgetSpent, VisionLanguageModel
from contextcir.synthesis.outputs.exports import ExportStage
from contextcir.synthesis.outputs.write import WriteSettings, WriteStage
from contextcir.synthesis.pairs import PairSource, PairStage
from contextcir.synthesis.photos import Photos, photos_of
from contextcir.synthesis.request_stage import RequestStage
from contextcir.synthesis.stages import Run, Stage
from experiments.arguments import Parser
from experiments.command import read_shard
from experiments.failures import one_line_errors

USES = {  # settings that a stage builds; those of other stages are not even imported
    "pairs": ("pairs",),
    "describe": ("model", "describe"),
    "instruct": ("model", "instruct"),
    "filter": ("filters", "duplicates"),
    "write": ("write",),
}
STAGES = ("pairs", "describe", "instruct", "filter", "write")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)
BUDGET_SPENT = 3  # exit status, so that a job script can tell it from an error
ANSWERS_AWAITED = 4  # likewise


class Synthesis:
    """A synthesis: settings, and the objects that do the work. A stage needs only the settings that it uses.

    Args:
        out: Folder of the run: a folder of shards for each stage, and the manifest.
        images: Folder that image paths are below, or where else the images are (TarPhotos, ParquetPhotos, StorePhotos);
            for all stages but instruct.
        pairs: Gives the pairs of images; if it has to look at them, its intermediate results are in pairs-work. For the
            stage pairs.
        model: Answers the requests, of the stages describe and instruct.
        filters: Reject texts, in this order; [] for none. For the stage filter.
        describe: How images are described.
        instruct: Which texts are requested.
        duplicates: How often a text may occur.
        write: How the manifest is written.
        seed: The same seed gives the same requests.
        links: Let links among the images lead out of their folder.
    """

    def __init__(
        self,
        out: Path,
        images: Photos | Path | None = None,
        pairs: PairSource | None = None,
        model: VisionLanguageModel | None = None,
        filters: list[Filter] | None = None,
        describe: DescribeSettings = DescribeSettings(),  # noqa: B008  (immutable, as the next three)
        instruct: InstructSettings = InstructSettings(),  # noqa: B008
        duplicates: Duplicates = Duplicates(),  # noqa: B008
        write: WriteSettings = WriteSettings(),  # noqa: B008
        seed: int = 0,
        links: bool = False,
    ) -> None:
        self.out = Path(out).expanduser()
        self.images = None if images is None else photos_of(images, links)
        self.pairs = pairs
        self.model = model
        self.filters = filters
        self.describe = describe
        self.instruct = instruct
        self.duplicates = duplicates
        self.write = write
        self.seed = whole(seed, 0, "seed", 2**63 - 1)
        self.links = links

    def stages(self, only: str | None, plain: Mapping[str, Any]) -> list[Stage]:
        """Return the pipeline, or those of its stages that have a name.

        Args:
            only: the name; None for all.
            plain: all settings as plain values: those of ``pairs`` are kept with the pairs, the card shows some.

        Raises:
            InputError: if a setting is missing that a stage needs.
        """
        return [stage for name in STAGES if only in (None, name) for stage in getattr(self, f"_{name}")(plain)]

    def _pairs(self, plain: Mapping[str, Any]) -> list[Stage]:
        return [PairStage(self._given("pairs", "pairs"), self.images, plain.get("pairs"), self.links)]

    def _describe(self, plain: Mapping[str, Any]) -> list[Stage]:
        images, model = self._given("images", "describe"), self._given("model", "describe")
        tasks = (kind(images, self.describe, self.seed, self.links) for kind in (DescribeReference, DescribeTarget))
        return [RequestStage("describe", task, model) for task in tasks]

    def _instruct(self, plain: Mapping[str, Any]) -> list[Stage]:
        return [RequestStage("instruct", Instruct(self.instruct, self.seed), self._given("model", "instruct"))]

    def _filter(self, plain: Mapping[str, Any]) -> list[Stage]:
        images = self._given("images", "filter")
        return [FilterStage(self._given("filters", "filter"), self.duplicates, images, self.links)]

    def _write(self, plain: Mapping[str, Any]) -> list[Stage]:
        images = self._given("images", "write")
        exports = [ExportStage(export, images) for export in self.write.exports]
        return [WriteStage(images, self.write, self.seed, plain, self.links), *exports]

    def _given(self, name: str, stage: str) -> Any:
        if (value := getattr(self, name)) is None:
            raise InputError(f"the stage {stage} needs it, and it is not given", setting=name)
        return value


def build_parser(stage: str | None = None) -> ArgumentParser:
    """Return the parser of the command line; for one stage, it takes the settings of others without looking at them."""
    parser = Parser(prog="python -m experiments.synthesize", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with settings; several add up")
    parser.add_argument("--stage", type=Literal[STAGES] | None, default=None, help="only this one; null for all")
    parser.add_argument("--shard", type=str, default="0/1", help="I/N: only part I of N, from 0 on")
    parser.add_argument("--retry_failures", type=bool, default=False, help="send requests that failed before once more")
    unused = _unused(stage)
    parser.add_class_arguments(Synthesis, skip=unused)
    for name in sorted(unused):
        parser.add_argument(f"--{name}", type=_as_it_is, default=None, help="of other stages")
        parser.add_argument(f"--{name}+", type=_as_it_is, default=None, help="of other stages")
    return parser


def _as_it_is(value: Any) -> Any:  # a class would be imported for a type hint, even for Any
    return value


def _unused(stage: str | None) -> set[str]:
    return set() if stage is None else {name for names in USES.values() for name in names} - set(USES[stage])


def _for_stage(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the stage that a command line names, and its arguments without the flags of other stages."""
    stage = None
    for before, now in zip(["", *args], args, strict=False):
        if now.startswith("--stage=") or before == "--stage":
            stage = now.removeprefix("--stage=")
    if stage not in STAGES:
        return None, list(args)
    unused, kept, dropped = _unused(stage), [], False
    for argument in args:
        name = argument[2:].partition("=")[0].partition(".")[0].rstrip("+")
        value_of_dropped = dropped and not argument.startswith("--")
        dropped = argument.startswith("--") and name in unused and "=" not in argument
        if not value_of_dropped and not (argument.startswith("--") and name in unused):
            kept.append(argument)
    return stage, kept


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    with one_line_errors("all answers are kept, the same command continues"):
        stage, kept = _for_stage(sys.argv[1:] if args is None else args)
        parser = build_parser(stage)
        settings = parser.parse_args(kept)
        try:
            _run(parser, settings)
        except BudgetSpent as error:
            print(one_line(f"stopped: {error}; the same command continues with a larger budget"), file=sys.stderr)
            raise SystemExit(BUDGET_SPENT) from None
        except AnswersAwaited as error:
            print(one_line(f"stopped: {error}"), file=sys.stderr)
            raise SystemExit(ANSWERS_AWAITED) from None


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Name the folder where the system's error has no file: a full disk, a quota, a folder without access."""
    try:
        yield
    except OSError as error:
        if isinstance(error, InputError) or error.filename is not None or error.errno not in DISK:
            raise
        problem = f"can't be written: {error.strerror}; what is there is kept, and the same command goes on"
        raise InputError(problem, file=out, setting="out") from None


def _run(parser: ArgumentParser, settings: Namespace) -> None:
    index, count = read_shard(settings.shard) or (0, 1)
    if count > 1 and settings.stage is None:
        raise InputError(
            "a shard needs a stage that can be divided (pairs, describe, instruct, filter), got none", setting="stage"
        )
    plain = json.loads(json.dumps(settings.as_dict(), default=str))
    # `instantiate` is the newer name; where jsonargparse has it, the other one warns
    objects: Any = getattr(parser, "instantiate", parser.instantiate_classes)(settings)
    names = {"out", "images", "seed", "links", *(name for names in USES.values() for name in names)}
    synthesis = Synthesis(**{name: objects[name] for name in names - _unused(settings.stage)})
    run = Run(synthesis.out, index, count, settings.retry_failures)
    stages = synthesis.stages(settings.stage, plain)
    for stage in stages:
        if count > 1 and not stage.sharded:
            raise InputError(
                f"the stage {stage.name} is not divided: run it once, without a shard, after all shards of filter",
                setting="shard",
            )
        stage.begin(run)
    with _writing(synthesis.out):
        for stage in stages:
            print(stage.run(run), flush=True)


if __name__ == "__main__":
    main()
