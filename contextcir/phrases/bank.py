"""Noun phrases and clauses of many captions in one file that training only reads.

The file is an SQLite database, opened immutable: no lock, no journal and no second file is touched, so it works on
network file systems without locking, and any number of processes may read it. A damaged disk raises an error; with a
memory map it would end the process (SIGBUS). A caption is looked up in a few microseconds, without loading the others.

The key of a row is the caption as it was written, not as the tokenizer cleans it. So it is looked up without cleaning,
which takes ten times as long as the look-up (a minute for all of LaSCo, when training begins), and it is what the
parser was given, so that a bank and its parser always agree. Next to nothing would be saved: of CIRR's 8,287 different
captions, two become equal by cleaning. The spans do count characters of the cleaned caption; a bank whose cleaning
differs from that of the libraries at hand is not opened.
"""

import json
import os
import shlex
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from contextcir.errors import LONGEST, InputError, MissingFileError, printable, shown
from contextcir.files import ordinary_file, parse_json
from contextcir.phrases.clauses import RULES
from contextcir.phrases.parser import Parse, ParserKey, Span, clean

MAGIC = int.from_bytes(b"CIRp", "big")
FORMAT = 2
PHRASES_ONLY = 1  # the format of banks that were made before there were clauses
Rows = Iterable[tuple[str, Parse]]

# Characters that libraries have come to treat in another way: should that happen again, spans would be off.
PROBE = (
    " A &amp;amp; B\t&lt;i> cafe\u0301 \ufb01n \u201cDOG\u201d \u0130 \xdf\u2026 sch\xc3\xb6n \x1b[1m\xa0\U0001f600\r\n"
)


class About(NamedTuple):
    """The metadata of a bank.

    ``arguments``: of the command that parsed, e.g. ``--parser=stanza``. ``captions``: their number. ``shard``: which
    part of how many, counted from 0; None for a whole bank. ``clause_rules``: number of the rules by which captions are
    divided; None for a bank of phrases only.
    """

    key: ParserKey
    arguments: str
    captions: int
    shard: tuple[int, int] | None = None
    clause_rules: int | None = RULES


class PhraseBank:
    """The noun phrases and clauses of captions, from a file that `write_bank` wrote.

    The file is opened when it is first needed, once in every process; a pickled bank is no more than its path.

    Args:
        path: of the file.
        key: what the phrases are expected to have been found by; None for anything.

    Raises (when it is opened or read):
        MissingFileError: if there is no such file.
        InputError: if it is no bank, is damaged, or its key is not the expected one.
    """

    def __init__(self, path: str | Path, key: ParserKey | None = None) -> None:
        self.path = Path(os.path.expanduser(path))  # pathlib's raises an error where there is no home
        self.key = key
        self._process = 0
        self._opened: tuple[sqlite3.Connection, About] | None = None

    def __reduce__(self) -> tuple[type["PhraseBank"], tuple[Path, ParserKey | None]]:
        return PhraseBank, (self.path, self.key)

    @property
    def about(self) -> About:
        """The metadata of the bank."""
        return self._open()[1]

    def __len__(self) -> int:
        return self.about.captions

    def __contains__(self, caption: str) -> bool:
        return self._row(caption) is not None

    def close(self) -> None:
        """Close the file; it is opened again when it is needed, and may be a new one by then."""
        self._opened = None

    def phrases(self, caption: str) -> tuple[Span, ...]:
        """Return the noun phrases of a caption, () if it has none.

        Raises:
            InputError: if the caption is not in the bank.
        """
        return self.parse(caption).phrases

    def clauses(self, caption: str) -> tuple[Span, ...]:
        """Return the clauses of a caption, () if it is blank.

        Raises:
            InputError: if the caption is not in the bank, or the bank has no clauses.
        """
        self.check_clauses()
        return self.parse(caption).clauses

    def parse(self, caption: str) -> Parse:
        """Return the noun phrases of a caption and its clauses, () for these if the bank has none.

        Raises:
            InputError: if the caption is not in the bank.
        """
        row = self._row(caption)
        if row is None:
            raise InputError(self.complaint(caption, ["FILE"]))
        with self._readable():
            return self._unpacked(byte_order(caption), *row)

    def check_clauses(self) -> None:
        """Raise InputError if the bank has no clauses, or was made when captions were divided by other rules."""
        rules = self.about.clause_rules
        if rules != RULES:
            self._fail("has no clauses" if rules is None else f"has clauses by rules {rules} instead of {RULES}")

    def rows(self) -> Iterator[tuple[str, Parse]]:
        """Return all captions with what was found in them, in the order of their UTF-8 bytes."""
        with self._readable():
            query = f"SELECT caption, {self._columns()} FROM phrases ORDER BY caption"  # noqa: S608  (names of ours)
            for caption, *row in self._open()[0].execute(query):
                yield caption.decode("utf-8", "surrogatepass"), self._unpacked(caption, *row)

    def complaint(self, caption: str, files: Sequence[str | Path]) -> str:
        """Return the words that say that a caption is not here, and the command that adds those of ``files``."""
        names = " ".join(name if name == "FILE" else shlex.quote(name) for name in map(str, files))
        arguments = printable(self.about.arguments)[:LONGEST]  # as the file has them
        command = f"python -m experiments.phrases --captions {names} {arguments} --out {self.path}"
        return f"caption {shown(caption)} is not in the phrase bank {self.path}: add it with `{command}`"

    def _columns(self) -> str:
        return "spans" if self.about.clause_rules is None else "spans, clauses"

    def _row(self, caption: str) -> tuple[bytes, ...] | None:
        with self._readable():
            query = f"SELECT {self._columns()} FROM phrases WHERE caption = ?"  # noqa: S608  (names of ours)
            return self._open()[0].execute(query, (byte_order(caption),)).fetchone()

    def _unpacked(self, caption: bytes, *row: bytes) -> Parse:
        checksum, kinds = zlib.crc32(caption), []
        for column in row:
            *numbers, check = (
                struct.unpack(f"<{len(column) // 4}I", column) if column and len(column) % 8 == 4 else (0,)
            )
            checksum = zlib.crc32(column[:-4], checksum)
            if check != checksum:
                self._fail(f"the row of caption {shown(caption.decode('utf-8', 'replace'))} is damaged")
            kinds.append(tuple(map(Span, numbers[::2], numbers[1::2])))
        return Parse(*kinds)

    def _open(self) -> tuple[sqlite3.Connection, About]:
        # a connection must not be used in another process than the one that opened it: loader workers are forked
        if self._opened is None or self._process != os.getpid():
            try:
                ordinary_file(self.path, "data.phrases.path")
            except MissingFileError:
                raise MissingFileError(
                    f"no phrase bank {self.path}: make it with `python -m experiments.phrases --captions FILE "
                    f"--parser stanza --out {self.path}`, or name another one",
                    setting="data.phrases.path",
                ) from None
            with self._readable():
                address = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
                connection = sqlite3.connect(address, uri=True, check_same_thread=False)
                self._opened = connection, self._read_about(connection)
            self._process = os.getpid()
        return self._opened

    def _read_about(self, connection: sqlite3.Connection) -> About:
        names = ("application_id", "user_version", "page_count", "page_size")
        kind, version, pages, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        if kind != MAGIC or version not in (PHRASES_ONLY, FORMAT):
            self._fail("is no phrase bank" if kind != MAGIC else f"has format {version} instead of {FORMAT}")
        if pages * page != self.path.stat().st_size:  # a part of a page that is missing, SQLite takes for zeros
            self._fail("is cut off")
        tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('about', 'phrases')"
        if connection.execute(tables).fetchone()[0] != 2:  # a view may compute for ever
            self._fail("lacks its tables")
        metadata = parse_json(connection.execute("SELECT told FROM about").fetchone()[0])
        if metadata["cleaning"] != clean(PROBE):
            self._fail("was made with another version of open_clip or ftfy, which cleans texts in another way")
        shard = None if metadata["shard"] is None else (int(metadata["shard"][0]), int(metadata["shard"][1]))
        rules = None if version == PHRASES_ONLY else int(metadata["clause_rules"])
        key = ParserKey(*map(str, metadata["key"]))
        about = About(key, str(metadata["arguments"]), int(metadata["count"]), shard, rules)
        if about.captions < 0 or (shard is not None and not 0 <= shard[0] < shard[1]):
            self._fail(f"holds {about.captions} captions, of shard {shard}")
        if self.key is not None and about.key != self.key:
            problem = f"the phrase bank {self.path} has {about.key.difference(self.key)}: use another bank"
            raise InputError(problem, setting="data.phrases")
        return about

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            if error.file is not None or error.setting is not None:
                raise
            self._fail(error.problem)
        except (sqlite3.Error, KeyError, IndexError, TypeError, ValueError, OSError) as error:
            self._fail(f"can't be read ({type(error).__name__}: {shown(str(error))[1:-1]})")

    def _fail(self, problem: str) -> NoReturn:
        problem = f"phrase bank {self.path}: {problem}; make it again with `python -m experiments.phrases`"
        raise InputError(problem, setting="data.phrases.path") from None


def write_bank(path: Path, rows: Rows, about: About) -> About:
    """Write a bank, whole or not at all; return its metadata, with the number of captions that were written.

    The same rows give the same bytes.

    Args:
        path: the file; one that is there is replaced when the new one is complete.
        rows: captions, each once and in the order of their UTF-8 bytes, and what was found in them.
        about: its metadata; ``captions`` is ignored.

    Raises:
        InputError: if it can't be written.
    """
    new = path.with_name(f"{path.name}.new")
    count = 0

    def packed() -> Iterator[tuple[bytes, bytes, bytes]]:
        nonlocal count
        for count, (caption, parse) in enumerate(rows, start=1):  # noqa: B007  (read below)
            key = byte_order(caption)
            phrases, clauses = map(_numbers, parse)
            checksum = zlib.crc32(phrases, zlib.crc32(key))
            ends = [struct.pack("<I", check) for check in (checksum, zlib.crc32(clauses, checksum))]
            yield key, phrases + ends[0], clauses + ends[1]

    connection: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        # nobody else knows this file, and no part of it is of use: neither locks nor a journal are needed
        connection = sqlite3.connect(f"{new.resolve().as_uri()}?mode=rwc&nolock=1", uri=True, isolation_level=None)
        for setting in (f"application_id={MAGIC}", f"user_version={FORMAT}", "journal_mode=OFF", "synchronous=OFF"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE about (told TEXT)")
        columns = "caption BLOB PRIMARY KEY, spans BLOB NOT NULL, clauses BLOB NOT NULL"
        connection.execute(f"CREATE TABLE phrases ({columns}) WITHOUT ROWID")
        connection.executemany("INSERT INTO phrases VALUES (?, ?, ?)", packed())
        about = about._replace(captions=count)
        metadata = {
            "key": list(about.key),
            "arguments": about.arguments,
            "count": about.captions,
            "shard": about.shard,
            "clause_rules": about.clause_rules,
            "cleaning": clean(PROBE),
        }
        connection.execute("INSERT INTO about VALUES (?)", (json.dumps(metadata),))
        connection.execute("COMMIT")
        connection.close()
        with open(new, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, MissingFileError):
            raise  # of the rows
        reason = (error.strerror if isinstance(error, OSError) else None) or shown(str(error))[1:-1]
        raise InputError(f"the phrase bank {path} can't be written ({reason})", setting="data.phrases.path") from None
    finally:
        if connection is not None:
            connection.close()
        with suppress(OSError):  # a folder that can't be written, or that has its name
            new.unlink(missing_ok=True)
    return about


def _numbers(spans: Sequence[Span]) -> bytes:
    return struct.pack(f"<{2 * len(spans)}I", *(number for span in spans for number in span))


def byte_order(caption: str) -> bytes:
    """Return the UTF-8 bytes of a caption: sort by them to write a bank."""
    # JSON can hold half of a character (an unpaired surrogate), which plain UTF-8 can't
    return caption.encode("utf-8", "surrogatepass")
