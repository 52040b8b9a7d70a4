"""The benchmark of a large synthesis measures each case, and what it counts after a kill is bounded."""

import json
import re
from pathlib import Path

import pytest

from contextcir.synthesis.request_stage import GROUP
from experiments.benchmarks.synthesis_scale import synthesis_scale

pytest.importorskip("openai", reason="needs the extra `synthesis`")


def test_each_case_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesis_scale(keys=400, requests=60, concurrency=4, folder=tmp_path, json=tmp_path / "figures.json")
    rows = {(row["case"], row["count"]): row for row in json.loads((tmp_path / "figures.json").read_text())}
    assert list(rows) == [
        ("a stage, photos from files", 60), ("a stage, photos from tar shards", 60), ("a kill at half, 4 at once", 60),
        ("keys as sets of texts", 40), ("keys sorted", 40), ("keys sorted", 400),
    ]  # fmt: skip
    killed = re.fullmatch(
        r"killed after (\d+): (\d+) sent twice, 0 never", rows["a kill at half, 4 at once", 60]["result"]
    )
    assert killed is not None and int(killed[1]) >= 30 and int(killed[2]) <= 4 + 2 * GROUP
    assert all(row["seconds"] > 0 for row in rows.values())
    assert capsys.readouterr().out.count("\n| ") == 2 + 6
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
