"""The net of every command: whatever is raised ends it with one line on standard error, and with a status.

    0    done
    1    an error, in one line; of `check_data` and `submission validate` also: there are problems
    2    a mistake in the arguments
    3    `synthesize`: the budget is spent; the same command continues with a larger one
    4    `synthesize`: answers to a batch file are awaited
    75   stopped on request with a point to resume from: the same command continues
    130  stopped by Ctrl-C (SIGINT)
    143  stopped by SIGTERM without a point to resume from

With CIR_TRACEBACK=1 errors are raised, tracebacks and all. A run keeps the traceback of its last error in its folder,
in `TRACEBACK`.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from contextcir.errors import LONGEST, InputError, one_line
from contextcir.files import write_text
from experiments.causes import chain, exit_text, explain

ERROR = 1
INTERRUPTED = 130
TRACEBACK = "traceback.txt"  # of rank 0, and of what has no ranks; others have their number in the name

_folder: Path | None = None


def keep_tracebacks_in(folder: Path | None) -> None:
    """Let the traceback of an error be written to a folder, if that exists by then; None writes none."""
    global _folder
    _folder = folder


@contextmanager
def one_line_errors(stopped: str = "") -> Iterator[None]:
    """Print whatever is raised in one line, and exit with its status.

    Args:
        stopped: what to say when the user stops the command, e.g. "finished work is kept".
    """
    keep_tracebacks_in(None)  # a run names its folder later; that of an earlier one in this process is not meant
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()  # a closed pipe is noticed here
    except SystemExit as end:
        if isinstance(end.code, str):
            _say(f"error: {exit_text(end.code)}")
            raise SystemExit(ERROR) from None
        if end.code and any(isinstance(link, KeyboardInterrupt) for link in chain(end)):  # Lightning ends with 1
            _say(_of_interrupt(stopped))
            raise SystemExit(INTERRUPTED) from None
        raise
    except GeneratorExit:
        raise
    except BaseException as error:
        if shows_tracebacks():
            raise
        raise SystemExit(report(error, stopped)) from None


def shows_tracebacks() -> bool:
    """Tell whether the user wants to see tracebacks."""
    return os.environ.get("CIR_TRACEBACK") == "1"


def report(error: BaseException, stopped: str = "") -> int:
    """Print one line on an error, keep its traceback, and return the exit status."""
    if isinstance(error, KeyboardInterrupt):
        _say(_of_interrupt(stopped))
        return INTERRUPTED
    if any(isinstance(link, BrokenPipeError) for link in chain(error)):
        _silence_output()
    _say(f"error: {line_of(error)}")
    return ERROR


def line_of(error: BaseException) -> str:
    """Return the line on an error, of at most `LONGEST` characters with the "error: " before it.

    Where the traceback is, it says for errors that nobody foresaw, and for others if there is room.
    """
    room = LONGEST - len("error: ")
    kept = _keep(error)
    text = explain(error, room)
    unexpected = text.startswith("unexpected ")
    if any(isinstance(link, InputError) for link in chain(error)):
        return text  # it says what to do
    if kept is not None:
        hint = one_line(f"; traceback: {kept}", room // 2)
    else:
        hint = "; CIR_TRACEBACK=1 shows the traceback" if unexpected else ""
    if unexpected or len(text) + len(hint) <= room:
        return explain(error, room - len(hint)) + hint
    return text


def last_resort(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report what no other net has caught, such as an error of an import; for ``sys.excepthook``."""
    if shows_tracebacks():
        sys.__excepthook__(kind, error, trace)
    else:
        report(error)


def _of_interrupt(stopped: str) -> str:
    return f"stopped: {stopped or 'by Ctrl-C'}"


def _keep(error: BaseException) -> Path | None:
    """Write the traceback of an error to the folder of the run; return the path, None if there is none."""
    if _folder is None or not _folder.is_dir():
        return None
    rank = os.environ.get("LOCAL_RANK", "0")
    path = _folder / (TRACEBACK if rank == "0" else f"traceback_rank_{rank}.txt")
    text = "".join(traceback.format_exception(error))
    try:
        write_text(path, f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}\n{text}".encode(errors="replace").decode())
    except OSError:  # the disk may be full: that may be the error
        return None
    return Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
        print(line, file=sys.stderr, flush=True)


def _silence_output() -> None:
    """Send what is still to be printed nowhere: Python would complain of the closed pipe when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
