"""Processes that load images."""

import os
import signal
from types import FrameType


def outlast_sigterm(worker: int) -> None:
    """Let a loader process live through a SIGTERM that goes to all processes of a run.

    The run goes on to the end of its step, saves, and then closes its loaders; one that had died first would end the
    step by an error. A second SIGTERM, by which torch ends a process that does not close, ends it.
    """
    signal.signal(signal.SIGTERM, _first)


def _first(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, _second)


def _second(number: int, frame: FrameType | None) -> None:
    os._exit(0)
