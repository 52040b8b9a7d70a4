"""What README.md, CONTRIBUTING.md and docs show: commands that run or are parsed, targets and files that exist."""

import glob
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments import check_data, submission
from experiments.flags import packaged
from experiments.phrases import __main__ as phrases
from experiments.run import main
from tests.helpers.make_data import make_cirr
from tests.helpers.paths import PROJECT

DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{file.name}" for file in (PROJECT / "docs").glob("*.md")))
MOST_LINES, MOST_CHARACTERS = 150, 120  # of the README; of its prose
# What cuts a command of the README to size, by what it begins with.
SMALLER = {
    "python -m experiments.phrases": ["--parser", "tests.helpers.word_parser.WordParser"],
    "python -m experiments.run fit": [
        *("--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.batch_size=4"),
        "--model.optimizer.init_args.warmup_steps=0",
    ],
}
RUN: dict[str, Callable[[list[str]], object]] = {
    "check_data": check_data.main,
    "phrases": phrases.main,
    "run": main,
    "submission": submission.main,
}


def text_of(document: str, heading: str = "") -> str:
    """Return the text of a document, or of one of its sections."""
    text = (PROJECT / document).read_text(encoding="utf-8")
    return text.split(f"\n{heading}\n")[1].split("\n## ")[0] if heading else text


def shown(document: str, heading: str = "") -> Iterator[str]:
    """Return the command lines of the indented blocks and those marked ``sh``, each as one line without its comment."""
    text = re.sub(
        r"^```sh\n(.*?)^```$",
        lambda block: re.sub(r"^", "    ", block[1], flags=re.MULTILINE),
        text_of(document, heading),
        flags=re.MULTILINE | re.DOTALL,
    )
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^ {4}(\S.*)$", text.replace("\\\n", " "), re.MULTILINE):
        yield re.sub(r"\s+#\s.*$", "", line)


def commands(document: str, start: str) -> list[str]:
    """Return the commands of a document that begin with some words."""
    return [line for line in shown(document) if line.startswith(start)]


def python_of(document: str) -> str:
    """Return the Python of a document's blocks that are marked so."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text_of(document), re.MULTILINE | re.DOTALL))


def slug(heading: str) -> str:
    """Return how a link names a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_readme_is_short_and_its_lines_are_for_reading() -> None:
    lines = text_of("README.md").splitlines()
    assert len(lines) <= MOST_LINES
    code = re.findall(r"^```.*?^```$", text_of("README.md"), re.MULTILINE | re.DOTALL)
    prose = [line for line in lines if not line.startswith("|") and line not in "\n".join(code).splitlines()]
    assert max(map(len, prose)) <= MOST_CHARACTERS


def test_the_commands_of_the_readme_run_in_their_order(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_cirr(tmp_path / "CIRR")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "id1")
    for name in ("CIR_RUNS", "CIR_DATA", "CIR_PHRASES"):
        monkeypatch.delenv(name, raising=False)
    done = []
    for line in shown("README.md"):
        program, *words = shlex.split(line)
        if program == "make":
            # what it stands for exists, and CI runs it, or the same in small
            subprocess.run(["make", "-n", *words], cwd=PROJECT, check=True, capture_output=True)
            ci = (PROJECT / ".ci/run").read_text(encoding="utf-8").split("\n")
            assert any(step.split(" #")[0].strip() in (line, f"{line}-smoke", f"{line}-all") for step in ci), line
        elif program == "source":
            assert (Path(sys.prefix) / words[0].removeprefix(".venv/")).is_file()
        else:
            command = words[1].removeprefix("experiments.")
            best = next(iter(Path("runs").glob("*/id1/checkpoints/epoch*.ckpt")), Path())
            given = {"/path/to/CIRR": str(root), "/ID/": "/id1/", "FILE": str(best)}
            words = [re.sub("|".join(given), lambda found: given[found[0]], word) for word in words]  # noqa: B023
            words = [path for word in words for path in ([*glob.glob(word)] if "*" in word else [word])]
            flags = next((more for start, more in SMALLER.items() if line.startswith(start)), [])
            try:
                RUN[command]([*words[2:], *flags, *(small if command == "run" else [])])
            except SystemExit as ended:  # this folder has not the official numbers
                assert ended.code in ((0, 1) if command == "check_data" else (0, None)), capsys.readouterr().err
        done.append(" ".join([program, *words[:3]]))
    assert len(done) == 9 and Path("datasets/phrases.bank").is_file()
    files = sorted(path.name for path in Path("runs/cirr_b32/id1/submission").iterdir())
    assert files == ["cirr_test1_recall.json", "cirr_test1_recall_subset.json"]


def test_the_python_of_the_readme_finds_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    exec(python_of("README.md"), {})
    last = re.search(r"The last line that it prints is `(.*?)`", text_of("README.md"))
    assert last and capsys.readouterr().out.splitlines()[-1] == last[1]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_files_that_a_document_names_exist(document: str) -> None:
    text = text_of(document)
    for module in re.findall(r"python -m ([a-z_.]+[a-z_])", text):
        assert importlib.util.find_spec(module) is not None, module
    targets = re.search(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for target in re.findall(r"^(?: {4}|.*`)?make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, target
    for file in re.findall(r"(?<![\w/])(?:experiments|contextcir|data_modules|callbacks|tests)/[\w./-]+\.\w+", text):
        placeholder = "NAME" in file or "BENCHMARK" in file or "..." in file
        assert placeholder or (PROJECT / file).exists(), file
    for name in re.findall(r"--config[ =]([a-z][\w/]*)(?![\w./])", text):
        assert packaged("configs", name, "config").is_file()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    folder = (PROJECT / document).parent
    for target, heading in re.findall(r"\]\(([^)#\s]+)(?:#([^)]*))?\)", text_of(document)):
        assert target.startswith("http") or (folder / target).exists(), target
        if heading and document == "README.md":  # those of docs are checked on the site that is made of them
            headings = re.findall(r"^#+ (.*)$", (folder / target).read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in map(slug, headings), f"{target}#{heading}"
