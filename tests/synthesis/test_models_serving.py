"""A server of a process's own: started with its first request, for the config's model and port, never left over."""

import multiprocessing
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from contextcir.errors import InputError
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.client import ServerError
from contextcir.synthesis.models.serving import OtherProgram, OwnServer, Sglang, Vllm
from tests.helpers.asking import GOOD, QUICK, ask, requests
from tests.helpers.paths import PROJECT

pytest.importorskip("openai")
SERVED = str(PROJECT / "tests" / "helpers" / "served.py")


def own(log: Path, *more: str, **options) -> OwnServer:
    program = OtherProgram([sys.executable, SERVED, "{port}", str(log), *more])
    return OwnServer(ChatModel("org/model"), program, retries=QUICK, concurrency=2, **options)


def alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2):
            return True
    except OSError:
        return False


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_server_is_started_once_for_all_stages_and_ends_with_them(tmp_path: Path) -> None:
    model = own(tmp_path / "log", "0.3")
    model.begin(0, 1)
    assert not alive(model.port), "before there is a request, no GPU is needed"
    assert ask(model, []) == {} and not alive(model.port)
    for _ in range(2):
        assert [answer.content for answer in ask(model, requests(5)).values()] == [GOOD] * 5
    assert (tmp_path / "log").read_text().split() == ["org/model"] * 10
    model.stop()
    until(lambda: not alive(model.port))


def run(log: Path, port: int) -> None:
    ask(own(log, port=port), requests(1))
    time.sleep(60)


def test_a_server_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    port = own(tmp_path / "log").port
    process = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path / "log", port))
    process.start()
    until(lambda: (tmp_path / "log").exists())
    assert alive(port)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    until(lambda: not alive(port))


def test_a_server_that_ends_or_is_too_slow_stops_the_run(tmp_path: Path) -> None:
    broken = OwnServer(ChatModel("m"), OtherProgram([sys.executable, "-c", "raise SystemExit(3)", "{port}"]))
    with pytest.raises(ServerError, match="ended with status 3 before it answered"):
        ask(broken, requests(1))
    slow = own(tmp_path / "log", "60", patience=0.2)
    with pytest.raises(ServerError, match=r"did not answer in 0\.2 s"):
        ask(slow, requests(1))
    assert slow._process is None


def test_a_program_that_is_missing_is_told_before_any_stage() -> None:
    with pytest.raises(InputError, match="'no-such-program' of the model's server is not found") as refused:
        OwnServer(ChatModel("m"), OtherProgram(["no-such-program", "{port}"])).begin(0, 1)
    assert refused.value.setting == "model.program"
    with pytest.raises(InputError, match="with {port}"):
        OtherProgram(["serve"])


@pytest.mark.parametrize("port", [0, -1, 65_536, True])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(InputError, match=r"model\.port"):
        OwnServer(ChatModel("m"), port=port)


def test_vllm_and_sglang_get_model_and_port() -> None:
    assert Vllm(["--max-model-len", "8192"]).command("org/model", 8123) == [
        "vllm", "serve", "org/model", "--host", "127.0.0.1", "--port", "8123", "--max-model-len", "8192",
    ]  # fmt: skip
    assert Sglang().command("org/model", 8123)[1:] == [
        "-m", "sglang.launch_server", "--model-path", "org/model", "--host", "127.0.0.1", "--port", "8123",
    ]  # fmt: skip
