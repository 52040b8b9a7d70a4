"""Parsing many captions: in worker processes, with a folder that keeps what was parsed if the run is killed."""

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from contextcir.errors import InputError, shown
from contextcir.files import one_writer, ordinary_file, writing
from contextcir.phrases.clauses import RULES
from contextcir.phrases.parser import Parse, ParserKey, PhraseParser, Span, clean
from contextcir.processors import leave_interrupts_to_parent

Parsed = dict[str, Parse]  # by caption
BATCHES = "batches.jsonl"


class UnfinishedRun:
    """What an unfinished run has parsed: a line for each batch of captions, on disk before the next one is parsed.

    A line that a kill cut off is dropped.

    Args:
        folder: holds the lines; if it exists, the run that left it is resumed.
        key: of the parser.

    Raises (on entering):
        InputError: if the lines are damaged, of another parser, or being written by another process.
    """

    def __init__(self, folder: Path, key: ParserKey) -> None:
        self.folder = folder
        self.key = key
        self.parsed: Parsed = {}
        self._open = ExitStack()

    def __enter__(self) -> "UnfinishedRun":
        with ExitStack() as entering:
            entering.enter_context(writing(self.folder, "out"))
            entering.enter_context(one_writer(self.folder, "parses captions"))
            path = self.folder / BATCHES
            if os.path.lexists(path):
                ordinary_file(path, "out")
            # without a buffer: what a full disk refuses must not be tried again when the file is closed
            self._file = entering.enter_context(path.open("ab+", buffering=0))
            self._file.seek(0)
            content = self._file.readall()
            whole = content[: content.rfind(b"\n") + 1]
            self._file.truncate(len(whole))
            for number, line in enumerate(whole.splitlines()):
                self._read_line(number, line)
            if not whole:
                self._write([*self.key, RULES])
            self._open = entering.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._open.close()

    def add(self, parsed: Parsed) -> None:
        """Keep what was found in a batch of captions."""
        self._write(parsed)
        self.parsed |= parsed

    def remove(self) -> None:
        """Delete the folder, when its content is in the bank."""
        self._open.close()
        with writing(self.folder, "out"):
            shutil.rmtree(self.folder)

    def _read_line(self, number: int, line: bytes) -> None:
        path = self.folder / BATCHES
        try:
            content = json.loads(line)
            if number:
                self.parsed |= {caption: _parse_of(kinds) for caption, kinds in content.items()}
                return
            *names, rules = content
            key = ParserKey(*map(str, names))
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise InputError(f"line {number + 1} is damaged: remove the file to begin anew", file=path) from None
        if key != self.key:
            problem = f"{path} has {key.difference(self.key)}: remove the file to begin anew, or write another bank"
            raise InputError(problem, setting="out")
        if rules != RULES:
            problem = f"{path} has clauses by rules {shown(rules)} instead of {RULES}: remove the file to begin anew"
            raise InputError(problem, setting="out")

    def _write(self, content: object) -> None:
        line = memoryview(json.dumps(content).encode() + b"\n")
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:  # a line that is cut off is dropped by the next run
            problem = f"can't be written ({error.strerror}): what was parsed before is kept; make room, and go on"
            raise InputError(problem, file=self.folder / BATCHES, setting="out") from None


def _parse_of(kinds: Sequence[Sequence[Sequence[int]]]) -> Parse:
    phrases, clauses = kinds
    return Parse(tuple(map(_span, phrases)), tuple(map(_span, clauses)))


def _span(numbers: Sequence[int]) -> Span:
    start, end = numbers
    if type(start) is not int or type(end) is not int or not 0 <= start < end < 2**32:
        raise ValueError
    return Span(start, end)


def parse_checked(parser: PhraseParser, captions: Sequence[str]) -> Parsed:
    """Return what a parser finds in captions, by caption.

    Raises:
        InputError: if the parser fails on a caption, which is named, or finds what is not in it.
    """
    try:
        parses = parser.parse(captions)
    except (InputError, FileNotFoundError):
        raise  # an error of the parser's settings or files
    except ImportError as error:
        problem = f"the parser needs the package {shown(error.name)}, which can't be imported"
        raise InputError(problem, setting="parser") from None
    except Exception as error:
        for caption in captions if len(captions) > 1 else ():
            parse_checked(parser, [caption])
        single = len(captions) == 1
        where = f"caption {shown(captions[0])}" if single else f"{len(captions)} captions at once"
        problem = f"the parser failed on {where} ({type(error).__name__}: {shown(str(error), 100)[1:-1]})"
        raise InputError(problem, setting=None if single else "batch") from None
    for caption, (phrases, clauses) in zip(captions, parses, strict=True):
        length = len(clean(caption))
        inside = all(0 <= start < end <= length for start, end in (*phrases, *clauses))
        apart = all(first.end <= second.start for first, second in pairwise(clauses))
        if not (inside and apart) or len(set(phrases)) < len(phrases):
            found = shown([list(map(tuple, spans)) for spans in (phrases, clauses)])
            problem = f"{parser.key.parser} found {found} in caption {shown(caption)}: a bug of the parser"
            raise InputError(problem, setting="parser")
    return dict(zip(captions, parses, strict=True))


def parse_batches(parser: PhraseParser, batches: Sequence[Sequence[str]], workers: int) -> Iterator[Parsed]:
    """Yield what is found in each batch, parsed in ``workers`` processes; 1 parses in this one, with all its threads.

    Raises:
        InputError: if a process dies, or as `parse_checked` does.
    """
    if workers == 1:
        yield from (parse_checked(parser, batch) for batch in batches)
        return
    # Forked: a spawned process would import torch and the parser again. The parser's model is loaded in the workers,
    # as a process that has computed with torch must not be forked.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(workers, len(batches)), context, _begin, (parser,)) as pool:
        try:
            yield from pool.map(_parse, batches)
        except BrokenProcessPool:
            problem = "a worker process died, perhaps for want of memory: use fewer; what was parsed is kept"
            raise InputError(problem, setting="workers") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_parser: PhraseParser | None = None


def _begin(parser: PhraseParser) -> None:
    leave_interrupts_to_parent()  # before what takes time: a worker that ends here leaves the parent waiting for ever
    import torch  # here, so that the command starts without it

    global _parser
    _parser = parser
    torch.set_num_threads(1)  # there is a process for every core
    threading.Thread(target=_exit_with_parent, args=(multiprocessing.parent_process().join,), daemon=True).start()


def _exit_with_parent(wait: Callable[[], None]) -> None:
    wait()  # if the parent is killed, a worker would wait for its next batch for ever
    os._exit(1)


def _parse(captions: Sequence[str]) -> Parsed:
    return parse_checked(_parser, captions)
