"""Parsing many captions: in worker processes, with a file that keeps what was parsed if the run is killed."""

import fcntl
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType

import torch

from contextcir.phrases.parser import ParserKey, PhraseParser, Span, clean

Found = dict[str, tuple[Span, ...]]


class WorkFile:
    """What an unfinished run has parsed: a line for each batch of captions, on disk before the next one.

    A line that a kill cut off is dropped. Lines are appended by ordinary writes, so any file system will do.

    Args:
        path: of the file; one that is there is gone on with.
        key: of the parser.

    Raises (on entering):
        ValueError: if the file is damaged, of another parser, or being written by another process.
    """

    def __init__(self, path: Path, key: ParserKey) -> None:
        self.path = path
        self.key = key
        self.found: Found = {}

    def __enter__(self) -> "WorkFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.path} is being written by another run: give each run an --out or a --shard of its own"
            ) from None
        except OSError:
            pass  # a file system without locks
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines()):
            self._take(number, line)
        if not whole:
            self._write(list(self.key))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._file.close()

    def add(self, found: Found) -> None:
        """Keep the phrases of a batch of captions."""
        self._write(found)
        self.found |= found

    def _take(self, number: int, line: bytes) -> None:
        try:
            read = json.loads(line)
            if number:
                self.found |= {caption: tuple(Span(*span) for span in spans) for caption, spans in read.items()}
                return
            key = ParserKey(*read)
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"{self.path}: line {number + 1} is damaged: remove the file to begin anew") from None
        if key != self.key:
            raise ValueError(
                f"{self.path} holds what {key} has parsed so far, but --parser is {self.key}: choose another --out, "
                "or remove the file to begin anew"
            )

    def _write(self, content: object) -> None:
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def parse_checked(parser: PhraseParser, captions: Sequence[str]) -> Found:
    """Return the phrases of captions by caption.

    Raises:
        ValueError: if the parser fails on a caption, which is named, or finds what is not in it.
    """
    try:
        phrases = parser.parse(captions)
    except (ValueError, FileNotFoundError, ImportError):
        raise  # about the parser, and told in one line
    except Exception as error:
        for caption in captions if len(captions) > 1 else ():
            parse_checked(parser, [caption])
        where = f"caption {captions[0]!r}" if len(captions) == 1 else f"{len(captions)} captions at once: lower --batch"
        raise ValueError(f"the parser failed on {where} ({type(error).__name__}: {error})") from None
    for caption, spans in zip(captions, phrases, strict=True):
        length = len(clean(caption))
        if len(set(spans)) < len(spans) or not all(0 <= start < end <= length for start, end in spans):
            raise ValueError(
                f"{parser.key} found {list(map(tuple, spans))} in caption {caption!r}: a bug of the parser"
            )
    return dict(zip(captions, phrases, strict=True))


def parse_batches(parser: PhraseParser, batches: Sequence[Sequence[str]], workers: int) -> Iterator[Found]:
    """Yield the phrases of each batch, parsed in ``workers`` processes; 1 parses in this one, with all its threads.

    Raises:
        ValueError: if a process dies, or as `parse_checked` does.
    """
    if workers == 1:
        yield from (parse_checked(parser, batch) for batch in batches)
        return
    # Forked, for each would import torch anew. This process must not have computed with it: the parser is loaded there.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(workers, len(batches)), context, _begin, (parser,)) as pool:
        try:
            yield from pool.map(_parse, batches)
        except BrokenProcessPool:
            raise ValueError(
                "a worker process died, perhaps for want of memory: lower --workers or --batch; what was parsed is kept"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_parser: PhraseParser | None = None


def _begin(parser: PhraseParser) -> None:
    global _parser
    _parser = parser
    torch.set_num_threads(1)  # there is a process for every core
    threading.Thread(target=_end_with_parent, args=(multiprocessing.parent_process().join,), daemon=True).start()


def _end_with_parent(wait: Callable[[], None]) -> None:
    wait()  # it may be killed, and a worker would wait for its next batch for ever
    os._exit(1)


def _parse(captions: Sequence[str]) -> Found:
    return parse_checked(_parser, captions)
