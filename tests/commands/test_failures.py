"""Whatever a command raises ends it with one line, a status, and a traceback that can be found."""

import errno
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from contextcir.errors import LONGEST, InputError
from contextcir.files import write_text
from experiments import failures
from experiments.causes import EXTRAS, explain
from experiments.failures import keep_tracebacks_in, one_line_errors
from experiments.outputs import output_file, output_folder
from tests.helpers.paths import PROJECT


def ended(work: Callable[[], object], capsys: pytest.CaptureFixture[str], stopped: str = "") -> tuple[int, str]:
    """Return the exit status of some work in the net, and the line that it leaves."""
    with pytest.raises(SystemExit) as end, one_line_errors(stopped):
        work()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].isprintable() and len(lines[0]) <= LONGEST, lines
    return end.value.code, lines[0]


def raising(error: BaseException, cause: BaseException | None = None, context: BaseException | None = None):
    """Return work that raises an error, from another one or while handling a third."""

    def work() -> None:
        if context is not None:
            try:
                raise context
            except BaseException:
                raise error  # noqa: B904
        raise error from cause

    return work


class Odd(Exception):
    """An error whose text can't be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


BAD = InputError("expected at least 1, got 0", setting="data.batch_size")
CASES = {
    "input": (raising(BAD), "error: expected at least 1, got 0 (--data.batch_size)"),
    "cause": (raising(ValueError("Given value: Namespace()"), BAD), "(--data.batch_size)"),
    "context": (raising(TypeError("NoneType.__format__"), context=BAD), "(--data.batch_size)"),
    "group": (raising(ExceptionGroup("several", [ValueError("x"), BAD])), "(--data.batch_size)"),
    "real error below a bug": (raising(TypeError("x"), context=ValueError("no such split")), "no such split"),
    "a full disk below another error": (raising(ValueError("x"), context=full_disk()), "no space left"),
    "a file in the cause": (
        raising(RuntimeError("failed"), PermissionError(13, "no", "a.bin")),
        "a.bin: no permission",
    ),
    "assertion": (raising(AssertionError()), "unexpected AssertionError"),
    "key": (raising(KeyError("x")), "unexpected KeyError: 'x'"),
    "empty": (raising(ValueError()), "ValueError"),
    "control characters": (raising(ValueError("a\x1b[31m\nb\x00")), "a\\x1b[31m b\\x00"),
    "half a surrogate pair": (raising(ValueError("a\ud800")), "a\\ud800"),
    "long": (raising(InputError("x" * 5000, setting="data.root")), "(--data.root)"),
    "memory": (raising(MemoryError()), "out of memory"),
    "digits": (lambda: int("9" * 5000), "integer string conversion"),
    "deep": (raising(RecursionError("maximum recursion depth exceeded")), "nested too deeply"),
    "overflow": (raising(OverflowError("int too large")), "unexpected OverflowError"),
    "no text": (raising(Odd()), "unexpected Odd"),
    "text of an exit": (raising(SystemExit("nothing to do")), "error: nothing to do"),
    "folder": (lambda: Path("/").read_text(), "/: expected a file, found a folder"),
    "on the way": (lambda: Path("/dev/null/x").mkdir(), "/dev/null/x: expected a folder, found a file"),
    "nothing there": (lambda: Path("/nothing/there").stat(), "/nothing/there: no such file"),
    "name": (lambda: Path("/" + "x" * 300).read_text(), "the name is too long"),
    "nul": (lambda: Path("a\0b").read_text(), "null byte"),
    "package": (raising(ModuleNotFoundError("No module named 'faiss'", name="faiss")), "pip install -e '.[mining]'"),
    "module of a package": (raising(ModuleNotFoundError("x", name="spacy.lang")), "pip install -e '.[spacy]'"),
    "own module": (raising(ModuleNotFoundError("x", name="contextcir.x")), "unexpected ModuleNotFoundError"),
    "yaml": (lambda: yaml.safe_load("a: [1"), "not valid YAML: expected ',' or ']'"),
    "variable": (
        lambda: OmegaConf.to_container(
            OmegaConf.create({"fit": {"data": {"init_args": {"root": "${oc.env:NO_SUCH}"}}}}), resolve=True
        ),
        "the environment variable NO_SUCH is not set: ${oc.env:NO_SUCH} needs it (--data.root)",
    ),
    "interpolation": (
        lambda: OmegaConf.to_container(OmegaConf.create({"a": "${b}"}), resolve=True),
        "${b} names no setting (--a)",
    ),
    "json": (lambda: json.loads("{"), "Expecting property name"),
    "process": (lambda: subprocess.run(["false"], check=True), "returned non-zero exit status 1"),
    "closed output": (raising(BrokenPipeError(errno.EPIPE, "Broken pipe")), "the output was closed"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_error_is_one_line(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_silence_output", lambda: None)
    monkeypatch.delenv("NO_SUCH", raising=False)
    keep_tracebacks_in(None)
    work, words = CASES[name]
    status, line = ended(work, capsys)
    assert status == 1 and line.startswith("error: ") and words in line and "Traceback" not in line


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ("contextcir.errors.InputError: a.png: damaged (data.root)", "a.png: damaged (--data.root)"),
        ("OSError: [Errno 28] No space left on device: 'b.bin'", "b.bin: no space left on this disk"),
        ("ModuleNotFoundError: No module named 'imagehash'", "pip install -e '.[mining]'"),
        ("TypeError: int() argument", "unexpected TypeError: int() argument (callbacks/finite.py:7)"),
        ("KeyError: 'x'", "unexpected KeyError: 'x'"),
        ("torch.AcceleratorError: no kernel\nfor this\n\ndevice", "no kernel for this device"),
        ("UnicodeDecodeError: 'utf-8' codec can't decode", "can't decode"),
    ],
)
def test_the_text_of_another_process_is_read(last: str, words: str) -> None:
    first = 'Traceback (most recent call last):\n  File "/a/x.py", line 3, in f\n    g()\nKeyError: 1\n'
    between = "\nDuring handling of the above exception, another exception occurred:\n\n"
    second = (
        f'Traceback (most recent call last):\n  File "{PROJECT}/callbacks/finite.py", line 7, in g\n    h()\n{last}\n'
    )
    raised = type("ProcessRaisedException", (Exception,), {})(f"\n\n-- Process 1 terminated:\n{first}{between}{second}")
    assert words in explain(raised)


def _raise_in_process(number: int) -> str:
    try:
        raise InputError("is\nbroken", file="a\n.json", record=number, field="caption", setting="data.root")
    except InputError as error:
        return "".join(traceback.format_exception(error))


def test_an_error_keeps_its_place_in_the_text_of_a_process() -> None:
    with ProcessPoolExecutor(1) as pool:
        text = pool.submit(_raise_in_process, 3).result()
    again = InputError(f"Caught InputError in DataLoader worker process 0.\nOriginal {text}")
    assert (again.problem, again.file, again.record, again.setting) == ("is\nbroken", "a\n.json", 3, "data.root")
    assert explain(again).endswith("(--data.root)") and "\n" not in explain(again)
    assert explain(RuntimeError(f"Process 1 ended:\n{text}")).endswith("(--data.root)")


def test_ctrl_c_is_one_line_and_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(KeyboardInterrupt()), capsys, "work is kept") == (130, "stopped: work is kept")
    # as Lightning does it
    assert ended(raising(SystemExit(1), context=KeyboardInterrupt()), capsys) == (130, "stopped: by Ctrl-C")


@pytest.mark.parametrize("status", [0, 2, 3, 75, 143, None])
def test_a_status_passes_the_net(status: int | None) -> None:
    with pytest.raises(SystemExit) as end, one_line_errors(), one_line_errors():
        raise SystemExit(status)
    assert end.value.code == status


def test_nested_nets_print_once(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with one_line_errors():
            raise KeyboardInterrupt

    assert ended(work, capsys) == (130, "stopped: by Ctrl-C")


def test_tracebacks_are_shown_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIR_TRACEBACK", "1")
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("x")


def test_the_traceback_is_in_the_folder_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(text: str) -> Callable[[], None]:
        def run() -> None:
            keep_tracebacks_in(tmp_path)
            raise KeyError(text)

        return run

    _, line = ended(fails("first"), capsys)
    assert line.endswith(f"; traceback: {tmp_path / 'traceback.txt'}") and "unexpected KeyError" in line
    monkeypatch.setenv("LOCAL_RANK", "1")
    ended(fails("other"), capsys)
    text = (tmp_path / "traceback.txt").read_text()
    assert "Traceback (most recent call last)" in text and "first" in text and "other" not in text
    assert "other" in (tmp_path / "traceback_rank_1.txt").read_text()


def test_no_folder_is_made_for_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        keep_tracebacks_in(tmp_path / "new")
        raise KeyError("x")

    assert "CIR_TRACEBACK=1 shows the traceback" in ended(fails, capsys)[1]
    assert not (tmp_path / "new").exists()


def test_the_folder_of_an_earlier_run_in_the_same_process_is_not_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_tracebacks_in(tmp_path)
    ended(raising(KeyError("x")), capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_file_that_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise full_disk()

    monkeypatch.setattr(os, "fsync", fsync)
    file = tmp_path / "bank.txt"
    assert ended(lambda: write_text(file, "x"), capsys)[1] == f"error: {file}: no space left on this disk"


def test_every_extra_is_known() -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    listed = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = {line.partition(" = ")[0] for line in listed.splitlines() if " = [" in line} - {"dev", "docs"}
    assert set(EXTRAS.values()) == extras


def _places(folder: Path) -> dict[str, Path]:
    (folder / "file").write_text("x")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("gone/away")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket"))
    names = {name: folder / name for name in ("file", "folder", "pipe", "loop", "nowhere", "socket")}
    return names | {"below a file": folder / "file" / "x", "device": Path("/dev/zero"), "new": folder / "a" / "b"}


def test_places_to_write_to_are_looked_at_first(tmp_path: Path) -> None:
    places = _places(tmp_path)
    for name, path in places.items():
        for check, good in ((output_file, {"file", "new"}), (output_folder, {"folder", "new"})):
            if name in good:
                check(path, "out")
            else:
                with pytest.raises(InputError) as caught:
                    check(path, "out")
                assert caught.value.setting == "out" and str(path) in str(caught.value), name
    assert not (tmp_path / "a").exists()


def test_an_error_before_the_net_stands_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "jsonargparse.py").write_text("import no_such_package\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"}
    command = [sys.executable, "-m", "experiments.convert", "hotel"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: this needs the package no_such_package") and done.stderr.count("\n") == 1


def test_a_program_that_imports_the_package_keeps_its_hook() -> None:
    code = "import sys; before = sys.excepthook; import experiments; assert sys.excepthook is before"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_an_error_that_says_what_to_do_keeps_its_room_and_its_traceback_is_written_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        keep_tracebacks_in(tmp_path)
        raise InputError("expected a, got b", setting="model.c")

    assert ended(fails, capsys)[1] == "error: expected a, got b (--model.c)"
    assert "expected a, got b" in (tmp_path / "traceback.txt").read_text()
