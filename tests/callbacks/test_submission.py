"""Submission files out of a real Trainer, and out of the command line."""

import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

import contextcir.evaluation.nearest
from callbacks import RecallTable, SubmissionFiles
from contextcir.evaluation.metrics import RecallAt
from contextcir.evaluation.protocol import Protocol
from experiments.run import main as run
from experiments.submission import main as submission
from tests.helpers import tiny
from tests.helpers.make_data import make_circo, make_cirr
from tests.helpers.paths import CONFIGS
from tests.helpers.toy_evaluation import (
    GALLERY,
    QUERIES,
    ToyData,
    ToyModule,
    image_embeddings,
    make_protocol,
    reference,
    text_embeddings,
)


class Predicting(ToyModule):
    """Predicts as it validates."""

    predict_step = ToyModule.validation_step


class Servers(ToyData):
    """The toy data as a CIRR test split and as a CIRCO one."""

    def protocols(self, stage: str) -> list[Protocol]:
        if stage != "predict":
            return super().protocols(stage)
        toy = make_protocol("test1", labelled=False)
        numbers = tuple(str(500 + number) for number in range(GALLERY))
        circo = replace(toy, benchmark="circo", split="test", gallery=numbers, subsets=None, metrics=RecallAt.at(1, 5))
        return [replace(toy, benchmark="cirr"), replace(circo, exclude_reference=False)]

    def predict_dataloader(self) -> list[DataLoader]:
        return self.val_dataloader()


class NoServer(Servers):
    """The toy data under its own name, and as CIRCO."""

    def protocols(self, stage: str) -> list[Protocol]:
        return [make_protocol("test"), super().protocols(stage)[1]]


class Incomplete(Servers):
    """A data module that was allowed to leave out an image."""

    def missing_images(self, split: str) -> int:
        return int(split == "test1")


def make_trainer(folder: Path, **options: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": folder,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [SubmissionFiles(), RecallTable()],
    }
    return Trainer(**(defaults | options))


def predict(folder: Path, data: ToyData, **options: Any) -> dict[str, str]:
    """Predict, and return the files by name."""
    make_trainer(folder, **options).predict(Predicting(), datamodule=data)
    return {path.name: path.read_text() for path in sorted((folder / "submission").glob("*"))}


def nearest(query: int, pool: list[int]) -> list[int]:
    """The gallery images of ``pool`` by their cosine to a query, one by one."""
    images = image_embeddings()
    vector = images[reference(query)] + 3 * text_embeddings()[query]
    cosine = [float(vector @ image / vector.norm() / image.norm()) for image in images]
    return sorted(pool, key=lambda image: -cosine[image])


def test_predict_writes_what_is_nearest(tmp_path: Path) -> None:
    files = {name: json.loads(text) for name, text in predict(tmp_path, Servers()).items()}
    assert list(files) == ["circo_test.json", "cirr_test1_recall.json", "cirr_test1_recall_subset.json"]
    recall, subset = files["cirr_test1_recall.json"], files["cirr_test1_recall_subset.json"]
    assert {key: files[name].pop(key) for name in files for key in ("version", "metric") if key in files[name]}
    assert list(recall) == list(subset) == list(files["circo_test.json"]) == [str(100 + n) for n in range(QUERIES)]
    for query in range(QUERIES):
        own, key = reference(query), str(100 + query)
        others = [image for image in range(GALLERY) if image != own]
        assert recall[key] == [f"image-{image}" for image in nearest(query, others)]
        assert subset[key] == [f"image-{image}" for image in nearest(query, [own + 1, own + 2, own + 3])]
        assert files["circo_test.json"][key] == [500 + image for image in nearest(query, [*others, own])]
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.skipif(platform.system() == "Darwin", reason="forked ranks are flaky on macOS")
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_write_the_files_of_one(tmp_path: Path, ranks: int) -> None:
    alone = predict(tmp_path / "alone", Servers())
    assert predict(tmp_path / "ranks", Servers(), strategy="ddp_fork", devices=ranks) == alone
    assert len(alone) == 3


def test_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "circo_test.json").write_text("old")
    assert predict(tmp_path, Servers())["circo_test.json"].startswith('{"100":[5')


def test_the_features_of_all_batches_are_not_collected(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    assert trainer.predict(Predicting(), datamodule=Servers(), return_predictions=True) is None
    assert trainer.predict_loop._predictions == []


def test_a_partial_prediction_is_not_written(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cirr_test1: saw 3 of 7 queries and 4 of 11 gallery images: no submission"):
        assert predict(tmp_path, Servers(), limit_predict_batches=1) == {}


def test_a_benchmark_without_a_server_gets_a_ranking(tmp_path: Path) -> None:
    assert list(predict(tmp_path, NoServer())) == ["circo_test.json"]
    (file,) = (tmp_path / "ranking").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert file.name == "toy_test.jsonl" and [line["query"] for line in lines] == [100 + n for n in range(QUERIES)]
    for query, line in enumerate(lines):
        pool = [image for image in range(GALLERY) if image != reference(query)]  # the protocol excludes it
        assert line["images"] == [f"image-{image}" for image in nearest(query, pool)]
        assert line["scores"] == sorted(line["scores"], reverse=True) and len(line["scores"]) == len(pool)


def test_missing_images_leave_no_file(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cirr test1: no submission file will be written, as 1 of its images are miss"):
        assert list(predict(tmp_path, Incomplete())) == ["circo_test.json"]
    assert (tmp_path / "ranking" / "cirr_test1.jsonl").exists()


def test_no_file_that_would_be_rejected_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reversed_lists(*args: Any) -> list[list[int]]:
        return [[*row[:-1], row[0]] for row in contextcir.evaluation.nearest.ranked_lists(*args)]

    monkeypatch.setattr("callbacks.submission.ranked_lists", reversed_lists)
    with pytest.raises(ValueError, match="cirr_test1: the submission file would be rejected: query 100: lists image"):
        predict(tmp_path, Servers())
    assert not (tmp_path / "submission").exists()


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags that make an experiment small."""
    monkeypatch.setenv("CIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_RUN_ID", "id1")
    folder = tiny.clip_folder(tmp_path / "clip")
    return [
        *(f"--config={CONFIGS / name}.yaml" for name in ("base", "cirr_b32")),
        f"--model.backbone.model=local-dir:{folder}",
        "--model.backbone.pretrained=null",
        "--data.num_workers=0",
        "--data.eval_batch_size=5",
        "--trainer.precision=32-true",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.logger=false",
    ]


def make_benchmark(name: str, root: Path) -> list[str]:
    """Write a small benchmark; return the flags that it needs."""
    if name == "cirr":
        make_cirr(root, sets=9)
        return []
    make_circo(root, size=60)
    return [f"--config={CONFIGS / 'circo.yaml'}"]


@pytest.mark.parametrize(
    ("name", "hidden", "kinds"), [("cirr", "test1", ("recall", "recall_subset")), ("circo", "test", ("",))]
)
def test_the_command_line_writes_files_that_pass_and_score_as_the_model(
    name: str, hidden: str, kinds: tuple[str, ...], flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    flags = [*flags[:2], *make_benchmark(name, root), *flags[2:], f"--data.root={root}", "--name=x"]
    splits = f"--data.test_splits=[{hidden},val]"
    torch.manual_seed(0)
    run(["predict", *flags, splits, "--trainer.callbacks=SubmissionFiles", "--seed_everything=1"])
    folder = tmp_path / "runs" / "x" / "id1"
    for split in (hidden, "val"):
        files = [str(folder / "submission" / f"{'_'.join(filter(None, (name, split, kind)))}.json") for kind in kinds]
        capsys.readouterr()
        submission(["validate", name, *files, f"--annotations={root}", f"--split={split}"])
        printed = capsys.readouterr().out
        assert printed.count("valid ") == len(files) and "not checked" not in printed
    assert len(list((folder / "submission").iterdir())) == 2 * len(kinds)

    submission(["score", name, *files, f"--annotations={root}", "--split=val"])
    scored = json.loads(capsys.readouterr().out)["metrics"]
    run(["validate", *flags, "--trainer.callbacks=RecallTable", "--seed_everything=1"])
    measured = json.loads((folder / "metrics.json").read_text())["validate"]["val"]["rows"]["composed"]
    shared = scored.keys() & measured.keys()
    assert {key: scored[key] for key in shared} == pytest.approx({key: measured[key] for key in shared}, abs=1e-3)
    assert len(shared) >= 7
