"""The recall table in a real Trainer, against similarities written out by hand."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks import RecallTable
from callbacks.results import add_results
from contextcir.evaluation.composition import CompositionMetric
from tests.helpers import toy_evaluation
from tests.helpers.toy_evaluation import (
    GALLERY,
    QUERIES,
    ToyData,
    image_embeddings,
    make_protocol,
    reference,
    text_embeddings,
)

ROWS = ["composed", "image_only", "text_only", "sum"]


class ToyModule(toy_evaluation.ToyModule):
    """With a backbone that says what it was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone.model_name, self.backbone.pretrained = "Toy-B-4", "toy400m"


def make_trainer(folder: Path, **options: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "default_root_dir": folder,
        "logger": CSVLogger(folder, name="csv", version="0"),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "callbacks": [RecallTable()],
    }
    return Trainer(**(defaults | options))


def saved(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def naive_recall_at_1() -> dict[str, float]:
    """Percent of queries whose target is nearest, of all images but the reference, by row."""
    images, texts = image_embeddings(), text_embeddings()
    found = dict.fromkeys(ROWS, 0)
    for query in range(QUERIES):
        image, text = images[reference(query)], texts[query]
        vectors = {
            "composed": image + 3 * text,
            "image_only": image,
            "text_only": text,
            "sum": image / image.norm() + text / text.norm(),
        }
        for row, vector in vectors.items():
            scores = [float(vector @ other / vector.norm() / other.norm()) for other in images]
            scores[reference(query)] = -2.0
            found[row] += scores.index(max(scores)) == reference(query) + 1
    return {row: 100 * count / QUERIES for row, count in found.items()}


@pytest.mark.parametrize("before", [True, False])
def test_fit_saves_the_table_before_and_after_training_and_prints_the_first_on_request(
    tmp_path: Path, capsys, before: bool
) -> None:
    module, callbacks = ToyModule(), [RecallTable(show_before_training=before)]
    make_trainer(tmp_path, num_sanity_val_steps=-1, callbacks=callbacks).fit(module, datamodule=ToyData())
    results = saved(tmp_path)
    assert {phase: list(splits) for phase, splits in results.items()} == {
        "fit_start": ["val", "hard"],
        "fit_end": ["val", "hard"],
    }
    expected = naive_recall_at_1()
    assert len(set(expected.values())) > 2, "the rows must differ for this test to tell them apart"
    for splits in results.values():
        for split, entry in splits.items():
            assert entry["protocol"] == make_protocol(split).describe()
            assert entry["seen"] == {"queries": QUERIES, "gallery": GALLERY}
            assert list(entry["rows"]) == ROWS
            computed = {row: figures["recall_at_1"] for row, figures in entry["rows"].items()}
            assert computed == pytest.approx(expected, abs=1e-3)
    assert [results[phase]["val"]["step"] for phase in results] == [0, 4]
    # One pass over both protocols before training and one after each of two epochs: baselines encode nothing.
    assert module.encoded_images == 3 * 2 * (QUERIES + GALLERY)

    printed = capsys.readouterr().out
    for words in (
        "toy hard, after training",
        "image only",
        "Rsub@1",
        "mAP@5",
        "concepts 2",
    ):
        assert words in printed
    assert ("toy val, before training" in printed) == before
    table = (tmp_path / "recall_table.md").read_text()
    assert f"| sum | {expected['sum']:.2f} |" in table
    assert table.count("| query | R@1 | R@5 | Rsub@1 | mAP@5 |") == 4
    assert table.count("| concepts 2 | 4 |") == 4


def test_baselines_are_logged_at_every_validation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(ToyModule(), datamodule=ToyData())
    expected = naive_recall_at_1()
    for row in ROWS[1:]:
        assert trainer.callback_metrics[f"val_{row}_recall_at_1"].item() == pytest.approx(expected[row], abs=1e-3)
        assert f"hard_{row}_subset_recall_at_1" in trainer.callback_metrics
    assert not any("composed" in name for name in trainer.callback_metrics), "the module logs the composed query"


def test_a_truncated_sanity_check_gives_no_table_and_says_why_once(tmp_path: Path, caplog) -> None:
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, num_sanity_val_steps=1).fit(ToyModule(), datamodule=ToyData())
    assert list(saved(tmp_path)) == ["fit_end"]
    assert caplog.text.count("set trainer.num_sanity_val_steps to -1") == 1


def test_validate_and_test_add_to_what_is_there(tmp_path: Path) -> None:
    add_results(tmp_path, "test", "test", {"pointing_game": 12.5})
    make_trainer(tmp_path).validate(ToyModule(), datamodule=ToyData(), verbose=False)
    make_trainer(tmp_path).test(ToyModule(), datamodule=ToyData(), verbose=False)
    results = saved(tmp_path)
    assert {phase: list(splits) for phase, splits in results.items()} == {"test": ["test"], "validate": ["val", "hard"]}
    assert results["test"]["test"]["pointing_game"] == 12.5
    assert results["test"]["test"]["rows"] == results["validate"]["val"]["rows"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "metrics.json", "recall_table.md"]


def test_the_table_takes_the_place_of_lightning_s_own(tmp_path: Path, capsys) -> None:
    trainer = make_trainer(tmp_path)
    trainer.test(ToyModule(), datamodule=ToyData())
    printed = capsys.readouterr().out
    assert "toy test, test" in printed and "Test metric" not in printed
    assert "test_sum_recall_at_1" in trainer.callback_metrics and "test_sum_recall_at_1" not in printed


def test_the_gallery_is_gathered_and_scored_once_for_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = []
    once = CompositionMetric.gallery
    monkeypatch.setattr(CompositionMetric, "gallery", lambda metric: gathered.append(metric) or once(metric))
    make_trainer(tmp_path).validate(ToyModule(), datamodule=ToyData(), verbose=False)
    assert [metric.protocol.split for metric in gathered] == ["val", "hard"]


def test_a_partial_evaluation_is_noticed_in_the_table(tmp_path: Path, capsys) -> None:
    with pytest.warns(UserWarning, match="saw 3 of 7 queries and 4 of 11 gallery images"):
        make_trainer(tmp_path, limit_val_batches=1).validate(ToyModule(), datamodule=ToyData(), verbose=False)
    assert saved(tmp_path)["validate"]["val"]["seen"] == {"queries": 3, "gallery": 4}
    assert "3 of 7 queries x 4 of 11 gallery images" in capsys.readouterr().out


def test_hidden_labels_give_no_table(tmp_path: Path) -> None:
    make_trainer(tmp_path).validate(ToyModule(), datamodule=ToyData(labelled=False), verbose=False)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("content", ["{", "[1]", '{"test": 3}'])
def test_a_foreign_result_file_is_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.json: holds something else"):
        add_results(tmp_path, "test", "test", {})
    assert (tmp_path / "metrics.json").read_text() == content


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.skipif(platform.system() == "Darwin", reason="forked ranks are flaky on macOS")
def test_several_ranks_save_the_same_figures_as_one(tmp_path: Path, devices: int) -> None:
    alone, ranks = tmp_path / "alone", tmp_path / "ranks"
    make_trainer(alone).validate(ToyModule(), datamodule=ToyData(), verbose=False)
    trainer = make_trainer(ranks, strategy="ddp_fork", devices=devices)
    trainer.validate(ToyModule(), datamodule=ToyData(), verbose=False)
    assert saved(ranks) == saved(alone)


@pytest.mark.parametrize(("step", "told"), [(0, ["fit_start"]), (24, [])])
def test_a_run_that_goes_on_keeps_its_figures_from_before_training(
    step: int, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Checking:
        sanity_checking, global_step = True, step

    table, published = RecallTable(), []
    monkeypatch.setattr(table, "_compute", lambda *_: {})
    monkeypatch.setattr(table, "_publish", lambda trainer, phase, results, **_: published.append(phase))
    table.on_validation_epoch_end(Checking(), None)
    assert published == told
