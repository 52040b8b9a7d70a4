"""The pages that `--help` shows: what one needs on most days, with the values that the given files and flags come to.

``--help=all`` shows all settings, of which there are hundreds.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from experiments.arguments import DEFAULT_CONFIGS
from experiments.names import config_files, import_all, resolve

PROGRAM = "python -m experiments.run"
ASKED = ("-h", "--help")
ALL = "--help=all"

COMMANDS = {
    "fit": "train, and evaluate on the val splits on the way",
    "validate": "evaluate on the val splits",
    "test": "evaluate on the test splits",
    "predict": "rank for the queries of the test splits: the files that CIRR's and CIRCO's servers score",
}

# Keys as a user types them, without init_args.
DATA = {
    "data": "benchmark: Scenes, CIRR, CIRCO, FashionIQ, LaSCo, GeneCIS, ICIR, PinPoint, PatternCom, Manifest, Mixture",
    "data.root": "its folder",
    "data.batch_size": "training triplets per GPU; negatives come from all GPUs",
    "data.eval_batch_size": "queries or gallery images per GPU",
    "data.num_workers": "processes that load images, per GPU",
    "data.allow_missing": "go without images that do not exist",
}
MODEL = {
    "model.backbone.model": "an open_clip model, or local-dir:FOLDER",
    "model.backbone.pretrained": "its weights: a tag, a file, or random",
    "model.fusion": "class that composes a query",
}
LOSSES = {
    "model.contrastive.temperature": "of InfoNCE",
    "model.concept": "Text-CC loss; null trains without it",
    "model.concept.weight": "its factor in the loss",
}
OPTIMIZER = {
    "model.backbone.trainable_image_blocks": "last blocks of the tower that train; null for all",
    "model.backbone.trainable_text_blocks": "the same of the text tower",
    "model.backbone.gradient_checkpointing": "less memory, more time",
    "model.encoding": "null: all rows of a batch at once; GradientCache: in chunks",
    "model.optimizer.lr": "learning rate of the fusion",
    "model.optimizer.backbone_lr": "learning rate of the towers",
    "model.optimizer.warmup_steps": "optimizer steps until these are reached",
    "trainer.max_steps": "optimizer steps; -1 for trainer.max_epochs",
    "trainer.max_epochs": "epochs",
    "trainer.val_check_interval": "training batches between two evaluations",
    "trainer.accumulate_grad_batches": "batches to an optimizer step",
    "trainer.gradient_clip_val": "longest gradient; null for no limit",
}
MACHINE = {
    "trainer.devices": "GPUs of a node, or processes",
    "trainer.num_nodes": "nodes",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed",
}
RUN = {
    "name": "its files are in runs/NAME/ID",
    "seed_everything": "seed of weights, batches and dropout",
    "ckpt_path": "checkpoint to begin with",
}

PAGES = {
    "fit": {"Data": DATA, "Model": MODEL | LOSSES, "Training": OPTIMIZER, "Machine": MACHINE, "Run": RUN},
    "validate": {"Data": DATA, "Model": MODEL, "Machine": MACHINE, "Run": RUN},
}
PAGES["test"] = PAGES["predict"] = PAGES["validate"]


def answer_help(parser: ArgumentParser, args: Sequence[str] | None) -> None:
    """Print what a command line asks for and end; return if it asks for nothing. None stands for ``sys.argv``."""
    typed = list(sys.argv[1:] if args is None else args)
    if ALL in typed:
        import_all(("contextcir", "data_modules", "callbacks"))  # all of their classes are listed
        parser.parse_args([argument for argument in typed if argument != ALL] + ["--help"])  # ends
    if not any(argument in ASKED for argument in typed):
        return
    chosen = typed[0] if typed[0] in COMMANDS else None
    if chosen is None:
        print(overview())
    else:
        print(page(chosen, parser, [argument for argument in typed[1:] if argument not in ASKED]))
    raise SystemExit(0)


def overview() -> str:
    """Return the page of the program."""
    lines = [
        f"usage: {PROGRAM} {{{','.join(COMMANDS)}}} --config NAME [--config NAME ...] [--KEY=VALUE ...]",
        "",
        *(f"  {name:9} {meaning}" for name, meaning in COMMANDS.items()),
        "",
        "NAME is a YAML file, or one of the project's by its name (base, overlays/bf16). What comes later on the",
        "command line wins, files and flags alike; classes are given by their bare names. For example:",
        f"  {PROGRAM} fit --config scenes --data.draw=true --trainer.max_steps=100",
        f"  {PROGRAM} fit --config cirr_b32 --data.root=/path/to/CIRR",
        f"  {PROGRAM} test --config runs/cirr_b32/ID/config.yaml --ckpt_path=FILE",
        "",
        f"The settings that matter most, with their values: {PROGRAM} fit --help",
    ]
    return "\n".join(lines)


def page(command: str, parser: ArgumentParser, flags: list[str]) -> str:
    """Return the page of a subcommand, with the values that flags (or the configs of Scenes) come to."""
    given = config_files(resolve(flags))
    configs = [] if given else [f"--config={name}" for name in DEFAULT_CONFIGS]
    settings = parser.parse_args([command, *configs, *flags])[command]
    console = Console(width=118, highlight=False, markup=False)
    table = Table.grid(padding=(0, 2))
    for width in (41, 22, None):
        table.add_column(width=width, no_wrap=width is not None, overflow="ellipsis")
    for title, keys in PAGES[command].items():
        table.add_row(title)
        for key, meaning in keys.items():
            table.add_row(f"  --{key}", told(value_of(settings, key)), meaning)
    with console.capture() as capture:
        console.print(table)
    default = f"{' and '.join(DEFAULT_CONFIGS)} (with --config: those of your files)"
    whose = "the given files and flags" if given else default
    lines = [
        f"usage: {PROGRAM} {command} --config NAME [--config NAME ...] [--KEY=VALUE ...]",
        COMMANDS[command],
        f"Values are those of {whose}.",
        "",
        *(line.rstrip() for line in capture.get().splitlines()),
        "",
        "More",
        f"  {ALL}".ljust(45) + "every setting: hundreds",
        "  --data.help=CIRR, --model.optimizer.help".ljust(45) + "what a class takes; the same for any other class",
        "  --print_config".ljust(45) + "everything that the given files and flags come to",
    ]
    return "\n".join(lines)


def value_of(settings: Namespace, key: str) -> Any:
    """Return a setting by the key that a user types: without the ``init_args`` of classes."""
    value: Any = settings
    for part in key.split("."):
        if isinstance(value, Namespace) and part not in value and "init_args" in value:
            value = value.init_args
        value = value.get(part) if isinstance(value, Namespace) else None
    return value


def told(value: Any) -> str:
    """Return a value as a user would type it; a class by its name."""
    if isinstance(value, Namespace):
        return value.get("class_path", "").rpartition(".")[2]
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
