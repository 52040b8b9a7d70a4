"""The settings of an evaluation of an embedder: of the configs of experiments, the part on the data is read."""

import json
import os
import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import experiments.lean  # noqa: F401  before the first import of Lightning: half of the start-up time

# isort: split
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from contextcir.checks import folder_name, whole
from contextcir.embedders.base import EmbeddingSource
from contextcir.embedders.reranking import Reranking
from contextcir.errors import InputError
from data_modules.base import CompositionDataModule
from experiments import run as run  # registers the resolvers of configs
from experiments.arguments import Parser
from experiments.outputs import output_folder, runs_folder

# Of experiments.run: a config may give them, and they are not even looked at.
OTHERS = ("model", "trainer", "seed_everything", "optimizer", "lr_scheduler", "ckpt_path")


class Evaluation:
    """What is evaluated, on what.

    Args:
        data: the benchmark, as for experiments.run: CIRR, CIRCO, FashionIQ, LaSCo, GeneCIS, Scenes or Manifest.
        embedder: OpenCLIPEmbedder, SentenceTransformersEmbedder, ServerEmbedder, or a FeaturesFile.
        name: of the experiment: its folder below CIR_RUNS.
        reranking: a second stage, as a row of its own; null for none.
        unimodal: embed the image and the text of every query alone, too, for the rows image only, text only and sum.
        store: folder of embeddings that are never computed twice; null for CIR_EMBEDDINGS, or embeddings among the
            runs.
        workers: threads that decode images.
    """

    def __init__(
        self,
        data: LightningDataModule,
        embedder: EmbeddingSource,
        name: str = "embedder",
        reranking: Reranking | None = None,
        unimodal: bool = True,
        store: Path | None = None,
        workers: int = 4,
    ) -> None:
        if not isinstance(data, CompositionDataModule):
            raise InputError(f"expected a benchmark, got {type(data).__name__}", setting="data")
        self.data, self.embedder, self.reranking, self.unimodal = data, embedder, reranking, unimodal
        self.name = folder_name(name, "name", parts=True)
        self.workers = whole(workers, 1, "workers", 512)
        self.store = embeddings_folder() if store is None else store.expanduser()
        self.folder = runs_folder(name) / os.environ["WANDB_RUN_ID"]
        output_folder(self.store, "store")
        output_folder(self.folder, "name")


class Parsed(NamedTuple):
    """Objects, and the settings that they were made of as plain values."""

    objects: dict[str, Any]
    plain: dict[str, Any]


def embeddings_folder() -> Path:
    """Return the folder that CIR_EMBEDDINGS names, else ``embeddings`` among the runs."""
    named = os.environ.get("CIR_EMBEDDINGS")
    return Path(named) if named else runs_folder("embeddings")


def add_configs(parser: ArgumentParser) -> None:
    """Let a parser take configs of experiments, of which it reads what it knows."""
    parser.add_argument("--config", action="config", help="YAML file with settings; several add up")
    for name in OTHERS:
        parser.add_argument(f"--{name}", type=_ignored, default=None, help=SUPPRESS)
        parser.add_argument(
            f"--{name}+", type=_ignored, default=None, help=SUPPRESS
        )  # of experiments.run: not looked at


def make_parser(prog: str, description: str) -> ArgumentParser:
    """Return a parser in which interpolations are resolved as in experiments.run."""
    return Parser(prog=prog, description=description, parser_mode="omegaconf+")


def build(parser: ArgumentParser, settings: Namespace) -> Parsed:
    """Build the objects of parsed settings."""
    plain = json.loads(json.dumps(settings.as_dict(), default=str))
    # `instantiate` is the newer name; where jsonargparse has it, the other one warns
    objects: Any = getattr(parser, "instantiate", parser.instantiate_classes)(settings)
    unused = {"config", *OTHERS, *(f"{name}+" for name in OTHERS)}
    return Parsed(
        {name: value for name, value in vars(objects).items() if name not in unused},
        {name: value for name, value in plain.items() if name not in unused},
    )


def _ignored(value: Any) -> None:
    """Return nothing, whatever is given: a class would be imported for a type hint, even for Any."""


def typed(args: Sequence[str] | None) -> list[str]:
    """Return the arguments of a command line."""
    return list(sys.argv[1:] if args is None else args)
