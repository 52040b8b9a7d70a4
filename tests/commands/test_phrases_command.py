"""The command that fills a bank: resumable, shardable, and one result whatever way it took."""

import io
import json
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextcir.files import in_shard
from contextcir.phrases.bank import PhraseBank
from contextcir.phrases.clauses import RULES
from contextcir.phrases.parser import Parse
from experiments.phrases.__main__ import main
from experiments.phrases.workers import BATCHES, UnfinishedRun
from tests.helpers.paths import PROJECT
from tests.helpers.word_parser import WordParser

CAPTIONS = [f"show {number} dogs beside the sofa" for number in range(40)]
PARSER = ["--parser", "tests.helpers.word_parser.WordParser"]


@pytest.fixture(autouse=True)
def batches() -> Iterator[list[list[str]]]:
    WordParser.batches.clear()
    yield WordParser.batches


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    return write(tmp_path / "captions.txt", [*CAPTIONS, "", CAPTIONS[3]])


def write(path: Path, captions: list[str]) -> Path:
    path.write_text("\n".join(captions) + "\n")
    return path


def run(captions: Path, out: Path, *flags: str) -> Path:
    main(["--captions", str(captions), *PARSER, "--out", str(out), "--batch=4", *flags])
    return out


def error_of(*args: str | Path) -> str:
    with pytest.raises(SystemExit) as failure, redirect_stderr(io.StringIO()) as printed:
        main([str(argument) for argument in args])
    assert failure.value.code == 1
    message = next(line for line in printed.getvalue().splitlines() if line.startswith("error: "))
    assert printed.getvalue().endswith(f"{message}\n")
    return message


def batches_of(bank: Path) -> Path:
    """The file that keeps what an unfinished run has parsed."""
    return Path(f"{bank}.part") / BATCHES


def test_every_caption_is_parsed_once_and_in_bulk(
    captions: Path, tmp_path: Path, batches: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    bank = PhraseBank(run(captions, tmp_path / "bank"))
    assert sorted(chain(*batches)) == sorted(CAPTIONS) and {len(batch) for batch in batches} == {4}
    assert [bank.parse(caption) for caption in CAPTIONS] == WordParser().parse(CAPTIONS)
    assert bank.about == (WordParser().key, "--parser=tests.helpers.word_parser.WordParser", len(CAPTIONS), None, RULES)
    told = capsys.readouterr()
    assert "41 captions, 40 different" in told.out and "40/40" in told.err and "captions/s" in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "captions.txt"]


def test_a_killed_run_goes_on_where_it_stopped(
    captions: Path, tmp_path: Path, batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = run(captions, tmp_path / "whole").read_bytes(), tmp_path / "killed"
    with monkeypatch.context() as slow:
        slow.setenv("WORD_PARSER_PAUSE", "0.3")
        process = multiprocessing.get_context("fork").Process(target=run, args=(captions, killed))
        process.start()
        wait_for_batches(killed, 3)
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = kept_captions(killed)
    assert 12 <= len(kept) < len(CAPTIONS) and not killed.exists()
    with batches_of(killed).open("ab") as file:
        file.write(b'{"show 3 dogs besi')  # as if it had been killed while it wrote
    batches.clear()
    assert run(captions, killed).read_bytes() == whole
    assert sorted(chain(*batches)) == sorted(set(CAPTIONS) - kept)
    assert not Path(f"{killed}.part").exists()


def test_a_killed_run_takes_its_workers_along(captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = run(captions, tmp_path / "whole").read_bytes(), tmp_path / "killed"
    with monkeypatch.context() as slow:
        slow.setenv("WORD_PARSER_PAUSE", "0.5")
        process = multiprocessing.get_context("fork").Process(target=run, args=(captions, killed, "--workers=2"))
        process.start()
        wait_for_batches(killed, 2)
        workers = children(process.pid)
        process.kill()
        process.join()
    assert len(workers) == 2
    wait_for(lambda: not any(map(alive, workers)))
    assert len(kept_captions(killed)) < len(CAPTIONS) and not killed.exists()
    assert run(captions, killed, "--workers=3").read_bytes() == whole


def test_a_worker_that_dies_is_told(captions: Path, tmp_path: Path) -> None:
    write(captions, [*CAPTIONS, "the deadly one"])
    message = error_of("--captions", captions, *PARSER, "--out", tmp_path / "bank", "--workers=2", "--batch=40")
    assert "a worker process died" in message and "--workers" in message
    message = error_of("--captions", write(captions, ["the crash"]), *PARSER, "--out", tmp_path / "b", "--workers=2")
    assert "the parser failed on caption 'the crash'" in message


def test_the_command_line_runs(captions: Path, tmp_path: Path) -> None:
    flags = ["--captions", captions, *PARSER, "--out", tmp_path / "bank"]
    command = [sys.executable, "-m", "experiments.phrases", *map(str, flags)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "40 captions in" in done.stdout and "Warning" not in done.stderr
    assert len(PhraseBank(tmp_path / "bank")) == 40


def wait_for(condition: Callable[[], bool], seconds: float = 200) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def wait_for_batches(bank: Path, count: int) -> None:
    work = batches_of(bank)
    wait_for(lambda: work.is_file() and work.read_bytes().count(b"\n") > count)


def kept_captions(bank: Path) -> set[str]:
    return {caption for line in batches_of(bank).read_text().splitlines()[1:] for caption in json.loads(line)}


def children(pid: int) -> list[int]:
    parents = ((path, path.read_text().rpartition(")")[2].split()[1]) for path in Path("/proc").glob("[0-9]*/stat"))
    return [int(path.parent.name) for path, parent in parents if parent == str(pid)]


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_captions_are_added_to_a_bank_that_is_there(
    captions: Path, tmp_path: Path, batches: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    bank = run(captions, tmp_path / "bank")
    batches.clear()
    run(write(tmp_path / "more.txt", ["a new one", CAPTIONS[0]]), bank)
    assert batches == [["a new one"]] and len(PhraseBank(bank)) == 41
    assert bank.read_bytes() == run(write(tmp_path / "all.txt", [*CAPTIONS, "a new one"]), tmp_path / "b").read_bytes()
    batches.clear()
    before = bank.stat()
    run(captions, bank)
    assert batches == [] and bank.stat().st_mtime_ns == before.st_mtime_ns
    assert "41 captions in" in capsys.readouterr().out.splitlines()[-1]


def test_what_a_killed_run_parsed_is_kept_by_a_run_on_other_files(captions: Path, tmp_path: Path) -> None:
    with UnfinishedRun(tmp_path / "bank.part", WordParser().key) as work:
        work.add({"the old one": Parse((), ())})
    bank = PhraseBank(run(captions, tmp_path / "bank"))
    assert len(bank) == 41 and "the old one" in bank


@given(st.lists(st.text(max_size=5), unique=True), st.integers(1, 5))
def test_every_caption_is_in_one_shard(captions: list[str], count: int) -> None:
    for caption in captions:
        assert sum(in_shard(caption, number, count) for number in range(count)) == 1


def test_shards_merge_into_the_bank_of_one_run(captions: Path, tmp_path: Path, batches: list[list[str]]) -> None:
    whole, out = run(captions, tmp_path / "whole"), tmp_path / "bank"
    batches.clear()
    other_order = write(tmp_path / "other.txt", CAPTIONS[::-1])
    for number in range(3):
        run(captions if number % 2 else other_order, out, f"--shard={number}/3")
    assert sorted(chain(*batches)) == sorted(CAPTIONS) and not out.exists()
    shards = [tmp_path / f"bank.shard-{number}-of-3" for number in range(3)]
    assert "shard 1 of 3 is missing" in error_of("merge", "--out", out, shards[0], shards[2])
    for _ in range(2):  # the second time into what is there
        main(["merge", "--out", str(out), *map(str, shards)])
        assert out.read_bytes() == whole.read_bytes()


def test_banks_that_do_not_fit_are_not_merged(captions: Path, tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    run(captions, one)
    run(write(tmp_path / "more.txt", ["the end"]), two, "--parser.most=1")
    assert "the first 1', but" in error_of("merge", "--out", tmp_path / "all", one, two)
    with UnfinishedRun(tmp_path / "three.part", WordParser().key) as work:
        work.add({CAPTIONS[0]: Parse((), ())})
    run(captions, three)
    message = error_of("merge", "--out", tmp_path / "all", one, three)
    assert repr(CAPTIONS[0]) in message and str(one) in message and str(three) in message
    assert not (tmp_path / "all").exists()


def test_the_bank_remembers_how_its_parser_was_chosen(captions: Path, tmp_path: Path) -> None:
    bank = PhraseBank(run(captions, tmp_path / "bank", "--parser.most", "1"))
    assert bank.about.arguments == "--parser=tests.helpers.word_parser.WordParser --parser.most=1"
    assert len(bank.phrases(CAPTIONS[0])) == 1
    assert "the first 1', but expected is" in error_of("--captions", captions, *PARSER, "--out", bank.path)


def test_a_run_that_is_going_on_is_not_joined(captions: Path, tmp_path: Path) -> None:
    with UnfinishedRun(tmp_path / "bank.part", WordParser().key):
        message = error_of("--captions", captions, *PARSER, "--out", tmp_path / "bank")
    assert f"{tmp_path / 'bank.part'}: another process parses captions here already" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'["words", "none", "1", "the first 9", 1]\n{"a": [[0]]}\n', "line 2 is damaged"),
        (b'["words", "none", "2", "the first 9", 1]\n', "has version '2', but expected is '1'"),
    ],
)
def test_an_unfinished_run_that_can_not_be_resumed_is_an_error(
    content: bytes, words: str, captions: Path, tmp_path: Path
) -> None:
    (tmp_path / "bank.part").mkdir()
    batches_of(tmp_path / "bank").write_bytes(content)
    message = error_of("--captions", captions, *PARSER, "--out", tmp_path / "bank")
    assert words in message and "remove the file" in message


def test_a_caption_that_breaks_the_parser_is_named(tmp_path: Path) -> None:
    captions = write(tmp_path / "captions.txt", ["the one", "the crash", "the other"])
    assert "'the crash' (RuntimeError: out of words)" in error_of(
        "--captions", captions, *PARSER, "--out", tmp_path / "b"
    )


@pytest.mark.parametrize("shard", ["8/8", "1", "-1/8", "1/0"])
def test_a_shard_is_counted_from_0(shard: str, captions: Path, tmp_path: Path) -> None:
    message = error_of("--captions", captions, *PARSER, "--out", tmp_path / "bank", f"--shard={shard}")
    assert shard in message and "I from 0 to N - 1" in message and "(--shard)" in message


def test_an_unknown_parser_is_told(captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--captions", str(captions), "--parser", "stansa", "--out", str(tmp_path / "bank")])
    assert "stansa" in capsys.readouterr().err
