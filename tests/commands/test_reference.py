"""Pages that are made from the source are those of the source, and what is written by hand names what exists."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from wandb.errors import UsageError

from experiments.causes import explain
from experiments.reference.message_page import message_page
from experiments.reference.messages import Message, beginning, messages
from experiments.reference.settings_pages import VARIABLES, pages
from experiments.reference.texts import GAP, PACKAGES, Sources
from tests.helpers.paths import PROJECT

DOCS = PROJECT / "docs"
AGAIN = "run `python -m experiments.reference` in the checkout, and commit what it writes"
CODE = re.compile(r"(`+)(.+?)\1")


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources()


@pytest.fixture(scope="module")
def page(sources: Sources) -> str:
    return message_page(sources)


@pytest.fixture(scope="module")
def told(sources: Sources) -> list[Message]:
    return messages(sources)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def source_files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (PROJECT / package).rglob("*.py")


def test_the_page_of_messages_is_that_of_the_source(page: str) -> None:
    assert page == (DOCS / "messages.md").read_text(encoding="utf-8"), AGAIN


def test_the_pages_of_settings_are_those_of_the_source(made: dict[str, str]) -> None:
    for name, text in made.items():
        assert text == (DOCS / name).read_text(encoding="utf-8"), f"{name}: {AGAIN}"
    written = {path.relative_to(DOCS).as_posix() for path in (DOCS / "settings").iterdir()} | {"settings.md"}
    assert written == set(made)


def test_the_first_words_of_every_error_are_on_the_page(told: list[Message]) -> None:
    """Found in another way than the page: the first text within each `InputError(...)` and the like."""
    texts, words = "\n".join(message.text for message in told), []
    for file in source_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("InputError", "MissingFileError")
                and node.args
            ):
                first = node.args[0]
                parts = first.values if isinstance(first, ast.JoinedStr) else [first]
                constant = [part.value for part in parts if isinstance(part, ast.Constant) and str(part.value).strip()]
                words += [(file, " ".join(text.split())) for text in constant[:1]]
    assert len(words) > 350
    assert not [(file.name, text) for file, text in words if text.strip() not in texts]


def test_texts_are_followed_through_variables_choices_constants_and_functions(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "one.py").write_text(
        "from package.two import InputError, END, refuse\n"
        "def a(n, good):\n"
        "    problem = f'expected {n} words'\n"
        "    raise InputError(f'{problem}{END}', setting='model.words')\n"
        "def b(good):\n"
        "    raise InputError('too few' if good else 'too many')\n"
        "def c():\n"
        "    refuse('an empty list')\n"
    )
    (tmp_path / "package" / "two.py").write_text(
        "class InputError(ValueError): ...\n"
        "END = '; see --help'\n"
        "def refuse(what):\n"
        "    raise InputError(f'expected something, got {what}', setting='data.root')\n"
        "def bug():\n"
        "    raise TypeError('a step of the program')\n"
    )
    assert messages(Sources(tmp_path, ["package"])) == [
        Message("expected something, got an empty list", "package/one.py", ("data.root",)),
        Message(f"expected {GAP} words; see --help", "package/one.py", ("model.words",)),
        Message("too few", "package/one.py"),
        Message("too many", "package/one.py"),
    ]
    assert beginning(f"{GAP}: {GAP} lines {GAP}") == "lines"


def test_nothing_of_a_machine_is_on_a_page(made: dict[str, str], page: str) -> None:
    for text in (*made.values(), page):
        assert not re.search(r"(?<![\w.~/])/(?:root|home|work|tmp|usr|opt|var|Users)\b", text)
        assert not [value for value in (os.getcwd(), str(Path.home())) if len(value) > 5 and value in text]


def test_every_setting_says_what_it_means(made: dict[str, str]) -> None:
    text = "\n".join(made.values())
    items = [" ".join(item.split()) for item in re.findall(r"^- `[\w./]+`:.*(?:\n  .*)*", text, re.MULTILINE)]
    assert len(items) > 300
    assert not [item for item in items if not re.search(r"`: .*\w.*[.?!]$", item)]
    settings = [item for item in items if re.search(r"(?:, needed| by default.*)\. ", item)]
    assert (
        len(settings) > 150 and "- `model.concept.epsilon`: number, `0` by default. Tolerated difference." in settings
    )
    assert not [item for item in settings if re.search(r"(?:, needed|` by default)\.$", item)]


def test_every_variable_of_the_project_is_listed() -> None:
    files = [*source_files(), *(PROJECT / "experiments").rglob("*.yaml")]
    named = {name for file in files for name in re.findall(r"CIR_[A-Z]+(?:_[A-Z]+)*", file.read_text(encoding="utf-8"))}
    assert named <= set(VARIABLES)


def quoted() -> list[str]:
    """The messages that the page of remedies has, one or several in a line."""
    _, _, text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8").partition("\n## ")
    lines = [line for line in text.splitlines() if line.startswith("- `")]
    return [code.strip() for line in lines for _, code in CODE.findall(line.partition(" (before")[0])]


def pattern(message: str) -> str:
    return ".*".join(re.escape(part) for part in message.split(GAP))


# What `experiments.causes` makes of errors of the system and of libraries, and what is no error.
EXPLAINED = {
    "out of memory: CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "out of memory: this": MemoryError(),
    "this needs the package": ModuleNotFoundError("No module named 'faiss'", name="faiss"),
    "too many open files": OSError(24, "Too many open files"),
    "RuntimeError: DataLoader": RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error."),
    "DistBackendError": torch.distributed.DistBackendError("NCCL error"),
    "UsageError": UsageError("No API key configured. Use `wandb login` to log in."),
    "no space left": OSError(28, "No space left on device", "a/b"),
    "the quota": OSError(122, "Disk quota exceeded", "a/b"),
    "no permission": OSError(13, "Permission denied", "a/b"),
}
PRINTED = ("W&B at ", "stopped by SIGTERM: ", "not valid YAML: ", "record … of …: field ")  # not by `raise`


def test_every_message_with_a_remedy_is_one_that_the_project_tells(told: list[Message]) -> None:
    texts = [message.text for message in told]
    own = [text for text in quoted() if not text.startswith((*EXPLAINED, *PRINTED))]
    assert len(own) > 45
    assert not [text for text in own if not any(re.search(pattern(text), known) for known in texts)]
    source = "".join(file.read_text(encoding="utf-8") for file in source_files())
    assert not [begin for begin in PRINTED if begin.split(GAP)[-1].lstrip(":") not in source]


@pytest.mark.parametrize("begin", list(EXPLAINED))
def test_errors_of_libraries_are_told_as_the_remedies_say(begin: str) -> None:
    (text,) = (text for text in quoted() if text.startswith(begin))
    try:
        raise EXPLAINED[begin]
    except BaseException as error:
        assert re.search(pattern(text), explain(error))


def test_every_test_that_is_named_exists() -> None:
    text = (DOCS / "defined_behaviour.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    items = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
    assert len(named) >= len(items) > 55 and all("::test_" in item for item in items)
    for file, name in named:
        assert re.search(rf"^def {name}\(", (PROJECT / file).read_text(encoding="utf-8"), re.MULTILINE), name
