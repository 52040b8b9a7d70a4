"""The benchmark of mining measures each step and reports its result."""

import json
from pathlib import Path

import pytest

from experiments.benchmarks.mining import mining

pytest.importorskip("faiss", reason="needs the extra `mining`")


def test_each_step_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mining(images=2000, dim=64, neighbours=20, threads=1, sample=50, folder=tmp_path, json=tmp_path / "figures.json")
    steps = {step["name"]: step for step in json.loads((tmp_path / "figures.json").read_text())["steps"]}
    assert len(steps) == 5 and all(step["seconds"] >= 0 and step["peak_mb"] > 10 for step in steps.values())
    assert steps["near-duplicates, 64-bit hashes"]["result"] == "19 of 19 copies, and 0 others"
    assert int(steps["pairs and groups"]["result"].split()[0].replace(",", "")) > 100
    assert 90 < float(steps["exact search"]["result"].split()[1]) <= 100
    assert capsys.readouterr().out.count("\n| ") == 7  # two lines of the header
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
