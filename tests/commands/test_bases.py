"""Configs name the configs below them; these come first, once, and the parser does not see the key."""

from pathlib import Path

import pytest
import yaml

from contextcir.errors import InputError
from experiments.arguments import Parser
from experiments.names import config_files, with_paths
from tests.helpers.paths import CONFIGS


def order(*args: str) -> list[str]:
    return [file.relative_to(CONFIGS).with_suffix("").as_posix() for file in config_files(with_paths(args))]


@pytest.mark.parametrize(
    ("given", "applied"),
    [
        ("scenes", "base scenes"),
        ("base scenes", "base scenes"),
        ("base cirr_b32", "base cirr_b32"),
        ("cirr_l14", "base cirr_b32 cirr_l14"),
        ("base cirr_l14", "base cirr_b32 cirr_l14"),
        ("base cirr_b32 cirr_l14", "base cirr_b32 cirr_l14"),
        ("cirr_b32 circo", "base cirr_b32 circo"),
        ("cirr_h14 aggregated_h14", "base cirr_b32 cirr_h14 aggregated_h14"),
        ("base cirr_b32 aggregated_h14", "base cirr_b32 aggregated_h14"),
        ("overlays/bf16 scenes", "base overlays/bf16 scenes"),
        ("scenes base", "scenes base"),  # as the user wants it
    ],
)
def test_bases_come_first_and_once(given: str, applied: str) -> None:
    args = ["fit", *(f"--config={name}" for name in given.split()), "--seed=1"]
    assert order(*args) == applied.split()
    assert with_paths(with_paths(args)) == with_paths(args)
    assert order("fit", *(word for name in given.split() for word in ("--config", name))) == applied.split()


def test_flags_and_a_subcommand_keep_their_places() -> None:
    words = with_paths(["--config=scenes", "fit", "--a=1", "--config", "scenes", "--b=2"])
    base, scenes = (str(CONFIGS / f"{name}.yaml") for name in ("base", "scenes"))
    expected = [
        f"--config={base}",
        f"--config={scenes}",
        "fit",
        "--a=1",
        f"--config={base}",
        "--config",
        scenes,
        "--b=2",
    ]
    assert words == expected
    assert with_paths(["fit", "--config={base: scenes}"])[1:3] == [f"--config={base}", f"--config={scenes}"]


def test_every_experiment_names_its_base() -> None:
    for file in CONFIGS.glob("*.yaml"):
        assert ("base" in yaml.safe_load(file.read_text())) == (file.stem != "base"), file


def test_a_path_begins_at_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("base: [below/b.yaml, scenes]\nn: 1")
    Path("below/b.yaml").write_text("base: ../c.yaml\nn: 2\nm: 2")
    Path("c.yaml").write_text("n: 3\nm: 3\nk: 3")
    Path("scenes.yaml").mkdir()  # a folder is no config
    names = [file.stem for file in config_files(with_paths(["--config=a.yaml"]))]
    assert names == ["c", "b", "base", "scenes", "a"]
    Path("a.yaml").write_text("base: below/b.yaml\nn: 1")
    parser = Parser()
    parser.add_argument("--config", action="config")
    for key in "nmk":
        parser.add_argument(f"--{key}", type=int)
    settings = parser.parse_args(["--config", "a.yaml"])
    assert (settings.n, settings.m, settings.k) == (1, 2, 3) and "base" not in settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: own.yaml", "own.yaml -> own.yaml"),
        ("base: other.yaml", "own.yaml -> other.yaml -> own.yaml"),
        ("base: scene", "close to it: scenes"),
        ("base: ''", "must name a config, got ''"),
        ("base: 3", "must name a config, got 3"),
        ("base: [base, null]", "must name a config, got None"),
        ("base: {a: b}", "must name a config"),
        ("base: .", "a file, or one of"),
        ("base: bad.yaml", "bad.yaml: not valid YAML"),
    ],
)
def test_a_base_that_cannot_be_is_told_with_its_file(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("base: own.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError) as raised:
        with_paths([f"--config={tmp_path / 'own.yaml'}"])
    assert words in str(raised.value) and ".yaml: " in str(raised.value)
