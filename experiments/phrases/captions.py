"""The captions that a model is given: of annotation files in all formats of the project, or of a whole experiment."""

from collections.abc import Callable, Iterable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from contextcir.training.module import ContextCIR
from data_modules.base import CompositionDataModule
from data_modules.circo import QueryText
from data_modules.fashioniq import CaptionText
from data_modules.reading.annotations import ManifestFile, read_text, shorten
from experiments.run import ExperimentCLI, claim_run_id

STAGES = ("fit", "validate", "test", "predict")
Reader = Callable[[ManifestFile, int], Iterable[str]]


def _plain(field: str) -> Reader:
    return lambda file, position: [file.get(position, field, str)]


def _of_circo(file: ManifestFile, position: int) -> list[str]:
    relative, shared = (file.get(position, field, str) for field in ("relative_caption", "shared_concept"))
    return [kind().compose(relative, shared)[0] for kind in QueryText.__subclasses__()]


def _of_fashioniq(file: ManifestFile, position: int) -> list[str]:
    count = len(file.get(position, "captions", list))
    if count != 2:
        file.fail(position, "captions", f"must be a list of two captions, got {count}")
    captions = [file.get(position, f"captions.{number}", str) for number in range(2)]
    return [text for kind in CaptionText.__subclasses__() for text in kind().compose(captions)]


# By a field of the records: what the data modules make of them. Where that is a choice (the query texts of CIRCO, the
# order of FashionIQ's captions), the texts of all choices.
READERS: dict[str, Reader] = {
    "caption": _plain("caption"),  # CIRR, scenes, manifests
    "query-text": _plain("query-text"),  # LaSCo
    "condition": _plain("condition"),  # GeneCIS
    "relative_caption": _of_circo,
    "captions": _of_fashioniq,
}


def read_captions(path: Path) -> list[str]:
    """Return all captions of a file: annotations (.json), a manifest (.json or .jsonl), or a caption a line (.txt).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of these, or a record is broken.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: --captions takes annotation files, manifests and .txt files")
    if path.suffix == ".txt":
        return [line for line in (line.strip() for line in read_text(path).split("\n")) if line]
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{path}: --captions takes .json, .jsonl and .txt files")
    file = ManifestFile(path)
    first = file.records[0]
    field = next((field for field in READERS if isinstance(first, dict) and field in first), None)
    if field is None:
        found = ", ".join(first) if isinstance(first, dict) else shorten(first)
        raise ValueError(
            f"{path}: a record needs one of the fields {', '.join(READERS)}, got {found}; files of Hotel-CIR and "
            "CIRR-rewritten become manifests first (python -m experiments.convert)"
        )
    return [text for position in range(len(file)) for text in READERS[field](file, position)]


def captions_of(data: CompositionDataModule, stage: str) -> list[str]:
    """Return the captions of all records that a data module uses in one of the `STAGES`."""
    data.prepare_data()
    records = list(data.read_training().records) if stage == "fit" else []
    for split in data.splits["val" if stage in ("fit", "validate") else "test"]:
        records += data.read_evaluation(split).records
    return [record.caption for record in records]


def configured(args: list[str]) -> tuple[CompositionDataModule, str, Path]:
    """Return the data module of an experiment, the stage and the file to write; the model is not built.

    Args:
        args: flags of ``experiments.run``, with ``--stage`` (fit, validate, test or predict) and ``--out``.
    """

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
        raise ValueError(f"--data must be a CompositionDataModule, got {type(cli.datamodule).__name__}")
    return cli.datamodule, cli.config.stage, cli.config.out


def instantiated(parser: ArgumentParser, settings: Namespace) -> Namespace:
    """Return parsed settings with objects in the place of class paths."""
    # the newer name, where jsonargparse has it: the other one warns
    return getattr(parser, "instantiate", parser.instantiate_classes)(settings)
