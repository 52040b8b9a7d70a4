"""What benchmarks share: memory and time of a call in a process of its own, and what it was measured on."""

import ctypes
import gc
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from contextcir.errors import InputError
from experiments.command import processor


def require_at_least(least: int, **settings: int | Sequence[int]) -> None:
    """Check numbers, or all numbers of lists, given by the name of their setting.

    Raises:
        InputError: if one is below ``least``, or a list is empty.
    """
    for name, value in settings.items():
        numbers = [value] if isinstance(value, int) else value
        if not numbers or min(numbers) < least:
            raise InputError(f"must be at least {least}, got {value}", setting=name)


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name; by default the GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def measured_on(device: torch.device, threads: int) -> str:
    """Return the processor that was measured, versions, and today's date."""
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{processor()}, {threads} thread(s)"
    return f"{machine}; {versions()}"


def versions() -> str:
    """Return the versions of torch and Python, and today's date."""
    return f"torch {torch.__version__}, Python {platform.python_version()}; {time.strftime('%Y-%m-%d')}"


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def return_free_memory() -> None:
    """Return to the system what this process has freed, where the C library can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def in_a_fork(function: Callable[..., None], arguments: tuple[Any, ...], threads: int) -> tuple[float, float, float]:
    """Return wall-clock seconds, CPU seconds, and additional peak memory in MiB of a call in a process of its own.

    The caller must not have used more than one thread of torch.

    Raises:
        RuntimeError: if that process ends without a result, e.g. for lack of memory.
    """
    return_free_memory()  # or the call would reuse it, and seem to take less
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)

    def work() -> None:
        torch.set_num_threads(threads)
        warm = torch.randn(256, 256)
        warm @ warm  # starts the threads
        before, start, cpu = peak_memory(), time.perf_counter(), time.process_time()
        function(*arguments)
        send.send((time.perf_counter() - start, time.process_time() - cpu, peak_memory() - before))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}: the process ended without a result; was memory short?") from None
    finally:
        process.join()
