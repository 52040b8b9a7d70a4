"""Bare names: of every public class that texts and configs name, of configs, and what is close to a wrong one."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch
import pytest
import yaml

from contextcir.errors import InputError, MissingFileError
from experiments.arguments import closest_keys
from experiments.help import DATA
from experiments.mistakes import ArgumentMistake, close
from experiments.names import PACKAGES, public_classes, resolve, subclasses
from experiments.run import main, settings_parser
from tests.helpers.paths import PROJECT

EXPERIMENT = ["fit", "--config=base", "--config", "scenes"]
pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture
def parser():
    return settings_parser()


def in_yaml(value: object, class_paths: bool) -> Iterator[str]:
    """Yield all strings of a YAML file, or only those that name classes."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from in_yaml(inner, class_paths)
        elif isinstance(inner, str) and (not class_paths or key == "class_path"):
            yield inner


def named_in_texts() -> set[str]:
    """Classes that docs, help texts and messages give: ``--model.concept=Name``, ``class_path: Name``, dotted names."""
    files = [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md"), *(PROJECT / "experiments").rglob("*.sbatch")]
    files += [file for package in PACKAGES for file in (PROJECT / package).rglob("*.py")]
    given = r"(?:--[a-z_.]+\+?=|class_path: )([A-Z][a-z]\w+)\b(?![.(])"
    dotted = rf"\b(?:{'|'.join(PACKAGES)})\.[a-z_.]+\.([A-Z]\w+)\b"
    texts = [file.read_text() for file in files]
    names = {name for text in texts for pattern in (given, dotted) for name in re.findall(pattern, text)}
    return names | set(DATA["data"].partition(": ")[2].split(", "))


def test_the_table_has_every_class_at_the_top_of_a_module() -> None:
    expected = set()
    for package in PACKAGES:
        for file in (PROJECT / package).rglob("*.py"):
            parts = file.relative_to(PROJECT).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            body = ast.parse(file.read_text()).body
            expected |= {(node.name, module) for node in body if isinstance(node, ast.ClassDef)}
    public = {(name, module) for name, module in expected if not name.startswith("_")}
    assert {(entry.name, entry.module) for entries in public_classes().values() for entry in entries} == public


def test_no_setting_accepts_two_classes_of_one_name() -> None:
    for entries in public_classes().values():
        classes = [getattr(importlib.import_module(entry.module), entry.name) for entry in entries if len(entries) > 1]
        for index, one in enumerate(classes):
            for other in classes[:index]:
                shared = {*one.__mro__} & {*other.__mro__} - {*object.__mro__}
                assert not {base for base in shared if base.__module__.startswith(PACKAGES)}, (one, other)


def test_configs_name_classes_of_the_project_bare() -> None:
    contents = [yaml.safe_load(file.read_text()) for file in (PROJECT / "experiments").rglob("*.yaml")]
    dotted = re.compile(rf"(?:{'|'.join(PACKAGES)})\.[a-z_.]+\.[A-Z]")
    assert len(contents) > 30
    assert not [text for content in contents for text in in_yaml(content, False) if dotted.match(text)]
    names = {text for content in contents for text in in_yaml(content, True)}
    assert {"GradientCache", "SpatialConsistency", "MinedPairs", "FaultyDescriber"} <= names
    assert names <= set(public_classes()) | {*dir(lightning.pytorch.callbacks), *dir(lightning.pytorch.loggers)}


def test_every_class_that_texts_give_for_a_setting_is_one() -> None:
    names = named_in_texts()
    assert {"CIRR", "StopWhenAsked", "MinedPairs"} <= names
    assert names <= set(public_classes()) | {*dir(lightning.pytorch.callbacks)}


@pytest.mark.slow
def test_bare_names_are_enough_in_a_process_that_has_imported_none_of_the_classes() -> None:
    names = {
        "model.fusion": ["ConceptAttentionFusion", "ImageOnly", "TextOnly", "Sum"],
        "model.concept": ["SpatialConsistency", "GroundedConsistency", "TextConceptConsistency"],
        "model.encoding": ["GradientCache"],
        "data": ["CIRR", "CIRCO", "FashionIQ", "LaSCo", "GeneCIS", "FrozenScenes"],
        "trainer.callbacks+": ["CompileTowers", "NegativeRoles", "StepSeeds"],
    }
    more = {"data": ["--data.root=x", "--data.order=null"]}
    script = f"""
from experiments.run import settings_parser
parser = settings_parser()
for setting, names in {names}.items():
    for name in names:
        args = {EXPERIMENT} + [f"--{{setting}}={{name}}"] + {more}.get(setting, [])
        print(name, f".{{name}}'" in str(parser.parse_args(args).fit))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT)
    expected = [f"{name} True" for listed in names.values() for name in listed]
    assert done.stdout.splitlines() == expected, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lr=1"], ["no setting 'lr'", "--model.optimizer.lr"]),
        (["--batch_size=3"], ["no setting 'batch_size'", "--data.batch_size"]),
        (["--model.lr=3"], ["no setting 'model.lr'", "--model.optimizer.lr"]),
        (["--model.backbone.modle=x"], ["--model.backbone.model"]),
        (["--trainer.max_stepz=3"], ["--trainer.max_steps"]),
        (["--data=cirr"], ["no class 'cirr'", "did you mean CIRR", "(--data)"]),
        (["--data=Qqqq"], ["there are: ", "CIRR", "(--data)"]),
        (["--data.order=Shufled"], ["did you mean Shuffled", "(--data.order)"]),
        (["--model.fusion=Crossattention"], ["did you mean CrossAttentionFusion", "(--model.fusion)"]),
        (["--model.concept=InfoNCE"], ["no class 'InfoNCE'", "SpatialConsistency", "(--model.concept)"]),
        (["--trainer.callbacks+=ModelChekpoint"], ["did you mean ModelCheckpoint"]),
        (["--model.optimizer.lr=abc"], ["expected float, got 'abc'", "(--model.optimizer.lr)"]),
        (["--data.batch_size=1.5"], ["expected int, got '1.5'", "(--data.batch_size)"]),
        (["--trainer.precision=bf17"], ["bf16-mixed", "got 'bf17'", "(--trainer.precision)"]),
        (["--data.root"], ["a value is missing", "(--data.root)"]),
        (["scenes"], ["unexpected argument 'scenes'"]),
        (["--config=scene"], ["close to it: scenes", "(--config)"]),
    ],
)
def test_a_mistake_is_one_line_with_what_is_close(
    flags: list[str], words: list[str], parser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ArgumentMistake) as stopped:
        parser.parse_args([*EXPERIMENT, *flags])
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert not re.search("Union|subtype|dot import|usage|<class", lines[0])


def test_a_mistake_in_a_config_is_told_with_the_file(
    parser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    for text, words in {
        "model: {fusion: {class_path: CrossAttentionFusion, init_args: {headz: 3}}}": ["model.fusion.headz", ".heads"],
        "modle: {fusion: Sum}": ["modle.fusion", "--model.fusion"],
        "model: [": ["not valid YAML"],
    }.items():
        file.write_text(text)
        with pytest.raises(ArgumentMistake):
            parser.parse_args([*EXPERIMENT, f"--config={file}"])
        line = capsys.readouterr().err.strip()
        assert "\n" not in line and all(word in line for word in [str(file), *words]), line


@pytest.mark.parametrize("typed", [[], ["fitt"]])
def test_subcommands_are_listed(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(typed)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == ("error: no subcommand 'fitt'; did you mean fit?" if typed else
                    "error: name a subcommand: fit, validate, test, predict")  # fmt: skip


def test_configs_are_found_by_name_and_a_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configs = PROJECT / "experiments" / "configs"
    expected = ["fit", "--config", str(configs / "base.yaml"), f"--config={configs / 'overlays' / 'bf16.yaml'}"]
    assert resolve(["fit", "--config", "base", "--config=overlays/bf16"]) == expected
    Path("base.yaml").write_text("name: mine")
    assert resolve(["--config=base.yaml"]) == ["--config=base.yaml"]
    with pytest.raises(MissingFileError, match="genecis"):
        resolve(["--config=genecs"])


def test_a_class_whose_package_is_missing_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError("no", name="faiss")

    monkeypatch.setattr("experiments.names.importlib.import_module", missing)
    with pytest.raises(InputError, match="ExactSearch needs the package faiss"):
        resolve(["--pairs.search=ExactSearch"])


def test_subclasses_are_known_without_importing_them() -> None:
    script = (
        "import sys; from experiments.names import subclasses; print(*subclasses('LightningDataModule'));"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, check=True)
    listed, torch = done.stdout.splitlines()
    assert {"CIRR", "FrozenMixture", "Scenes"} <= set(listed.split()) and torch == "False"
    assert "CIRR" not in subclasses("Callback")


def test_close_names_ignore_case_and_keys_of_the_same_last_part_come_first() -> None:
    assert close("cirr", ["CIRCO", "CIRR"]) [0] == "CIRR"  # fmt: skip
    keys = ["model.optimizer.lr", "model.optimizer.backbone_lr", "data.batch_size", "data.eval_batch_size"]
    assert closest_keys("lr", keys) == ["model.optimizer.lr"]
    assert closest_keys("data.batchsize", keys)[0] == "data.batch_size"
    assert closest_keys("zzz", keys) == []


def test_importing_the_packages_loads_no_torch() -> None:
    script = "import sys, contextcir, data_modules, callbacks; print('torch' in sys.modules, len(callbacks.__all__))"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split()[0] == "False"


@pytest.mark.parametrize("package", ["contextcir", "data_modules", "callbacks"])
def test_a_package_has_every_name_that_it_exports(package: str) -> None:
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
