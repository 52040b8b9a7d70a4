"""A protocol that changes gets another version: what each says of itself and answers is on record."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contextcir.evaluation.metrics import RecallAt
from data_modules.cirr import CIRRReader
from data_modules.readers import READERS
from tests.helpers.make_data import make_cirr
from tests.helpers.recorded_protocols import MAKERS, RECORD, digest, entries, entry_of, figures

RECORDED = json.loads(RECORD.read_text())


@pytest.mark.parametrize("benchmark", MAKERS)
def test_a_protocol_is_that_on_record_or_has_another_version(benchmark: str, tmp_path: Path) -> None:
    if benchmark == "pinpoint":
        pytest.importorskip("pyarrow")
    found = dict(entries(tmp_path / benchmark, benchmark))
    assert found, "there is something to compare"
    for name, now in found.items():
        was = RECORDED[name]
        advice = (
            f"{name}: if figures of the same files and embeddings change, raise protocol_version of its reader; then "
            "record it by `python -m tests.helpers.recorded_protocols`, and say so in CHANGELOG.md"
        )
        assert now == was or now["version"] > was["version"], advice
        assert now == was, f"{name} has version {now['version']} now: record it, as above"


def test_every_benchmark_is_on_record() -> None:
    assert set(MAKERS) == set(READERS) and {name.partition(" ")[0] for name in RECORDED} == set(READERS)
    assert all(reader.protocol_version >= 1 for reader in READERS.values())


def test_the_record_notices_other_figures(tmp_path: Path) -> None:
    reader = CIRRReader(make_cirr(tmp_path))
    protocol = reader.read_evaluation("val").protocol
    same, other = protocol, replace(protocol, exclude_reference=False)
    assert digest(figures(same)) == RECORDED["cirr val"]["answers"] != digest(figures(other))
    assert digest(figures(replace(protocol, metrics=RecallAt.at(1)))) != RECORDED["cirr val"]["answers"]


def test_the_version_is_that_of_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIRRReader, "protocol_version", 7)
    assert entry_of(CIRRReader(make_cirr(tmp_path)), "val")["version"] == 7
