"""A synthesis in jobs: every stage an array, and the same triplets as in one process."""

from pathlib import Path

import pytest

from experiments.synthesize import main
from tests.helpers.synthesis_flags import REQUESTS, flags
from tests.helpers.synthesis_model import asked
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


def test_a_stage_that_is_not_named_is_told(jobs: Jobs) -> None:
    job = jobs.submit("synthesize.sbatch", "--config=my.yaml")
    assert jobs.wait(job) == ["FAILED"] and "error: name the stage" in jobs.log(job)
