"""A model server that a process starts for itself, and that ends with it: one for each task of a job array."""

import asyncio
import atexit
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from shutil import which
from typing import Any

from contextcir.checks import positive, whole
from contextcir.errors import InputError, shown
from contextcir.synthesis.models.base import Answer, Request
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.client import ServerError
from contextcir.synthesis.models.endpoint import Endpoint

HOST = "127.0.0.1"
POLL = 0.5  # seconds between two looks whether the server answers
STOPPING = 20.0  # seconds that a server has to end by itself
# Runs a command that gets SIGTERM when this process ends, however it ends (Linux; elsewhere `stop` alone ends it).
_BOUND = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
    "    if os.getppid() != int(sys.argv[1]): raise SystemExit(1)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)


class ServerProgram(ABC):
    """A program that serves a model behind OpenAI's interface."""

    @abstractmethod
    def command(self, model: str, port: int) -> list[str]:
        """Return the command line that serves a model on a port of this machine."""


class Vllm(ServerProgram):
    """``vllm serve``.

    Args:
        arguments: More arguments, such as ["--tensor-parallel-size", "2"].
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.arguments = list(arguments)

    def command(self, model: str, port: int) -> list[str]:
        return ["vllm", "serve", model, "--host", HOST, "--port", str(port), *self.arguments]


class Sglang(ServerProgram):
    """``sglang.launch_server``, of the active Python.

    Args:
        arguments: More arguments, such as ["--tp", "2"].
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.arguments = list(arguments)

    def command(self, model: str, port: int) -> list[str]:
        base = [sys.executable, "-m", "sglang.launch_server", "--model-path", model]
        return [*base, "--host", HOST, "--port", str(port), *self.arguments]


class OtherProgram(ServerProgram):
    """Any other program.

    Args:
        words: The command line; {model} and {port} stand for these.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        if not any("{port}" in word for word in self.words):
            raise InputError("expected a command line with {port}", setting="model.program.words")

    def command(self, model: str, port: int) -> list[str]:
        return [word.replace("{model}", model).replace("{port}", str(port)) for word in self.words]


class OwnServer(Endpoint):
    """A server that this process starts before its first request, and stops when it ends.

    In a job array, each task has its own; it is started by the job, sees the job's GPUs, and ends with the task, also
    where that is killed. What it prints is in the job's log.

    Args:
        chat: Which model is served and answers, and with which parameters.
        program: Serves it; null for vLLM.
        port: On this machine; null for one that is free.
        patience: Seconds until it must answer; loading a model takes minutes.
        kwargs: As for a server that is there already.

    Raises (from `answer`):
        InputError: if the program is not installed.
        ServerError: if the server ends, or does not answer in time.
    """

    def __init__(
        self,
        chat: ChatModel,
        program: ServerProgram | None = None,
        port: int | None = None,
        patience: float = 1800.0,
        **kwargs: Any,
    ) -> None:
        self.program = program or Vllm()
        self.port = _free_port() if port is None else whole(port, 1, "model.port", 65_535)
        self.patience = positive(patience, "model.patience")
        super().__init__(chat, url=f"http://{HOST}:{self.port}/v1", key_variable=None, one_each=False, **kwargs)
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, index: int, count: int) -> None:
        """Look for the program; the server starts with the first request."""
        super().begin(index, count)
        program = self.program.command(self.chat.model, self.port)[0]
        if which(program) is None:
            raise InputError(
                f"the program {shown(program)} of the model's server is not found", setting="model.program"
            )

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        """Yield an answer for every request; the server is started before the first one, and stays for later stages."""
        waiting = iter(requests)
        first = next(waiting, None)
        if first is None:
            return
        if self._process is None:
            self._start()
        await self._until_it_answers()
        async for answer in super().answer(_again(first, waiting)):
            yield answer

    def stop(self) -> None:
        """End the server and all processes that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                continue
        process.wait()

    def _start(self) -> None:
        command = [sys.executable, "-c", _BOUND, str(os.getpid()), *self.program.command(self.chat.model, self.port)]
        try:
            # a session of its own: Ctrl-C is for this process, which still needs the answers that are under way
            self._process = subprocess.Popen(command, stdout=2, start_new_session=True)  # noqa: S603  (the user's)
        except OSError as error:
            raise InputError(f"the model's server does not start: {error.strerror}", setting="model.program") from None
        atexit.register(self.stop)

    async def _until_it_answers(self) -> None:
        end = time.monotonic() + self.patience
        while not await asyncio.to_thread(_answers, f"{self._own[0].url}/models"):
            status = None if self._process is None else self._process.poll()
            if status is not None:
                self._process = None
                raise ServerError(
                    f"the model's server ended with status {status} before it answered", setting="model.program"
                )
            if time.monotonic() > end:
                self.stop()
                raise ServerError(f"the model's server did not answer in {self.patience:g} s", setting="model.patience")
            await asyncio.sleep(POLL)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_process": None}


def _again(first: Request, waiting: Iterable[Request]) -> Iterable[Request]:
    yield first
    yield from waiting


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    try:
        with opener.open(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 404, 405)  # it is there, and has no such page
    except (OSError, ValueError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
