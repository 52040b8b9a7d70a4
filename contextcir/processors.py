"""Processors and worker processes: how many this process may use, and how workers end with it."""

import os
import signal


def available_processors() -> int:
    """Return the number of processors that this process may run on, at least 1.

    A job of a cluster seldom gets all of its machine: Linux tells those that it was given. Elsewhere (macOS has no such
    call) all processors are counted.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def leave_interrupts_to_parent() -> None:
    """Ignore Ctrl-C in this process, a worker: a terminal sends it to all, and the parent ends its workers itself.

    Without this, each worker prints a traceback of its own. To be called first in a worker, as its initializer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
