"""What README.md and CONTRIBUTING.md show: commands that are parsed, targets and files that exist, code that runs."""

import importlib.util
import re
import shlex
from collections.abc import Iterator

import pytest
from safetensors.torch import load_file

from experiments.flags import packaged
from experiments.run import main
from tests.helpers.paths import PROJECT

DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{file.name}" for file in (PROJECT / "docs").glob("*.md")))
ARGUMENTS = {"$PHOTOS": "photos", "$OUT": "out", "FILE": "last.ckpt"}


def shown(document: str) -> Iterator[str]:
    """Return the command lines of the indented blocks of a document, each as one line without its comment."""
    text = (PROJECT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE):
        yield re.sub(r"\s+#\s.*$", "", line)


def commands(document: str, start: str) -> list[str]:
    """Return the commands of a document that begin with some words."""
    return [line for line in shown(document) if line.startswith(start)]


RUNS = [line for line in commands("README.md", "python -m experiments.run ") if "/ID/" not in line]


def test_the_readme_shows_runs_that_are_parsed():
    assert len(RUNS) >= 3 and commands("README.md", "make ")


@pytest.mark.parametrize("line", RUNS)
def test_a_run_of_the_readme_is_parsed(line, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in ARGUMENTS.items():
        line = line.replace(name, value)
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(line)[3:], "--print_config"])
    printed = capsys.readouterr()
    assert ended.value.code in (0, None), printed.err
    assert "class_path" in printed.out


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_files_that_a_document_names_exist(document):
    text = (PROJECT / document).read_text(encoding="utf-8")
    for module in re.findall(r"python -m ([a-z_.]+[a-z_])", text):
        assert importlib.util.find_spec(module) is not None, module
    targets = re.search(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for target in re.findall(r"^(?: {4}|.*`)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, target
    for file in re.findall(r"(?<![\w/])(?:experiments|contextcir|data_modules|callbacks|tests)/[\w./-]+\.\w+", text):
        placeholder = "NAME" in file or "BENCHMARK" in file or "..." in file
        assert placeholder or (PROJECT / file).exists(), file
    for name in re.findall(r"--config[ =]([a-z][\w/]*)(?![\w./])", text):
        assert packaged("configs", name, "config").is_file()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    folder = (PROJECT / document).parent
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (PROJECT / document).read_text(encoding="utf-8")):
        assert target.startswith("http") or (folder / target).exists(), target


def test_the_code_of_the_readme_runs(golden):
    section = (PROJECT / "README.md").read_text(encoding="utf-8").split("## In Python")[1]
    code = "\n".join(re.findall(r"^ {4}(\S.*)$", section.split("`load`")[0], re.MULTILINE))
    images = load_file(golden / "images.safetensors")["reference"]
    names = {"images": images, "captions": ["more zebras"] * len(images)}
    exec(code.replace('"published.ckpt"', repr(str(golden))), names)
    assert names["query"].shape == names["candidates"].shape == (6, 32)
    assert names["maps"].shape[:4] == (4, 6, 8, 17)
