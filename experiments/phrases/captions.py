"""The captions that a model is given: of annotation files in all formats of the project, or of a whole experiment."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import ordinary_file, read_text
from data_modules.readers import caption_formats
from data_modules.reading.annotations import AnnotationFile, CaptionRecord
from data_modules.reading.json_files import read_records

if TYPE_CHECKING:
    from data_modules.base import CompositionDataModule

# A model reads 77 tokens, so a longer text is no caption; parsers would take minutes or fail.
LONGEST_CAPTION = 20_000
STAGES = ("fit", "validate", "test", "predict")


def read_captions(path: Path) -> list[str]:
    """Return all captions of a file: annotations (.json), a manifest (.json or .jsonl), or a caption a line (.txt).

    Where the text of a query is a choice (the query texts of CIRCO, the order of FashionIQ's captions), these are the
    texts of all choices.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is none of these, or a record is broken.
    """
    try:
        ordinary_file(path, "captions")
    except MissingFileError:
        problem = f"no file {path}: expected annotation files, manifests or .txt files"
        raise MissingFileError(problem, setting="captions") from None
    captions = _captions_in(path)
    for number, caption in enumerate(captions):
        if len(caption) > LONGEST_CAPTION:
            problem = f"caption {number}, {shown(caption, 30)}, has {len(caption):,} characters"
            raise InputError(f"{problem}; expected at most {LONGEST_CAPTION:,}", file=path, setting="captions")
    return captions


def _captions_in(path: Path) -> list[str]:
    if path.suffix.lower() == ".txt":
        return [line for line in (line.strip() for line in read_text(path, "captions").split("\n")) if line]
    if path.suffix.lower() not in (".json", ".jsonl"):
        raise InputError("expected a file .json, .jsonl or .txt", file=path, setting="captions")
    listed = read_records(path)
    formats = caption_formats()
    field = next((field for field in formats if isinstance(listed[0], dict) and field in listed[0]), None)
    if field is None:
        given = shown(list(listed[0]) if isinstance(listed[0], dict) else listed[0])
        raise InputError(
            f"a record needs one of the fields {', '.join(formats)}, got {given} "
            "(experiments.convert: Hotel-CIR, CIRR-rewritten)",
            file=path,
            setting="captions",
        )
    file: AnnotationFile[CaptionRecord] = AnnotationFile(path, formats[field], listed=dict(enumerate(listed)))
    return [text for _, record in file.items() for text in record.texts()]


def captions_of(data: "CompositionDataModule", stage: str) -> list[str]:
    """Return the captions of all records that a data module uses in one of the `STAGES`."""
    data.prepare_data()
    records = list(data.read_training().records) if stage == "fit" else []
    for split in data.splits["val" if stage in ("fit", "validate") else "test"]:
        records += data.read_evaluation(split).records
    return [record.caption for record in records]


def configured(args: list[str]) -> "tuple[CompositionDataModule, str, Path]":
    """Return the data module of an experiment, the stage and the file to write; the model is not built.

    Args:
        args: flags of ``experiments.run``, with ``--stage`` (fit, validate, test or predict) and ``--out``.
    """
    # The experiment's classes import torch and Lightning, which takes seconds: only this function needs them.
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.cli import LightningArgumentParser

    from contextcir.training.module import ContextCIR
    from data_modules.base import CompositionDataModule
    from experiments.run import ExperimentCLI, claim_run_id

    class DataCLI(ExperimentCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            super().add_arguments_to_parser(parser)
            parser.add_argument("--stage", choices=STAGES, default="fit", help="what the captions are for")
            parser.add_argument("--out", type=Path, required=True, help="file of captions to write, .jsonl")

        def instantiate_classes(self) -> None:
            parser = ArgumentParser()
            parser.add_subclass_arguments(LightningDataModule, "data")
            self.datamodule = instantiated(parser, Namespace(data=self.config.data)).data

    claim_run_id()  # configs name it
    cli = DataCLI(
        ContextCIR,
        LightningDataModule,
        subclass_mode_data=True,
        parser_kwargs={"parser_mode": "omegaconf+"},
        seed_everything_default=0,
        save_config_callback=None,
        auto_configure_optimizers=False,
        args=args,
        run=False,
    )
    if not isinstance(cli.datamodule, CompositionDataModule):
        raise InputError(f"expected a CompositionDataModule, got {type(cli.datamodule).__name__}", setting="data")
    return cli.datamodule, cli.config.stage, cli.config.out


def instantiated(parser: ArgumentParser, settings: Namespace) -> Namespace:
    """Return parsed settings with objects in the place of class paths."""
    # the newer name, where jsonargparse has it: the other one warns
    return getattr(parser, "instantiate", parser.instantiate_classes)(settings)
