"""docs/training.md and docs/writing_studies.md: commands are parsed, and what is listed is what there is."""

import re
import shlex
from pathlib import Path

import open_clip
import pytest
import yaml

from contextcir.encoders.pretrained import source_of
from contextcir.phrases.stanza_models import StanzaModels
from experiments.run import main
from experiments.study.file import KEYS, read_plan
from experiments.study.results import FEWEST, interval, student_quantile
from tests.commands.test_readme import commands
from tests.helpers.paths import CONFIGS, PROJECT, STUDIES

TRAINING = (PROJECT / "docs" / "training.md").read_text(encoding="utf-8")
STUDYING = (PROJECT / "docs" / "writing_studies.md").read_text(encoding="utf-8")
RUN = re.compile(r"-m experiments\.run fit (.*)$")
RUNS = [found[1].rstrip("'") for line in commands("docs/training.md", "") if (found := RUN.search(line))]
FLAGS_OF_TABLE = [flag for flag in re.findall(r"`(--(?:data|model)\.[^` ]+=[^` ]+)`", TRAINING) if "my_" not in flag]


def parsed(flags: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *flags, "--print_config"])
    told = capsys.readouterr()
    assert ended.value.code in (0, None), told.err
    return yaml.safe_load(told.out)


def test_its_file_is_a_config_and_takes_all_flags_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "x")
    (tmp_path / "my_run.yaml").write_text(re.search(r"```yaml\n(# my_run.*?)```", TRAINING, re.DOTALL)[1])
    lines = [shlex.split(line) for line in RUNS if "my_run.yaml" in line]
    assert len(lines) >= 4 and len(FLAGS_OF_TABLE) >= 8
    given = [word for line in lines for word in line if not word.startswith("--config=")]
    settings = parsed([*given, *(f for f in FLAGS_OF_TABLE if f.partition("=")[2] not in ("null", "Sum", "N"))], capsys)
    assert settings["name"] == "my_run" and settings["model"]["concept"]["init_args"]["weight"] == 0.02
    assert settings["trainer"]["strategy"]["init_args"]["process_group_backend"] == "cpu:gloo,cuda:nccl"


def test_the_overlays_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "x")
    (line,) = [line for line in RUNS if "cirr_h14" in line]
    settings = parsed(shlex.split(line), capsys)
    assert settings["data"]["init_args"]["batch_size"] == 1024 and settings["model"]["encoding"] is not None


def test_the_weights_to_fetch_are_those_of_the_configs() -> None:
    code = dict(re.findall(r"\('(ViT[^']+)', '([^']+)'\)", TRAINING))
    fetched = {line.split()[-1] for line in commands("docs/training.md", "hf download ")}
    wanted, repositories = {}, set()
    for name in ("cirr_b32", "cirr_l14", "cirr_h14"):
        given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["backbone"]["init_args"]
        wanted[given["model"]] = given["pretrained"]
        source_of(given["model"], given["model"], given["pretrained"], None)
        repositories.add(open_clip.get_pretrained_cfg(given["model"], given["pretrained"])["hf_hub"].rstrip("/"))
    assert code == wanted and fetched == repositories


def test_the_download_of_stanza_is_that_of_its_error() -> None:
    told = str(StanzaModels("/nowhere", "default")._missing("no list", "why"))
    command = re.search(r'python -c "import stanza; (.*?)"', told)[1].replace("'DIR'", "'/scratch/me/stanza'")
    assert command in TRAINING


def test_every_variable_that_a_config_reads_is_listed() -> None:
    read = {name for file in CONFIGS.rglob("*.yaml") for name in re.findall(r"oc\.env:(CIR_\w+)", file.read_text())}
    assert len(read) >= 5 and {name for name in read if f"`{name}`" not in TRAINING} == set()


def test_the_study_of_the_page_is_the_smallest_one() -> None:
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", STUDYING, re.DOTALL)[1])
    assert shown == yaml.safe_load((STUDIES / "smoke.yaml").read_text())
    assert {key for key in KEYS if f"| `{key}` |" not in STUDYING} == set()
    assert read_plan("smoke").runs == 4


def test_the_factors_of_the_intervals() -> None:
    rows = {int(n): float(factor) for n, factor in re.findall(r"^\| (\d+) \| ([\d.]+) \|$", STUDYING, re.MULTILINE)}
    assert set(rows) == {2, 3, 5, 10} and min(n for n in rows if n >= FEWEST) == 3
    for count, factor in rows.items():
        assert round(student_quantile(count - 1) / count**0.5, 2) == factor
        assert (interval([float(n) for n in range(count)]).half is None) == (count < FEWEST)
