"""What docs/search.md shows is run, in its order."""

import re
import shlex
from pathlib import Path

import pytest

from experiments.search.__main__ import build_parser, main
from tests.commands.test_readme import shown
from tests.helpers.paths import PROJECT
from tests.helpers.photos import save

DOCUMENT = "docs/search.md"
START = "python -m experiments.search "


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number in range(6):
        save(tmp_path / "PHOTOS" / f"{'abcdef'[number]}.jpg", number)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_its_commands_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in shown(DOCUMENT) if line.startswith(START)]
    assert {shlex.split(line)[3] for line in lines} == {"index", "query", "recall", "merge"}
    for line in lines:
        main(shlex.split(line)[3:])
    said = capsys.readouterr().out
    assert "6 photos (6 new" in said and "recall at 10: 100.00 %" in said and "whole.index: 6 photos, 6" in said
    assert (photos / "found.html").is_file() and (photos / "found.json").is_file()


def test_its_python_runs(photos: Path) -> None:
    section = (PROJECT / DOCUMENT).read_text(encoding="utf-8").split("## In Python")[1].split("\n## ")[0]
    names: dict[str, object] = {}
    exec("\n".join(re.findall(r"^ {4}(\S.*)$", section, re.MULTILINE)), names)
    paths = names["paths"]
    assert isinstance(paths, list) and len(paths) == 5 and paths[0].is_file()


def test_the_flags_that_it_names_exist() -> None:
    text = (PROJECT / DOCUMENT).read_text(encoding="utf-8")
    known = {f"--{name}" for name in build_parser().options()}
    named = set(re.findall(r"(?<![\w-])--[a-z]+", text)) - {"--images"}
    assert named and named <= known
