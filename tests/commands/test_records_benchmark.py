"""The benchmark of records measures a table that holds what it should, in processes that share it."""

from pathlib import Path

import pytest

from contextcir.errors import InputError
from data_modules.arrow.writer import TableWriter
from data_modules.manifest import ManifestReader
from experiments.benchmarks import records as benchmark
from experiments.outputs import scratch

pytest.importorskip("pyarrow")


def figures(text: str) -> dict[str, str]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows[2:]}


@pytest.mark.skipif(not benchmark.SMAPS.exists(), reason="memory of processes is measured on Linux only")
def test_a_small_run_writes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "READS", 500)
    options = {"triplets": 5000, "compare": 4096, "workers": 1, "folder": tmp_path}
    benchmark.records(**options, manifest=True, markdown=tmp_path / "table.md")
    found = figures((tmp_path / "table.md").read_text())
    assert len(found) >= 14 and float(found["table on disk, MB"]) >= 0
    assert float(found["open and take the first record, s"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"], "nothing is left behind"


def test_simulated_records_are_those_of_their_manifest(tmp_path: Path) -> None:
    made = benchmark.Simulated(5000, 300, "simulated")
    made.write(tmp_path / "train.jsonl")
    read = ManifestReader(tmp_path).read_training("train").records
    table = TableWriter(tmp_path / "table").write(made)
    assert [record._replace(origin=None) for record in table] == [record._replace(origin=None) for record in read]
    assert all(record.reference != record.target for record in read)


def test_too_few_records_are_refused() -> None:
    with pytest.raises(InputError, match=r"must be at least 4096, got 5 \(triplets\)"):
        benchmark.records(triplets=5)


def test_a_folder_for_what_is_temporary_is_made(tmp_path: Path) -> None:
    with scratch(tmp_path / "new" / "folder") as place:
        assert Path(place).parent == tmp_path / "new" / "folder" and Path(place).is_dir()
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    with scratch(None) as place:
        assert Path(place).is_dir()
