"""What of an error a user can act on: of a chain of errors the one that says it, in words, with place and setting.

An error may come from a constructor within jsonargparse within Lightning, or as the text of a traceback of another
process. Whatever it is, `explain` makes one line of it.
"""

import builtins
import contextlib
import errno
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from contextcir.errors import LONGEST, InputError, one_line, shown
from experiments.flags import flag

PACKAGES = ("contextcir", "data_modules", "callbacks", "experiments")
ROOT = Path(__file__).parents[1]
# Errors that come from the code rather than from what it is given.
BUGS = (
    TypeError, LookupError, AttributeError, AssertionError, NameError, NotImplementedError, ArithmeticError,
    StopIteration, SystemError, ReferenceError, EOFError, BufferError,
)  # fmt: skip
EXTRAS = {  # of pyproject.toml, by the packages that they bring
    "spacy": "spacy",
    "en_core_web_sm": "spacy",
    "openai": "synthesis",
    "httpx2": "synthesis",
    "jsonschema": "synthesis",
    "py3langid": "synthesis",
    "faiss": "mining",
    "imagehash": "mining",
    "transformers": "local",
    "sentence_transformers": "embedders",
    "fastapi": "search",
    "uvicorn": "search",
    "pillow_heif": "heic",
    "qdrant_client": "qdrant",
    "pyarrow": "parquet",
    "fsspec": "objects",
}
SYSTEM = {  # what the system's errors mean for a path
    errno.ENOSPC: "no space left on this disk",
    errno.EDQUOT: "the quota of this disk is used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "this disk can't be written to",
    errno.EISDIR: "expected a file, found a folder",
    errno.ENOTDIR: "expected a folder, found a file in its path",
    errno.EEXIST: "exists already, and is not what was expected there",
    errno.ENOENT: "no such file or folder",
    errno.ELOOP: "a link that leads to itself",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many open files (see `ulimit -n`)",
    errno.ENFILE: "too many open files on this machine",
    errno.EMLINK: "too many links",
    errno.EIO: "the disk fails to read or write",
    errno.EFBIG: "the file is too large for this disk",
    errno.ENOMEM: "out of memory",
}
# Words of Lightning that stand for a setting.
SETTINGS = {
    "Timer(duration=": "trainer.max_time",
    "backend found": "trainer.accelerator",
    "val_check_batch": "trainer.val_check_interval",
    "numpy accepts from": "seed_everything",
}
_TRACEBACK = "Traceback (most recent call last):"
_BETWEEN = re.compile(
    r"\n\n(?:The above exception was the direct cause of|During handling of the above exception, another).*?\n\n"
)
_FRAME = re.compile(r'^ +File "(.+)", line (\d+)', re.MULTILINE)


def explain(error: BaseException, longest: int = LONGEST) -> str:
    """Return one line on an error: what is wrong, where, and which setting or file."""
    try:
        text = _explained(error)
    except Exception as second:  # an error whose text can't be made must not hide that there was one
        text = f"unexpected {type(error).__name__}, whose text can't be shown ({type(second).__name__})"
    return one_line(text, longest)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and the errors that it was raised from or while handling, the outermost first."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        link = left.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        if type(link).__name__ not in ("_RemoteTraceback", "RemoteTraceback"):  # the text of an error that is here too
            yield link
        left += getattr(link, "exceptions", None) or ()
        left.append(link.__cause__ or (None if link.__suppress_context__ else link.__context__))


def _explained(error: BaseException) -> str:
    links = list(chain(error))
    for link in links:
        if isinstance(link, InputError) and _TRACEBACK not in link.problem:
            return link.describe(flag)
    for link in links:
        if _TRACEBACK in (text := str(link)):
            return _of_text(text)
    for link in links:
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return _worded(link, *_place(link.__traceback__))
    chosen = _choose(links)
    while isinstance(chosen.__cause__, OSError) and chosen.__cause__.filename is not None:
        chosen = chosen.__cause__
    return _worded(chosen, *_place(chosen.__traceback__))


def _choose(links: Iterable[BaseException]) -> BaseException:
    """Return the outermost error that is neither a bug nor the words of jsonargparse around another one."""
    links = list(links)
    own = [link for link in links if "Does not validate against any of the Union" not in str(link)] or links
    if isinstance(own[0], BUGS):  # perhaps while another error was being handled, which is the real one
        return next((link for link in own if not isinstance(link, (*BUGS, SystemExit))), own[0])
    return own[0]


def _of_text(text: str) -> str:
    """Return a line on the error that the text of a traceback, of another process, tells of."""
    whole = InputError(text)  # what it carries of an error of ours
    if whole.problem != text:
        return whole.describe(flag)
    told = []
    for part in _BETWEEN.split(text):
        _, _, rest = part.rpartition(_TRACEBACK)
        lines = rest.strip("\n").split("\n")
        start = next((number for number, line in enumerate(lines) if line and not line.startswith(" ")), None)
        if start is not None:
            kind, _, message = "\n".join(lines[start:]).strip().partition(": ")
            told.append((kind, message, _frames_of_text(part)))
    for kind, message, _ in told:
        if kind.startswith("contextcir.errors."):
            return re.sub(r"\(([a-z_]+(?:\.\w+)+)\)$", lambda match: f"({flag(match[1])})", message)
    errors = [(_rebuilt(kind, message), frames) for kind, message, frames in reversed(told)]
    if not errors:
        return text.strip().rpartition("\n")[2]
    chosen = _choose([error for error, _ in errors])
    frames = next(frames for error, frames in errors if error is chosen)
    return _worded(chosen, *_own_and_last(frames), "")


def _rebuilt(kind: str, message: str) -> BaseException:
    """Return an error of a kind with a message, as good as text tells it."""
    name = kind.rpartition(".")[2]
    known = getattr(builtins, name, None)
    if not (isinstance(known, type) and issubclass(known, BaseException)):
        known = type(name, (RuntimeError,), {"__module__": kind.rpartition(".")[0] or "unknown"})
    if issubclass(known, OSError) and (match := re.match(r"\[Errno (\d+)\] ([^:]*)(?:: (['\"])(.*)\3)?", message)):
        return OSError(int(match[1]), match[2], match[4])
    if issubclass(known, ImportError) and (match := re.search(r"No module named '([\w.]+)'", message)):
        return ModuleNotFoundError(message, name=match[1])
    try:
        return known(message.strip("'\"") if known is KeyError else message)
    except TypeError:  # of an error that takes several arguments
        return RuntimeError(f"{name}: {message}")


def _frames_of_text(text: str) -> list[tuple[str, int]]:
    return [(file, int(line)) for file, line in _FRAME.findall(text)]


def _place(trace: TracebackType | None) -> tuple[str, str, str]:
    """Return our innermost line, the file of the innermost line of all, and the source of both."""
    frames = traceback.extract_tb(trace)
    own, last = _own_and_last([(frame.filename, frame.lineno or 0) for frame in frames])
    lines = [frame.line or "" for frame in frames if _ours(frame.filename)][-1:] + [f.line or "" for f in frames[-1:]]
    return own, last, "\n".join(lines)


def _own_and_last(frames: list[tuple[str, int]]) -> tuple[str, str]:
    own = next((f"{ours}:{line}" for file, line in reversed(frames) if (ours := _ours(file))), "")
    return own, frames[-1][0] if frames else ""


def _ours(file: str) -> str | None:
    """Return the path of a source file of this project within it, None for another one."""
    with contextlib.suppress(ValueError):
        path = Path(file).resolve().relative_to(ROOT)
        if path.parts[0] in PACKAGES:
            return path.as_posix()
    return None


def _worded(error: BaseException, own: str, last: str, source: str) -> str:
    """Return what an error says.

    Args:
        error: the error.
        own: innermost line of this project's code, as ``FILE:LINE``.
        last: file of the innermost line.
        source: the text of these lines.
    """
    kind, text = type(error), " ".join(str(error).split())
    where = f" ({own})" if own else ""
    setting = _setting(text, source, error, last)
    named = f" ({flag(setting)})" if setting else ""
    if isinstance(error, MemoryError) or kind.__name__ == "OutOfMemoryError":
        return f"out of memory: {text or 'this machine has no more'}{where}"
    if isinstance(error, RecursionError):
        return f"something is nested too deeply, or without an end: {text}{where}"
    if isinstance(error, BrokenPipeError):
        return "the output was closed by whatever reads it"
    if isinstance(error, OSError):
        return _system(error, where)
    if isinstance(error, ImportError):
        return _package(error, where)
    if kind.__module__.startswith("omegaconf"):
        return _interpolation(str(error))
    if kind.__module__.startswith("yaml"):
        return _yaml(error)
    if isinstance(error, UnicodeError):
        return f"expected text in UTF-8: {text}{where}"
    if isinstance(error, ZeroDivisionError) and setting:
        return f"expected a number above 0, got 0{named}"
    if isinstance(error, BUGS):
        return f"unexpected {kind.__name__}: {text}{where}{named}"
    if setting or _ours(last):
        return f"{text or kind.__name__}{named}"
    known = isinstance(error, ValueError) or kind.__name__ == "MisconfigurationException"
    return f"{text}{where}" if known and text else f"{kind.__name__}: {text}{where}"


def _system(error: OSError, where: str) -> str:
    if error.errno is None:  # of a library that has words of its own
        return f"{' '.join(str(error).split()) or type(error).__name__}{where}"
    words = SYSTEM.get(error.errno, error.strerror or os.strerror(error.errno))
    file = error.filename if error.filename is not None else _file_at_hand(error.__traceback__)
    if error.errno == errno.EEXIST and file is not None and not os.path.isdir(file):
        words = "expected a folder, or nothing, found a file"
    return f"{words}{where}" if file is None else f"{os.fsdecode(file) if isinstance(file, bytes) else file}: {words}"


def _file_at_hand(trace: TracebackType | None) -> Any:
    """Return the path in the innermost variables of this project: an error of writing does not name its file."""
    frames = [frame for frame, _ in traceback.walk_tb(trace) if _ours(frame.f_code.co_filename)]
    for frame in reversed(frames):
        paths = {name: value for name, value in frame.f_locals.items() if isinstance(value, Path)}
        for name in ("path", "file", "out", "folder", *paths):
            if name in paths:
                return paths[name]
    return None


def _package(error: ImportError, where: str) -> str:
    package = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package and package not in PACKAGES:
        if package in EXTRAS:
            return f"this needs the package {package}, which is not installed: pip install -e '.[{EXTRAS[package]}]'"
        return f"this needs the package {package}, which is not installed: pip install -e . installs all that is needed"
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())}{where}"


def _interpolation(text: str) -> str:
    key = re.search(r"full_key: (\S+)", text)
    setting = re.sub(r"^(fit|validate|test|predict)\.|(?<=\.)init_args\.", "", key[1]) if key else ""
    named = f" ({flag(setting)})" if setting else ""
    if variable := re.search(r"Environment variable '(.*?)' not found", text):
        return f"the environment variable {variable[1]} is not set: ${{oc.env:{variable[1]}}} needs it{named}"
    if missing := re.search(r"Interpolation key '(.*?)' not found", text):
        return f"${{{missing[1].lstrip('.')}}} names no setting{named}"
    first = text.strip().partition("\n")[0]
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", first) + named


def _yaml(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    if mark is None:
        return f"not valid YAML: {problem}"
    file = "" if mark.name.startswith("<") else f"{mark.name}: "
    return f"{file}not valid YAML: {problem} in line {mark.line + 1}, column {mark.column + 1}"


def _setting(text: str, source: str, error: BaseException, last: str) -> str | None:
    """Return the setting that an error of Lightning, or of a line that reads a setting of the trainer, is about."""
    lightning = "lightning" in Path(last).parts or "lightning" in type(error).__module__
    if not (lightning or isinstance(error, ArithmeticError)):
        return None
    said = text if lightning and not isinstance(error, ArithmeticError) else source
    for words, setting in SETTINGS.items():
        if words in said:
            return setting
    names = _trainer_settings()
    for match in re.finditer(r"(`?)\b(\w+)(?==|`)|\b(\w*_\w+)\b", said):
        name = match[2] or match[3]
        if name in names:
            return f"trainer.{name}"
    return None


def _trainer_settings() -> frozenset[str]:
    trainer = getattr(sys.modules.get("lightning.pytorch"), "Trainer", None)
    return frozenset(inspect.signature(trainer).parameters) if trainer else frozenset()


def exit_text(code: object) -> str:
    """Return a line on the text that a program ended with."""
    return one_line(str(code).removeprefix("error: ")) or shown(code)
