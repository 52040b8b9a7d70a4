"""The measuring of the index: the command gives a report, and what it measures is a search."""

import json
from pathlib import Path

import pytest

from contextcir.errors import InputError
from contextcir.search.embedded import EmbeddedIndex
from experiments.benchmarks.search import CONDITIONS, made_up_queries, search, store


def test_the_report_holds_all_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "report.json", tmp_path / "indexes"
    folder.mkdir()
    search(images=300, most=400, width=8, count=5, queries=[1, 3], repeats=2, folder=folder, json=file)
    report = json.loads(file.read_text())
    assert (report["images"], report["most"], report["width"]) == (300, 400, 8) and report["stored a second"] > 0
    assert {name: list(rows) for name, rows in report["times"].items()} == {key: ["search", "product"] for key in "13"}
    assert list(report["conditions"]) == list(CONDITIONS)
    for rows in [*report["times"].values(), *report["conditions"].values()]:
        assert all(row["median"] >= row["least"] > 0 and row["cpu"] > 0 for row in rows.values())
    process = report["process with most images"]
    assert process["peak, MiB"] >= process["before, MiB"] > 50 and process["16 queries, median ms"] > 0
    assert list(folder.iterdir()) == []
    assert "3 queries on 300 images, the best 5" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"at least 1, got 0 \(count\)"):
        search(count=0)


def test_conditions_hold_for_the_shares_that_they_name(tmp_path: Path) -> None:
    store(tmp_path / "index", 1000, 4)
    index = EmbeddedIndex(tmp_path / "index")
    assert [index.count(where) for where in CONDITIONS.values()] == [10, 500, 900]
    assert len(index.search(made_up_queries(2, 4), 7)[1]) == 7
    index.close()
