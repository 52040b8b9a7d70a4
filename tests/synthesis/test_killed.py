"""A synthesis that is killed at random points: nothing lost, nothing doubled, nothing asked again that was kept."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from contextcir.synthesis.request_stage import GROUP
from contextcir.synthesis.store import read_stage
from experiments.synthesize import main
from tests.helpers.synthesis_flags import REQUESTS, flags
from tests.helpers.synthesis_model import asked

KILLS = 10
AT_ONCE = 4
STAGES = {"describe-reference": "key", "describe": "key", "instruct": "pair"}


def kept(out: Path) -> set[str]:
    return {f"{stage} {record[name]}" for stage, name in STAGES.items() for record in read_stage(out, stage)}


def wait_for_requests(process: multiprocessing.Process, log: Path, count: int) -> None:
    until = time.monotonic() + 60
    while process.is_alive() and len(asked(log)) < count:
        assert time.monotonic() < until
        time.sleep(0.001)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "manifest").glob("*.jsonl")}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_synthesis_goes_on_after_every_kill(seed: int, tmp_path: Path) -> None:
    main(flags(tmp_path, tmp_path / "whole"))
    out, log = tmp_path / "out", tmp_path / "log"
    args = flags(tmp_path, out, f"--model.log={log}", "--model.pause=0.02", f"--model.at_once={AT_ONCE}")
    points = sorted(random.Random(seed).sample(range(1, REQUESTS), KILLS))
    killed, in_flight = 0, 0
    history: list[tuple[int, set[str]]] = []  # after each kill: how much had been asked, and what was kept
    for point in points:
        before = len(asked(log))
        process = multiprocessing.get_context("fork").Process(target=main, args=(args,))
        process.start()
        wait_for_requests(process, log, point + in_flight)
        time.sleep(random.Random(point).random() * 0.01)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        lost = set(asked(log)[before:]) - kept(out)
        assert len(lost) <= AT_ONCE + 2 * GROUP
        in_flight += len(lost)
        history.append((len(asked(log)), kept(out)))
    assert killed >= KILLS - 1
    main(args)
    assert contents(out) == contents(tmp_path / "whole")
    for stage in ("pairs", *STAGES, "filter"):
        keys = [record["key"] for record in read_stage(out, stage)]
        assert sorted(keys) == sorted(record["key"] for record in read_stage(tmp_path / "whole", stage))
    requests = asked(log)
    for place, on_disk in history:
        assert not on_disk & set(requests[place:])
    assert len(set(requests)) == REQUESTS
    assert len(requests) - REQUESTS <= in_flight  # what is asked twice was under way when a kill came


@pytest.mark.parametrize("stage", ["pairs", "filter"])
def test_stages_that_ask_nobody_go_on_too(stage: str, tmp_path: Path) -> None:
    main(flags(tmp_path, tmp_path / "whole"))
    out, log = tmp_path / "out", tmp_path / "log"
    main(flags(tmp_path, out, f"--model.log={log}"))
    path = out / stage / "00000-of-00001.jsonl"
    whole = path.read_bytes()
    for share in (0, 0.3, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        (out / "pairs" / "complete.json").unlink()
        main(flags(tmp_path, out, f"--model.log={log}"))
        assert path.read_bytes() == whole and contents(out) == contents(tmp_path / "whole")
    assert len(asked(log)) == REQUESTS


def interruptible(args: list[str]) -> None:
    """Run a synthesis that Ctrl-C reaches even where a shell has put the tests in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(args)


def test_an_interrupt_keeps_what_was_answered(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    args = flags(tmp_path, out, f"--model.log={log}", "--model.pause=0.2", f"--model.at_once={AT_ONCE}")
    process = multiprocessing.get_context("fork").Process(target=interruptible, args=(args,))
    process.start()
    wait_for_requests(process, log, 40)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert len(asked(log)) - len(kept(out)) <= 2 * AT_ONCE
    main(args)
    assert len(asked(log)) <= REQUESTS + 2 * AT_ONCE
