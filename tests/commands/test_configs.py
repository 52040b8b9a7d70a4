"""Every benchmark's config runs, on a small copy of the benchmark in its official layout."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import yaml

from contextcir.phrases.bank import PhraseBank
from data_modules.patterncom import ATTRIBUTES
from experiments.convert import main as convert
from experiments.phrases.__main__ import main as parse_phrases
from experiments.run import main
from tests.helpers.make_convertible import make_hotel, make_rewritten
from tests.helpers.make_data import make_circo, make_cirr
from tests.helpers.make_fashioniq import make_fashioniq
from tests.helpers.make_genecis import make_genecis
from tests.helpers.make_lasco import make_lasco
from tests.helpers.make_newer import make_icir, make_patterncom, make_pinpoint
from tests.helpers.paths import CONFIGS

BASE, CIRR = "base", "cirr_b32"
# The records of these sets have no phrases, and the loss of base.yaml needs some.
PARSED = ["--data.phrases=ParsedPhrases", "--data.phrases.parser=tests.helpers.word_parser.WordParser"]
pytestmark = pytest.mark.usefixtures("runs")


def flags(*names: str) -> list[str]:
    return [f"--config={CONFIGS / name}.yaml" for name in names]


def results(runs: Path, name: str) -> dict:
    return json.loads((runs / name / "id1" / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["cirr_b32", "cirr_l14", "cirr_h14"])
def test_the_cirr_experiments_run_on_its_layout(name: str, small: list[str], tmp_path: Path) -> None:
    make_cirr(tmp_path / "cirr")
    configs = flags(BASE, CIRR, *([] if name == CIRR else [name]))
    few = [f"--data.root={tmp_path / 'cirr'}", "--data.batch_size=2", "--trainer.fast_dev_run=1"]
    cli = main(["fit", *configs, *small, *few, *PARSED])
    assert cli.trainer.global_step == 1
    assert cli.config.fit.name == name


def test_the_circo_experiment_runs_on_its_layout(small: list[str], tmp_path: Path, runs: Path) -> None:
    make_circo(tmp_path / "circo")
    main(["validate", *flags(BASE, CIRR, "circo"), *small, f"--data.root={tmp_path / 'circo'}"])
    assert "map_at_5" in results(runs, "circo")["validate"]["val"]["rows"]["composed"]


@pytest.mark.parametrize(("name", "make"), [("fashioniq", make_fashioniq), ("lasco", make_lasco)])
def test_other_training_sets_run_on_their_layout(
    name: str, make: object, small: list[str], tmp_path: Path, runs: Path
) -> None:
    make(tmp_path / name)
    few = ["--data.batch_size=2", "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    main(["fit", *flags(BASE, CIRR, name), *small, f"--data.root={tmp_path / name}", *few, *PARSED])
    written = results(runs, name)["fit_end"]
    split = {"fashioniq": "val_dress", "lasco": "val"}[name]
    assert "recall_at_10" in written[split]["rows"]["composed"]
    if name == "fashioniq":
        assert list((runs / name / "id1" / "checkpoints").glob("*.ckpt"))  # chosen by the mean of the categories


def test_the_genecis_experiment_runs_on_its_layout(small: list[str], tmp_path: Path, runs: Path) -> None:
    make_genecis(tmp_path / "genecis")
    main(["validate", *flags(BASE, CIRR, "genecis"), *small, f"--data.root={tmp_path / 'genecis'}"])
    assert "subset_recall_at_1" in results(runs, "genecis")["validate"]["focus_object"]["rows"]["composed"]


@pytest.mark.parametrize(
    ("name", "make", "split", "figure"),
    [
        ("icir", make_icir, "test", "subset_average_precision_worst"),
        ("pinpoint", make_pinpoint, "test", "neg_recall_at_10"),
        ("patterncom", partial(make_patterncom, attributes=ATTRIBUTES), "patterncom", "average_precision"),
    ],
)
def test_newer_benchmarks_are_scored_on_their_layout(
    name: str, make: Any, split: str, figure: str, small: list[str], tmp_path: Path, runs: Path
) -> None:
    if name == "pinpoint":
        pytest.importorskip("pyarrow")
    make(tmp_path / name)
    main(["validate", *flags(BASE, CIRR, name), *small, f"--data.root={tmp_path / name}"])
    entry = results(runs, name)["validate"][split]
    assert figure in entry["rows"]["composed"] and entry["protocol"]["version"] == 1
    assert {"composed", "image_only", "text_only", "sum"} == entry["composition"]["ndcg"].keys()
    main(["predict", *flags(BASE, CIRR, name), *small, f"--data.root={tmp_path / name}"])
    assert len(list((runs / name / "id1" / "ranking").glob("*.jsonl"))) == (6 if name == "patterncom" else 1)


def test_the_aggregated_experiment_trains_on_four_sets(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIR_DATA", str(tmp_path))
    cirr, hotel = make_cirr(tmp_path / "CIRR"), make_hotel(tmp_path / "hotel_cir")
    make_rewritten(cirr)
    make_lasco(tmp_path / "LaSCo")
    for name, root, out in (("cirr_rewritten", cirr, "rewritten.train.jsonl"), ("hotel", hotel, "train.jsonl")):
        convert([name, f"--root={root}", "--split=train", f"--out={root / out}"])
    few = ["--data.batch_size=2", "--trainer.fast_dev_run=1"]
    cli = main(["fit", *flags(BASE, CIRR, "cirr_h14", "aggregated_h14"), *small, *few, *PARSED])
    assert cli.trainer.global_step == 1
    assert len(cli.datamodule.read_training().records) == 6 + 2 + 5 + 3
    assert cli.datamodule.protocols("val")[0].benchmark == "cirr"


def test_the_phrase_bank_overlay_gives_phrases_to_cirr(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, listed = tmp_path / "phrases.bank", tmp_path / "captions.jsonl"
    monkeypatch.setenv("CIR_PHRASES", str(bank))
    experiment = [*flags(BASE, CIRR, "overlays/phrase_bank"), f"--data.root={make_cirr(tmp_path / 'cirr')}"]
    parse_phrases(["list", f"--out={listed}", *experiment])
    parse_phrases([f"--captions={listed}", "--parser=tests.helpers.word_parser.WordParser", f"--out={bank}"])
    assert len(PhraseBank(bank)) == 3  # "Show 2 bottles instead", 3 and 4, in both splits
    cli = main(["fit", *experiment, *small, "--data.batch_size=2", "--trainer.fast_dev_run=1"])
    batch = next(iter(cli.datamodule.train_dataloader()))
    assert batch.query.phrases.owner.tolist() == [0, 1] and batch.query.phrases.spans.tolist() == [[5, 14]] * 2
    assert cli.trainer.callback_metrics["train_concept"] > 0


def test_every_config_is_run_by_a_test() -> None:
    run = {"base", "scenes", "demo", "cirr_b32", "cirr_l14", "cirr_h14", "circo", "fashioniq", "lasco", "genecis"}
    run |= {"icir", "pinpoint", "patterncom"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == run | {"aggregated_h14"}
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml")} == {"configs", "overlays", "synthesis", "embedders"}


def test_the_full_size_models_of_the_cirr_experiments_exist() -> None:
    for name in ("cirr_b32", "cirr_l14", "cirr_h14"):
        settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["backbone"]["init_args"]
        assert settings["pretrained"] in open_clip.list_pretrained_tags_by_model(settings["model"])
        quick = open_clip.get_pretrained_cfg(settings["model"], settings["pretrained"]).get("quick_gelu", False)
        assert quick == open_clip.get_model_config(settings["model"]).get("quick_gelu", False)
