"""A mistake in the arguments of any command is one line on standard error, with exit status 2, before work begins."""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.command import command
from experiments.mistakes import ArgumentMistake
from experiments.run import settings_parser
from tests.helpers.paths import PROJECT

COMMANDS = (
    "check_data", "convert", "submission", "phrases.__main__", "study.__main__", "report.__main__", "scenes", "sweep",
    "shards", "synthesize", "synth_demo", "search.__main__", "benchmarks.mining", "benchmarks.synthesis",
    "quality.ceilings", "quality.consistency", "quality.copies", "quality.interference", "quality.synthesis_precision",
)  # fmt: skip


def told(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command ends with."""
    with pytest.raises(ArgumentMistake) as stopped:
        run()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith("error: ") and said.count("\n") == 1 and said[:-1].isprintable() and len(said) <= 301, said
    return said


def ran(name: str, *args: str) -> Callable[[], object]:
    main = importlib.import_module(f"experiments.{name}").main
    sys.argv = [name, *args]
    return (lambda: main(list(args))) if inspect.signature(main).parameters else main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["command"])
    os.mkfifo("pipe")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_a_mistake_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--nonsense=3"], ["--nonsense", "a\nb\x1b[31m"], ["--" + "x" * 5000], [""], ["--out="], ["--root="]):
        told(ran(name, *args), capsys)


def test_no_command_has_a_parser_with_other_words() -> None:
    sources = {file: file.read_text() for file in (PROJECT / "experiments").rglob("*.py")}
    parsers = [
        file.name for file, text in sources.items() if " ArgumentParser(prog" in text or "= ArgumentParser(des" in text
    ]
    assert not parsers
    assert not [
        file.name for file, text in sources.items() if "auto_cli(" in text and "parser_class=Parser" not in text
    ]


def count(n: int = 1, out: Path = Path("x"), label: str = "a") -> None:
    """Work."""
    raise AssertionError("work has begun")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--n=a"], "expected int, got 'a' (--n)"),
        (["--n"], "a value is missing (--n)"),
        (["--n="], "a value is missing"),
        (["--out", ""], "an argument is empty"),
        (["--lable=b"], "the closest: --label"),
        (["word"], "unexpected argument 'word'"),
        (["--"], "unexpected argument '--'"),
        (["--n=" + "9" * 400], "64 bits"),
        (["--n=" + "9" * 5000], "(--n)"),
        (["--n={a: 1, a: 2}"], "'a' stands twice in one mapping"),
        (["--label=pipe"], "pipe: expected a file, found a named pipe (--label)"),
        (["--config=pipe"], "found a named pipe (--config)"),
        (["--config="], "expected a file, or one of the project's configs; got '' (--config)"),
        (["--config=."], "(--config)"),
        (["--config=/dev/zero"], "found a device (--config)"),
        (["--config=a: ["], "not valid YAML"),
        (["--config=- a:"], "expected a file or a mapping of settings"),
        (["--config={m: 1}"], "no setting 'm'"),
        (["--config", "--config"], "no file --config"),
        (["--config=no\nsuch: "], "error: "),
    ],
)
def test_a_mistake_names_the_setting(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    sys.argv = ["count", *args]
    assert words in told(lambda: command(count), capsys)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("check_data", "missing: benchmark, --root"),
        ("check_data cirx --root=x", "did you mean icir or cirr or circo?"),
        ("check_data cirr --root", "a value is missing (--root)"),
        ("check_data cirr --root=x --json=3", "takes no value, got '3' (--json)"),
        ("check_data cirr --root=x --s=3", "--split or --show"),
        ("convert", "name a subcommand: hotel"),
        ("convert hotl", "did you mean hotel?"),
        ("convert hotel", "missing: --root, --split, --out"),
        ("submission valdate", "did you mean validate?"),
        ("submission validate cirr", "missing: files, --annotations, --split"),
        ("submission validate cirr a.json --annotations= --split=t", "a value is missing (--annotations)"),
        ("submission validate cirr a.json --annotations=x --split=t --splt", "the closest: --split"),
        ("phrases.__main__ --captions a.txt --parser=stanzo --out=b", "ChunkParser, ConstituencyParser"),
        ("phrases.__main__ merge --out=x", "missing: shards"),
        ("study.__main__ smoke --jobs=a", "expected int, got 'a' (--jobs)"),
        ("scenes --size.referencs=3", "--size.references"),
        ("scenes --size=3", "expected a mapping of settings, or a YAML file; got '3' (--size)"),
        ("sweep", "missing: file"),
        ("synthesize --config=synthesis/scenes --pairs.fil=x", "the closest: --pairs.file"),
        ("synthesize --config=synthesis/scenes --instruct.captions=[x]", "expected int, got 'x' (--instruct.captions)"),
        ("synthesize --config=synthesis/scene", "close to it: synthesis/scenes"),
    ],
)
def test_commands_say_what_is_missing_and_what_is_close(
    args: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in told(ran(*args.split()), capsys)


RUN = {
    "name: ${oc.env:CIR_NOPE}": ["the environment variable CIR_NOPE is not set", "(--name)", "own.yaml: "],
    "data: {init_args: {root: '${oc.env:CIR_NOPE}/x'}}": [
        "CIR_NOPE is not set, in '${oc.env:CIR_NOPE}/x' (--data.root)"
    ],
    "name: ${trainer.nope}": ["there is no setting trainer.nope", "(--name)"],
    "name: ${nope:1}": ["there is no resolver nope", "(--name)"],
    "name: ${oc.env:X": ["in '${oc.env:X' (--name)"],
    "name: ${trainer.default_root_dir}": ["lead back to themselves: ", "name -> "],
    "trainer: 3": ["own.yaml: expected a mapping of settings, got 3 (--trainer)"],
    "trainer:": ["expected a mapping of settings, got None (--trainer)"],
    "config: own.yaml": ["a config names itself"],
    "{1: 2}": ["own.yaml: keys must be texts, got 1"],
    "trainer: {max_steps: " + "9" * 30 + "}": ["64 bits", "(--trainer.max_steps)"],
    "model: {concept: null, concept: Sum}": ["'concept' stands twice"],
}


@pytest.mark.usefixtures("runs")
def test_experiments_run_names_setting_and_file(capsys: pytest.CaptureFixture[str]) -> None:
    parser = settings_parser()
    for text, words in RUN.items():
        Path("own.yaml").write_text(text)
        said = told(lambda: parser.parse_args(["fit", "--config=scenes", "--config=own.yaml"]), capsys)
        assert all(word in said for word in words), said
    for flag, words in {
        "--name=${oc.env:CIR_NOPE}": ["CIR_NOPE is not set", "(--name)"],
        "--model.fusion=os.path": ["no class 'os.path' here", "CrossAttentionFusion", "(--model.fusion)"],
        "--model.fusion.heads=x": ["(--model.fusion.heads)"],
        "--data.root=": ["a value is missing", "(--data.root)"],
        "--trainer.callbacks+=Nope": ["no class 'Nope' here", "(--trainer.callbacks)"],
    }.items():
        said = told(functools.partial(parser.parse_args, ["fit", "--config=scenes", flag]), capsys)
        assert all(word in said for word in words), said
    assert "--model.backbone, --data; --config NAME" in told(lambda: parser.parse_args(["fit"]), capsys)


@pytest.mark.usefixtures("runs")
def test_an_experiment_alone_is_the_same_as_with_its_base() -> None:
    parser = settings_parser()
    alone, with_base = (
        parser.dump(parser.parse_args(["fit", *args, "--config=cirr_l14"])) for args in ([], ["--config=base"])
    )
    assert alone == with_base and "TextConceptConsistency" in alone and "\nbase:" not in alone
    settings = parser.parse_args(["fit", "--config=cirr_b32", "--model.backbone.pretrained=null"])
    assert settings.fit.model.backbone.init_args.pretrained is None
