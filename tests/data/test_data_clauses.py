"""Clauses of captions on their way from records, manifests and parsers into batches."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from contextcir.batch import Clauses
from contextcir.fusion import ClauseSum, CrossAttentionFusion, Sum
from contextcir.losses import JoinedConsistency
from contextcir.phrases.sources import ParsedPhrases
from contextcir.training.module import ContextCIR
from data_modules import Manifest
from data_modules.loading.phrases import clauses_to_read, reads_clauses
from data_modules.records import PhraseRecord
from tests.data.test_manifest import RECORDS, make_manifest, module
from tests.helpers import tiny
from tests.helpers.word_parser import WordParser

TEXT = "Make the dog  green, add a cat"  # cleaned, its second blank is gone
SPANS = [[0, 18], [20, 29]]


def manifest(root: Path, clauses: Any = SPANS) -> Path:
    return make_manifest(root, [RECORDS[0] | {"caption": TEXT, "clauses": clauses}, *RECORDS[1:]])


def clauses_by_row(loader: DataLoader) -> dict[str, list[list[int]] | None]:
    found: dict[str, list[list[int]] | None] = {}
    for batch in loader:
        clauses: Clauses | None = batch.query.clauses
        for row, caption in enumerate(batch.query.captions):
            found[caption] = None if clauses is None else clauses.spans[clauses.owner == row].tolist()
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_manifest_brings_clauses_into_batches(tmp_path: Path, workers: int) -> None:
    data = Manifest(manifest(tmp_path), num_workers=workers, batch_size=2, preprocess=module(tmp_path).preprocess)
    assert clauses_by_row(data.train_dataloader()) == {TEXT: SPANS, "no cat": []}


def test_a_batch_without_any_clause_has_none(tmp_path: Path) -> None:
    data = module(make_manifest(tmp_path, RECORDS), batch_size=2)
    assert set(clauses_by_row(data.train_dataloader()).values()) == {None}


@pytest.mark.parametrize(
    ("clauses", "problem"),
    [
        ([[0, 99]], "outside the caption"),
        ([[0, 9], [5, 12]], "before the end"),
        ([[3, 3]], "outside"),
        ([[1]], "a span"),
    ],
)
def test_clauses_that_can_not_be_are_told_with_their_record(tmp_path: Path, clauses: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="record 0 .*clauses") as error:
        module(manifest(tmp_path, clauses), batch_size=2).train_dataloader()
    assert problem in str(error.value)


def test_a_parser_gives_clauses_where_the_record_has_none(tmp_path: Path) -> None:
    data = module(manifest(tmp_path), batch_size=2, phrases=ParsedPhrases(WordParser()))
    assert clauses_by_row(data.train_dataloader()) == {TEXT: SPANS, "no cat": [[0, 6]]}
    assert data.query_batch("val", 0, [1]).clauses.spans.tolist() == [[0, 9]]


@pytest.mark.parametrize("fusion", [Sum, ClauseSum])
def test_nothing_is_parsed_for_a_model_that_reads_no_clauses(tmp_path: Path, fusion: type) -> None:
    """The records bring phrases, and only clauses are missing."""
    data = module(make_manifest(tmp_path, RECORDS), batch_size=2, phrases=ParsedPhrases(WordParser()))
    data.trainer = SimpleNamespace(lightning_module=ContextCIR(tiny.backbone(), fusion=fusion))
    record = data.read_evaluation("val").records[0]._replace(phrases=(PhraseRecord(0, 3),))
    evaluation = data.read_evaluation("val")._replace(records=(record,))
    WordParser.batches.clear()
    assert data._queries(evaluation)[0].clauses == (((0, 9),) if fusion is ClauseSum else ())
    assert bool(WordParser.batches) == (fusion is ClauseSum)


def test_who_reads_clauses_is_the_fusion_or_a_loss_on_composed_queries() -> None:
    backbone = tiny.backbone()
    assert reads_clauses(ContextCIR(backbone, fusion=ClauseSum))
    assert reads_clauses(ContextCIR(backbone, fusion=Sum, concept=JoinedConsistency()))
    assert not reads_clauses(ContextCIR(backbone, fusion=CrossAttentionFusion))
    assert not reads_clauses(None)


def test_records_without_clauses_are_told_to_who_reads_them(tmp_path: Path) -> None:
    data = module(make_manifest(tmp_path, RECORDS))
    with pytest.warns(UserWarning, match=r"2 of 2 captions have none.* each is one clause as a whole; data.phrases"):
        clauses_to_read([data.read_training()], None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clauses_to_read([data.read_training()], ParsedPhrases(WordParser()))
