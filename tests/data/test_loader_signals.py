"""Loader processes outlast the SIGTERM of a process group, and end at the next one."""

import os
import signal
import time

from data_modules.loading.workers import outlast_sigterm


def test_the_first_signal_is_outlasted_and_the_second_ends_it() -> None:
    ready, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        outlast_sigterm(0)
        os.write(begin, b"x")
        while True:
            time.sleep(0.05)
    os.read(ready, 1)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
