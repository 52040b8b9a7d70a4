"""What docs/embedders.md shows is run on a few scenes, or at least parsed; every config of an embedder can be built."""

import re
import shlex
from pathlib import Path

import pytest

from contextcir.embedders.base import Embedder
from contextcir.embedders.features_file import FeaturesFile
from contextcir.embedders.reranking import Reranking
from experiments.evaluate.__main__ import build_parser, main
from experiments.evaluate.settings import build
from experiments.features import main as features
from tests.commands.test_readme import shown
from tests.helpers.make_data import make_cirr
from tests.helpers.paths import CONFIGS, PROJECT
from tests.helpers.scenes_flags import SIZE, draw

DOCUMENT = "docs/embedders.md"
LINES = list(shown(DOCUMENT))
RUN, FILES = "python -m experiments.evaluate ", "python -m experiments.features "
NAMES = sorted(file.stem for file in (CONFIGS / "embedders").glob("*.yaml"))


@pytest.mark.slow
def test_its_commands_run_on_scenes(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "datasets" / "scenes")
    monkeypatch.chdir(tmp_path)
    size = [f"--data.size.{name}={value}" for name, value in vars(SIZE).items()]
    lines = [line for line in LINES if line.startswith((RUN, FILES)) and "scenes" in line]
    assert len(lines) == 5
    for line in lines:
        run, arguments = (main if line.startswith(RUN) else features), shlex.split(line)[3:]
        try:
            run([*arguments, *size])
        except SystemExit as ended:
            assert ended.code == 0, capsys.readouterr().err
    assert "no problem found" in capsys.readouterr().out


def test_its_python_writes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = [line for line in LINES if re.match(r"import |from |gallery|told|write_features", line)]
    assert len(code) == 6
    exec("\n".join(code), {})
    assert FeaturesFile("mine.safetensors").ids_of("query") == ["val/1", "val/2"]


@pytest.mark.parametrize("line", [line for line in LINES if "--config embedders/" in line])
def test_its_configs_are_parsed(line: str, runs: Path, tmp_path: Path) -> None:
    root = make_cirr(tmp_path / "cirr")
    settings = build_parser().parse_args([*shlex.split(line)[3:], f"--data.root={root}"])
    assert settings.embedder.class_path and settings.name == settings.name.lower()


@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_an_embedder_is_built_without_its_weights(name: str, runs: Path, tmp_path: Path) -> None:
    parser, root = build_parser(), make_cirr(tmp_path / "cirr")
    first = [f"--config={CONFIGS / 'embedders' / other}.yaml" for other in ("bge_vl_base", name)]
    given = ["validate", "--data=CIRR", f"--data.root={root}", *(first if name == "reranked" else first[1:])]
    objects = build(parser, parser.parse_args(given)).objects
    text = (CONFIGS / "embedders" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "Not run here" in text and all(len(line) <= 120 for line in text.splitlines())
    if name == "reranked":
        assert isinstance(objects["reranking"], Reranking)
        return
    assert isinstance(objects["embedder"], Embedder)
    told = objects["embedder"].licence
    assert (
        told
        and ("ublished call" in text or "Published:" in text or "messages are those" in text)
        and objects["name"] != "embedder"
    )


def test_the_flags_that_it_names_exist() -> None:
    text = (PROJECT / DOCUMENT).read_text(encoding="utf-8")
    known = {action.dest for action in build_parser()._actions}
    named = set(re.findall(r"`--([a-z_]+)[ .]", text)) - {"runner", "model"}
    assert named and named <= known
