"""Evaluate an embedder: a model of others, by the same protocols, and with the same files, as a trained one.

python -m experiments.evaluate test --config scenes --embedder OpenCLIPEmbedder --embedder.model scenes-vit
python -m experiments.evaluate validate --config cirr_b32 --config embedders/qwen3_vl_embedding_2b
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import experiments.lean  # noqa: F401  before the first import of Lightning: half of the start-up time

# isort: split
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer

from callbacks import QueryResults, RecallTable, RunSummary, SubmissionFiles
from callbacks.negatives import NegativeRoles
from callbacks.progress import show_progress
from callbacks.scoring import ScoringCheck
from contextcir.embedders.base import Embedder
from contextcir.embedders.features_file import FeaturesFile
from contextcir.embedders.reranking import RerankedMetric
from contextcir.embedders.store import EmbeddingStore
from contextcir.errors import InputError, one_line
from contextcir.evaluation.composition import COMPOSED, CompositionMetric
from contextcir.evaluation.protocol import Protocol
from contextcir.files import write_text
from contextcir.synthesis.models.base import Stopped
from experiments.evaluate.data import Positions
from experiments.evaluate.module import EmbedderModule
from experiments.evaluate.rows import EmbedderRows, FileRows, Rows
from experiments.evaluate.settings import Evaluation, add_configs, build, make_parser
from experiments.evaluate.submission import RerankedSubmission
from experiments.evaluate.usage import Ledger
from experiments.failures import one_line_errors
from experiments.record import HEADER, claim_run_id
from experiments.start import quiet

STAGES = ("validate", "test", "predict")
BUDGET_SPENT = 3  # exit status, as of experiments.synthesize
FILE_BATCH = 4096  # rows of a file of features at a time


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser("python -m experiments.evaluate", (__doc__ or "").partition("\n")[0])
    parser.add_argument("stage", type=Literal[STAGES], help="which splits: those of validate, test, or predict")
    add_configs(parser)
    parser.add_class_arguments(Evaluation)
    return parser


def evaluate(evaluation: Evaluation, stage: str, plain: dict[str, Any]) -> Trainer:
    """Evaluate, and write the files of a run; return the trainer, with the figures."""
    embedder, folder = evaluation.embedder, evaluation.folder
    evaluation.data.prepare_data()
    evaluation.data.reader.check_root()  # before a model of gigabytes is loaded
    ledger = Ledger(folder, [embedder, *([evaluation.reranking.reranker] if evaluation.reranking else [])])
    parts = ("image", "text") if evaluation.unimodal else ()
    batch = FILE_BATCH
    if isinstance(embedder, Embedder):
        batch, parts = embedder.batch, tuple(part for part in parts if part in embedder.parts)
        make_rows: Callable[[str, int], Rows] = partial(
            EmbedderRows, embedder, EmbeddingStore(evaluation.store), evaluation.data,
            workers=evaluation.workers, parts=parts, done=ledger.write,
        )  # fmt: skip
    elif isinstance(embedder, FeaturesFile):
        parts = embedder.parts
        make_rows = partial(FileRows, embedder, evaluation.data)
    else:
        raise InputError(f"expected an embedder, got {type(embedder).__name__}", setting="embedder")
    told = {} if evaluation.reranking is None else {"reranking": evaluation.reranking.describe()}
    module = EmbedderModule(embedder, make_rows, partial(_metric, evaluation, ledger), told, parts)
    callbacks: list[Callback] = [
        ScoringCheck(), RecallTable(), NegativeRoles(), QueryResults(attention=0),
        SubmissionFiles(), RunSummary(),
    ]  # fmt: skip
    if evaluation.reranking is not None and evaluation.reranking.row == COMPOSED:
        of_predict = partial(_pairs, evaluation, ledger, "predict")
        callbacks.insert(-1, RerankedSubmission(evaluation.reranking, of_predict))
    trainer = Trainer(
        accelerator="auto", devices=1, logger=False, callbacks=callbacks, default_root_dir=folder,
        enable_checkpointing=False, enable_model_summary=False, inference_mode=True,
    )  # fmt: skip
    show_progress(trainer)
    run = os.environ["WANDB_RUN_ID"]
    file = folder / f"config.{stage}.yaml"
    settings = yaml.safe_dump({"stage": stage, **plain}, sort_keys=False, allow_unicode=True)
    write_text(file, HEADER.partition("\n")[0].format(run=run) + "\n" + settings)
    getattr(trainer, stage)(module, datamodule=Positions(evaluation.data, batch))
    return trainer


def _metric(evaluation: Evaluation, ledger: Ledger, protocol: Protocol, stage: str, position: int) -> CompositionMetric:
    if evaluation.reranking is None:
        return CompositionMetric(protocol)
    return RerankedMetric(protocol, evaluation.reranking, _pairs(evaluation, ledger, stage, protocol, position))


def _pairs(
    evaluation: Evaluation, ledger: Ledger, stage: str, protocol: Protocol, position: int
) -> Callable[[int, Sequence[int]], torch.Tensor]:
    """Return the function that scores a query and images of the gallery: the mean over the texts of the query."""
    data, reranking = evaluation.data, evaluation.reranking
    records, queries = data.query_records(stage, position), len(protocol.query_ids)

    def pairs(query: int, images: Sequence[int]) -> torch.Tensor:
        candidates = [data.gallery_image(stage, position, image) for image in images]
        scores = []
        for row in range(query, protocol.query_views * queries, queries):
            reference = data.reference_image(stage, position, row)
            scores.append(reranking.reranker.scores(reference, records[row].caption, candidates))  # type: ignore[union-attr]
        ledger.write()
        return torch.stack(scores).mean(0)

    return pairs


def main(args: Sequence[str] | None = None) -> Trainer:
    """Parse the command line, and evaluate."""
    with one_line_errors("by Ctrl-C; embeddings are kept, and the same command goes on"):
        claim_run_id()
        quiet()
        parser = build_parser()
        built = build(parser, parser.parse_args(args))
        stage = built.objects.pop("stage")
        try:
            return evaluate(Evaluation(**built.objects), stage, built.plain)
        except Stopped as error:
            if isinstance(error, InputError):
                raise
            print(one_line(f"stopped: {error}; the same command continues with a larger budget"), file=sys.stderr)
            raise SystemExit(BUDGET_SPENT) from None


if __name__ == "__main__":
    main()
