"""How many processors this process may use: a job of a cluster seldom gets all of its machine."""

import os


def available_processors() -> int:
    """Return the number of processors that this process may run on, at least 1.

    Linux tells those that a job was given; elsewhere (macOS has no such call) all processors are counted.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
