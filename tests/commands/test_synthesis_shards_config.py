"""The config for shards and a server of its own runs, with tar files and a stand-in for the server."""

import sys
from pathlib import Path

import pytest

from contextcir.synthesis.store import read_stage
from experiments.synthesize import main
from tests.helpers.mining_cases import draw_photos
from tests.helpers.paths import PROJECT
from tests.helpers.photo_shards import write_shards
from tests.helpers.synthesis_model import write_pairs

pytest.importorskip("openai")
SERVED = str(PROJECT / "tests" / "helpers" / "served.py")


def test_shards_are_described_by_a_server_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = write_shards(draw_photos(tmp_path / "photos", kinds=2, each=3), tmp_path / "shards")
    pairs = write_pairs(tmp_path / "pairs.json", [("kind0/0.png", "kind0/1.png"), ("kind1/0.png", "kind1/9.png")])
    given = ["--config=synthesis/shards", f"--out={tmp_path / 'out'}", f"--images.shards={shards}/*.tar"]
    main([*given, "--stage=pairs", f"--pairs.file={pairs}"])
    words = [sys.executable, SERVED, "{port}", str(tmp_path / "log")]
    program = ["--model.program=OtherProgram", f"--model.program.words={words}"]
    main([*given, "--stage=describe", *program])
    assert [record["key"] for record in read_stage(tmp_path / "out", "describe-reference")] == [
        "kind0/0.png",
        "kind1/0.png",
    ]
    assert len(list(read_stage(tmp_path / "out", "describe"))) == 1
    (failure,) = read_stage(tmp_path / "out", "describe-failures")
    assert failure["reason"] == "unreadable image" and "kind1/9.png" in failure["detail"]
    assert (tmp_path / "log").read_text().split() == ["Qwen/Qwen3-VL-8B-Instruct"] * 3
