"""Scenes are drawn where a user asks for it, and nowhere else."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from contextcir.errors import LONGEST, InputError
from data_modules import Scenes
from data_modules.frozen import FrozenScenes
from data_modules.scenes import STATE, writer
from data_modules.scenes.writer import Size, write_scenes
from experiments.scenes import main as scenes_command

SMALL = Size(train_references=1, references=1, shared_references=1)
FLAGS = [f"--size.{name}=1" for name in vars(SMALL)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 0, SMALL, workers=1)
    return folder


@pytest.mark.parametrize("kind", [Scenes, FrozenScenes])
@pytest.mark.parametrize("folder", ["new", "empty"])
def test_a_folder_without_scenes_stays_as_it_is(kind: type[Scenes], folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"draw them with --data.draw=true, or `python -m .*--size.references 1"
    ) as told:
        kind(tmp_path / folder, size=SMALL).prepare_data()
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"] and str(told.value).endswith("(data.root)")
    with pytest.raises(InputError, match=r"or `python -m experiments\.scenes --root \S+/new --seed 3` "):
        kind(tmp_path / "new", seed=3).prepare_data()


def test_scenes_that_are_there_need_no_word(drawn: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    for draw in (False, True):
        Scenes(drawn, draw, size=SMALL).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_half_drawn_scenes_are_told_as_such_and_drawn_to_their_end(drawn: Path, tmp_path: Path) -> None:
    state = json.loads((drawn / STATE).read_text()) | {"complete": False}
    (tmp_path / STATE).write_text(json.dumps(state))
    with pytest.raises(InputError, match="lacks a part of its scenes: draw them"):
        Scenes(tmp_path, size=SMALL).prepare_data()
    Scenes(tmp_path, True, size=SMALL).prepare_data()
    assert json.loads((tmp_path / STATE).read_text())["complete"] is True


def state(text: str) -> Callable[[Path], object]:
    return lambda root: (root.mkdir(), (root / STATE).write_text(text))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (Path.touch, "Not a directory"),
    "a pipe": (os.mkfifo, "Not a directory"),
    "a link to itself": (lambda root: root.symlink_to(root), "symbolic links"),
    "a link to nothing": (lambda root: root.symlink_to(root.with_name("none")), "No such file"),
    "other content": (lambda root: (root.mkdir(), (root / "thesis.txt").touch()), "holds something else than scenes"),
    "a state that is no JSON": (state("{"), f"{STATE}: damaged"),
    "a state that is a list": (state("[1]"), f"{STATE}: does not tell which scenes are here"),
    "a state of text": (state('{"complete": "yes"}'), f"{STATE}: does not tell which scenes are here"),
    "other scenes": (state('{"complete": true, "seed": "x\\n"}'), r"seed 'x\\n' instead of 0"),
    "a state that is nested": (state("[" * 100_000), f"{STATE}: damaged"),
    "a state that is a folder": (lambda root: (root / STATE).mkdir(parents=True), "found a folder"),
    "a state that is a pipe": (lambda root: (root.mkdir(), os.mkfifo(root / STATE)), "found a named pipe"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_drawn_over_what_is_there(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = FAULTS[fault]
    root = tmp_path / "root"
    make(root)
    before = sorted(tmp_path.rglob("*"))
    for action in (Scenes(root, True, size=SMALL).prepare_data, Scenes(root, size=SMALL).prepare_data):
        with pytest.raises(InputError, match=words):
            action()
    monkeypatch.setattr("sys.argv", ["scenes", f"--root={root}", *FLAGS])
    with pytest.raises(SystemExit) as ended:
        scenes_command()
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        ended.value.code == (2 if fault == "a pipe" else 1)
        and line.startswith("error: ")
        and len(line) <= LONGEST
        and line.isprintable()
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "flag",
    [
        "--size.references=0",
        "--size.train_references=-1",
        "--size.shared_references=10001",
        "--seed=-1",
        "--workers=-1",
    ],
)
def test_numbers_that_nothing_can_be_drawn_with_are_one_line(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["scenes", f"--root={tmp_path / 'new'}", flag])
    with pytest.raises(SystemExit) as ended:
        scenes_command()
    told = capsys.readouterr().err
    assert ended.value.code in (1, 2) and "expected a whole number" in told
    assert flag.strip("-").split("=")[0] in told
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(writer.Image.Image, "save", full)
        with pytest.raises(InputError, match=r"can't be written: No space left on device \(data.root\)"):
            write_scenes(tmp_path / "new", 0, SMALL, workers=1)
    write_scenes(tmp_path / "new", 0, SMALL, workers=1)
    names = [sorted(str(path.relative_to(root)) for path in root.rglob("*")) for root in (drawn, tmp_path / "new")]
    assert names[0] == names[1]
