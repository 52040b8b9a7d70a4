"""The demo of synthetic triplets: manifests of equal size, fits on each and on both, and tables."""

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from data_modules import Manifest, Mixture, Scenes
from data_modules.scenes.writer import Size, write_scenes
from experiments.run import main as run
from experiments.synth_demo import (
    CONFIGS,
    FAULTY,
    TITLES,
    TRAIN,
    count_records,
    hand_made,
    main,
    study_data,
    write_records,
)
from tests.commands.test_cli import BASE, SCENES
from tests.helpers.paths import PROJECT, STUDIES

SIZE = Size(train_references=6, references=2, shared_references=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


def test_hand_made_triplets_are_so_many_of_the_benchmark(root: Path, tmp_path: Path) -> None:
    write_records(hand_made(root, 20), tmp_path / "hand.jsonl")
    assert count_records(tmp_path / "hand.jsonl") == 20
    found = Manifest(root / TRAIN, file=str(tmp_path / "hand.jsonl")).read_training().records
    listed = {(r.reference, r.target, r.caption): r for r in Scenes(root).read_training().records}
    of: dict[str, int] = {}
    for record in found:
        names = [Path(path).stem for path in (record.reference, record.target)]
        same = listed[names[0], names[1], record.caption]
        assert (record.phrases, record.image_set, record.image_size) == (same.phrases, same.image_set, same.image_size)
        assert (root / TRAIN / record.reference).is_file() and (root / TRAIN / record.target).is_file()
        of[names[0]] = of.get(names[0], 0) + 1
    everything = [r.reference for r in listed.values()]
    assert [count == everything.count(name) for name, count in of.items()].count(False) <= 1
    assert hand_made(root, 20) == hand_made(root, 20) != hand_made(root, 20, seed=1)


def test_too_few_hand_made_triplets_are_told(root: Path) -> None:
    with pytest.raises(ValueError, match=r"fewer than the 1,000 synthetic ones.*size\.train_references"):
        hand_made(root, 1000)
    with pytest.raises(FileNotFoundError, match="no file none"):
        count_records(Path("none.jsonl"))


@pytest.fixture
def frozen(root: Path, tmp_path: Path, small: list[str]) -> list[str]:
    """Flags of a fit, in which the second manifest has other captions for images of the first."""
    records = hand_made(root, 24)
    write_records(records, tmp_path / "hand.jsonl")
    others = [
        {k: r[k] for k in ("reference", "target")}
        | {"caption": "remove the star", "phrases": [{"start": 7, "end": 15}]}
        for r in records[:16]
    ]
    write_records(others, tmp_path / "synthetic.jsonl")
    data = study_data(root, SIZE, tmp_path / "hand.jsonl", root, tmp_path / "synthetic.jsonl")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    configs = [STUDIES / "overlays" / "trial.yaml", STUDIES / "overlays" / "frozen.yaml", tmp_path / "data.yaml"]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.batch_size=8"]
    text = ["--model.backbone.trainable_text_blocks=1", f"--data.features={tmp_path / 'features'}"]
    return [BASE, SCENES, *(f"--config={path}" for path in configs), *small, *steps, *text]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("weights", "captions"), [([0, 1, 0], {"hand_made": 24}), ([0, 0, 1], {"synthetic": 16}), ([0, 1, 1], None)]
)
def test_fits_differ_in_what_they_are_trained_on_alone(
    weights: list[int], captions: dict[str, int] | None, frozen: list[str]
) -> None:
    cli = run(["fit", *frozen, f"--data.weights={weights}"])
    data = cli.datamodule
    assert isinstance(data, Mixture) and cli.model.backbone.stored is not None
    loader = data.train_dataloader()
    batches = list(loader)
    assert all(batch.target.shape == (8, 2) for batch in batches)  # rows, no pixels
    records = loader.dataset.queries.records
    sets = [record.reference.partition(":")[0] for record in records]
    assert captions is None or {name: sets.count(name) for name in sets} == captions
    assert {protocol.benchmark for protocol in data.protocols("val")} == {"scenes"}
    assert cli.trainer.callback_metrics["val_recall_at_1"] >= 0
    if captions is None:  # an image of both sets is one image, in whichever table it is
        store = loader.dataset.queries.images
        name = records[0].reference.partition(":")[2]
        assert store.index(f"hand_made:{name}") == store.index(f"synthetic:{name}")
        assert {"hand_made", "synthetic"} == set(sets)


def test_a_study_that_fails_ends_the_demo_with_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def made(run: Path, scenes: Path, most: int, configs: Sequence[str]) -> None:
        write = run / "manifest"
        write.mkdir(parents=True)
        write_records(hand_made(scenes, 8), write / "train.jsonl")

    monkeypatch.setattr("experiments.synth_demo.make_triplets", made)
    monkeypatch.setattr("experiments.synth_demo.precision", lambda out, scenes: "a table")
    (tmp_path / "bad.yaml").write_text("title: none\n")
    unlabelled = tmp_path / "unlabelled"
    write_scenes(unlabelled, 1, Size(2, 1, 1), workers=1)
    sizes = [f"--size.{name}={value}" for name, value in vars(SIZE).items()]
    folders = [f"--out={tmp_path / 'out'}", f"--root={root}", f"--unlabelled={unlabelled}"]
    with pytest.raises(SystemExit):
        main([*folders, *sizes, "--unlabelled_references=2", f"--study={tmp_path / 'bad.yaml'}"])
    printed = capfd.readouterr().err
    assert "configs must list" in printed
    assert printed.splitlines()[-1].startswith("error: experiments.study ended with status 1")
    assert count_records(tmp_path / "out" / "hand_made.jsonl") == 8


def smoke_flags() -> list[str]:
    """The flags of `make synth-demo-smoke`."""
    # A make around this test has others print their folders, and hands on its flags: both would count as flags here.
    alone = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "FLAGS")
    }
    command = ["make", "--dry-run", "--no-print-directory", "synth-demo-smoke"]
    shown = subprocess.run(command, cwd=PROJECT, env=alone, capture_output=True, text=True, check=True)
    _, _, flags = shown.stdout.replace("\\\n", " ").partition("-m experiments.synth_demo ")
    assert "--study=" in flags
    return shlex.split(flags)


@pytest.mark.slow  # two fits, each in a process of its own
@pytest.mark.timeout(900)
def test_the_demo_goes_from_images_to_tables(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(STUDIES.parents[1])
    for package in ("spacy", "faiss"):
        pytest.importorskip(package, reason="needs the packages of synthesis")
    folders = [f"--{name}={tmp_path / name}" for name in ("out", "root", "unlabelled")]
    sizes = [f"--size.{name}={value}" for name, value in vars(SIZE).items()]
    model = [f"--model.backbone.model=local-dir:{clip_folder}", "--model.backbone.trainable_text_blocks=1"]
    model += [f"--data.features={tmp_path / 'features'}", "--trainer.precision=32-true"]
    call = [*smoke_flags(), *folders, *sizes, "--unlabelled_references=4", "--triplets=40", "--jobs=2", *model]
    main([*call, f"--publish={tmp_path / 'docs'}"])
    text = (tmp_path / "docs" / "synthesis_smoke.md").read_text()
    assert "2 of 2 runs are done" in text and "| both - hand_made |" in text and "data.yaml" in text
    assert "experiments.study experiments/studies/synthesis_smoke.yaml " in text
    table = (tmp_path / "docs" / "synthesis_smoke_precision.md").read_text()
    exact, _, faulty = table.partition("## Describer with faults")
    assert "| all | all | 40 | 100.0 [91.2, 100.0] | 100.0 [91.2, 100.0] | 100.0" in exact
    assert "| all | all | 40 |" in faulty and "| all | all | 40 | 100.0" not in faulty
    assert count_records(tmp_path / "out" / "hand_made.jsonl") == 40
    records = (tmp_path / "out" / "synthesis" / "manifest" / "train.jsonl").read_text().splitlines()
    images = {json.loads(line)[side] for line in records for side in ("reference", "target")}
    assert all((tmp_path / "unlabelled" / TRAIN / image).is_file() for image in images)


def test_the_title_of_the_faulty_run_says_how_many_faults_it_has() -> None:
    config = yaml.safe_load((CONFIGS / FAULTY[-1]).read_text())
    rates = config["model"]["init_args"]["rates"]
    assert TITLES["faulty"].endswith(f"in {round(100 * sum(rates.values()))} % of the targets")
