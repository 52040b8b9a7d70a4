"""A synthesis in jobs: every stage an array, and the same triplets as in one process."""

import re
import socket
from pathlib import Path

import pytest

from contextcir.synthesis.store import read_stage
from experiments.synthesize import main
from tests.helpers.mining_cases import draw_photos
from tests.helpers.photo_shards import write_shards
from tests.helpers.synthesis_flags import REQUESTS, flags
from tests.helpers.synthesis_model import asked, write_pairs
from tests.slurm.jobs import Jobs

pytestmark = pytest.mark.timeout(600)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "manifest").glob("*.jsonl")}


def test_arrays_make_the_triplets_of_one_process(jobs: Jobs, tmp_path: Path) -> None:
    main(flags(tmp_path, tmp_path / "whole"))
    out, log = tmp_path / "out", tmp_path / "log"
    given = flags(tmp_path, out, f"--model.log={log}")
    main([*given, "--stage=pairs"])
    for stage in ("describe", "instruct", "filter"):
        jobs.completed(jobs.submit("synthesize.sbatch", stage, *given, options=("--array=1-3:2",)), tasks=2)
    main([*given, "--stage=write"])
    assert contents(out) == contents(tmp_path / "whole") and len(asked(log)) == REQUESTS
    assert sorted(path.name for path in (out / "filter").glob("*.jsonl")) == [
        "00000-of-00002.jsonl",
        "00001-of-00002.jsonl",
    ]


def test_each_task_has_a_server_of_its_own_that_ends_with_it(jobs: Jobs, tmp_path: Path) -> None:
    shards = write_shards(draw_photos(tmp_path / "photos", kinds=4, each=2), tmp_path / "shards")
    names = [(f"kind{kind}/{one}.png", f"kind{kind}/{1 - one}.png") for kind in range(4) for one in (0, 1)]
    out, log = tmp_path / "out", tmp_path / "log"
    served = [".venv/bin/python", "tests/helpers/served.py", "{port}", str(log)]
    given = [
        "--config=synthesis/shards", f"--out={out}", f"--images.shards={shards}/*.tar",
        "--model.program=OtherProgram", f"--model.program.words={served}",
    ]  # fmt: skip
    main([*given[:3], "--stage=pairs", f"--pairs.file={write_pairs(tmp_path / 'pairs.json', names)}"])
    job = jobs.submit("synthesize.sbatch", "describe", *given, options=("--array=0-1",))
    jobs.completed(job, tasks=2)
    described = [record["key"] for record in read_stage(out, "describe-reference")]
    assert sorted(described) == sorted(name for name, _ in names) and len(list(read_stage(out, "describe"))) == 8
    assert len(log.read_text().splitlines()) == 16
    ports = {int(port) for port in re.findall(r"serves on (\d+)", jobs.log(job))}
    assert len(ports) == 2
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server is still there"


def test_a_stage_that_is_not_named_is_told(jobs: Jobs) -> None:
    job = jobs.submit("synthesize.sbatch", "--config=my.yaml")
    assert jobs.wait(job) == ["FAILED"] and "error: name the stage" in jobs.log(job)
