"""What a result states beside its figures: what made them, what they are a mean of, and how they look as tables."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.results import Sheet, make_sheets
from contextcir.embeddings import state_digest
from contextcir.evaluation.metrics import MeanOf, RecallAt, SoftRecallAt, SoftSubsetRecallAt
from contextcir.evaluation.protocol import Protocol
from contextcir.training.module import ContextCIR
from data_modules import CIRR
from data_modules.base import Evaluation
from tests.callbacks.test_recall import ROWS, ToyModule, make_trainer, saved
from tests.helpers import tiny
from tests.helpers.make_data import make_cirr
from tests.helpers.toy_evaluation import GALLERY, QUERIES, ToyData, make_protocol


def test_an_evaluation_without_a_checkpoint_states_a_hash_of_the_weights(tmp_path: Path) -> None:
    module = ToyModule()
    make_trainer(tmp_path).validate(module, datamodule=ToyData(), verbose=False)
    for entry in saved(tmp_path)["validate"].values():
        assert (entry["model"], entry["pretrained"], entry["checkpoint"]) == ("Toy-B-4", "toy400m", None)
        assert entry["weights"] == state_digest(module.state_dict()) and entry["missing_images"] == 0


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_evaluation_of_a_checkpoint_states_the_file_and_the_hash_of_its_content(tmp_path: Path, stage: str) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(ToyModule(), datamodule=ToyData())
    file = tmp_path / "model.ckpt"
    trainer.save_checkpoint(file)
    trainer = make_trainer(tmp_path)
    getattr(trainer, stage)(ToyModule(), datamodule=ToyData(), ckpt_path=str(file), verbose=False)
    results = saved(tmp_path)
    for entry in results[stage].values():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert entry["checkpoint"] == {"file": str(file), "sha256": digest} and entry["weights"] is None
    assert all(entry["checkpoint"] is None and entry["weights"] for entry in results["fit_end"].values())


def test_a_resumed_fit_is_not_taken_for_its_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(ToyModule(), datamodule=ToyData())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    make_trainer(tmp_path, max_epochs=3).fit(ToyModule(), datamodule=ToyData(), ckpt_path=tmp_path / "model.ckpt")
    entry = saved(tmp_path)["fit_end"]["val"]
    assert entry["step"] == 6 and entry["checkpoint"] is None and entry["weights"]


def test_the_hash_of_weights_depends_on_every_bit_and_name_and_not_on_the_order() -> None:
    state = {"a": torch.ones(2, 3), "b": torch.tensor(1.0), "c": torch.ones(3, 2, dtype=torch.bfloat16).T}
    digest = state_digest(state)
    assert len(digest) == 64 and digest == state_digest(dict(reversed(state.items())))
    changed = [
        state | {"a": torch.ones(3, 2)},
        state | {"a": torch.ones(2, 3).double()},
        state | {"a": torch.ones(2, 3).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(1 + 2**-23))},
        {"a": state["a"], "b2": state["b"], "c": state["c"]},
    ]
    assert len({digest, *(state_digest(other) for other in changed)}) == 5


def test_the_backbone_knows_what_it_was_made_from() -> None:
    backbone = ContextCIR(tiny.backbone()).backbone
    assert isinstance(backbone.model_name, str) and backbone.model_name and backbone.pretrained is None


class Categories(ToyData):
    """Three protocols that are averaged as ``val``, and one that is not; some images of the second are missing."""

    def protocols(self, stage: str) -> list[Protocol]:
        return [*(category(f"val_{name}") for name in ("dress", "shirt", "toptee")), make_protocol("other")]

    def missing_images(self, split: str) -> int:
        return 2 * (split == "val_shirt")

    def val_dataloader(self) -> list:
        """As many loaders as protocols; of the queries of each category other ones are left out."""
        gallery, _ = self.test_dataloader()
        loaders = []
        for left_out in (3, 6, 9, 0):
            indices = [index for index in range(QUERIES) if left_out == 0 or index % (left_out // 3 + 1)]
            loaders += [gallery, torch.utils.data.DataLoader(indices, batch_size=3, collate_fn=self.collate)]
        return loaders


def category(split: str) -> Protocol:
    return replace(
        make_protocol(split),
        metrics=(*make_protocol(split).metrics, MeanOf("mean_recall", RecallAt(1), RecallAt(5))),
        averaged_as="val",
        headline="mean_recall",
    )


@pytest.mark.filterwarnings("ignore:.*the figures are not comparable")
def test_means_over_protocols_are_saved_printed_and_logged_for_all_rows(tmp_path: Path, capsys) -> None:
    trainer = make_trainer(tmp_path)
    trainer.validate(ToyModule(), datamodule=Categories(), verbose=False)
    results = saved(tmp_path)["validate"]
    categories = ["val_dress", "val_shirt", "val_toptee"]
    assert list(results) == [*categories, "other", "val"]
    mean = results["val"]
    assert (mean["mean_of"], mean["missing_images"], list(mean["rows"])) == (categories, 2, ROWS)
    assert [results[split]["missing_images"] for split in (*categories, "other")] == [0, 2, 0, 0]
    names = ["recall_at_1", "recall_at_5", "subset_recall_at_1", "map_at_5", "mean_recall"]
    for row in ROWS:
        assert list(mean["rows"][row]) == names
        for name in names:
            parts = [results[split]["rows"][row][name] for split in categories]
            assert mean["rows"][row][name] == pytest.approx(sum(parts) / 3, abs=1e-3)
        assert mean["rows"][row]["mean_recall"] == pytest.approx(
            (mean["rows"][row]["recall_at_1"] + mean["rows"][row]["recall_at_5"]) / 2, abs=1e-3
        )
    assert len({results[split]["rows"]["text_only"]["mean_recall"] for split in categories}) > 1
    described = mean["protocol"]
    assert (described["benchmark"], described["split"], described["headline"]) == ("toy", "val", "mean_recall")
    assert described["exclude_reference"] is True and described["recall_at"] == [1, 5] and described["strata"] == {}
    assert mean["weights"] == results["other"]["weights"]
    for row in ROWS[1:]:
        logged = trainer.callback_metrics[f"val_{row}_mean_recall"].item()
        assert logged == pytest.approx(mean["rows"][row]["mean_recall"], abs=1e-3)
        assert f"val_shirt_{row}_mean_recall" in trainer.callback_metrics
    printed = capsys.readouterr().out
    assert "toy val, validate (mean of val_dress, val_shirt, val_toptee; percent)" in printed
    assert "gallery images, 2 missing; percent" in printed and "mean recall" in printed


def test_soft_scores_have_a_table_of_their_own() -> None:
    protocol = make_protocol("val")
    soft_metrics = (*SoftRecallAt.at(1, 5), SoftSubsetRecallAt(1))
    protocol = replace(protocol, graded_targets=({},) * QUERIES, metrics=(*protocol.metrics, *soft_metrics))
    figures = dict.fromkeys(protocol.metric_names(), 10.0)
    entry = {
        "protocol": protocol.describe(),
        "seen": {"queries": QUERIES, "gallery": GALLERY},
        "rows": {"composed": figures},
    }
    hard, soft = make_sheets("validate", "val", entry)
    assert hard.header == ["query", "R@1", "R@5", "Rsub@1", "mAP@5"]
    assert soft.header == ["query", "R@1", "R@5", "Rsub@1"] and "soft targets" in soft.title


def test_sheets_are_valid_markdown() -> None:
    sheet = Sheet("Title", ["query", "R@1"], [["sum", "1.00"]])
    assert sheet.markdown() == "**Title**\n\n| query | R@1 |\n| --- | ---: |\n| sum | 1.00 |\n"


class Averaged(CIRR):
    """Splits that are averaged as ``all``."""

    def read_evaluation(self, split: str) -> Evaluation:
        evaluation = super().read_evaluation(split)
        return evaluation._replace(protocol=replace(evaluation.protocol, averaged_as="all"))


def test_checkpoints_can_be_chosen_by_a_mean_over_protocols(tmp_path: Path) -> None:
    root = make_cirr(tmp_path / "data", hidden=())
    data = Averaged(root, val_splits=("val", "test1"), batch_size=2, eval_batch_size=5, num_workers=0)
    keep = ModelCheckpoint(tmp_path / "kept", monitor="all_mean_recall", mode="max", auto_insert_metric_name=False)
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=1, callbacks=[keep], enable_checkpointing=True)
    trainer.fit(ContextCIR(tiny.backbone()), datamodule=data)
    figures = {name: value.item() for name, value in trainer.callback_metrics.items()}
    for name in data.protocols("val")[0].metric_names():
        assert figures[f"all_{name}"] == pytest.approx(
            (figures[f"val_{name}"] + figures[f"test1_{name}"]) / 2, abs=1e-3
        )
    assert 0 < figures["all_mean_recall"] < 100
    assert keep.best_model_score.item() == pytest.approx(figures["all_mean_recall"])


def test_what_can_not_be_averaged_is_told_before_anything_is_encoded(tmp_path: Path) -> None:
    class Clash(Averaged):
        def read_evaluation(self, split: str) -> Evaluation:
            evaluation = super().read_evaluation(split)
            return evaluation._replace(protocol=replace(evaluation.protocol, averaged_as="val"))

    data = Clash(make_cirr(tmp_path), num_workers=0)
    model = ContextCIR(tiny.backbone())
    model.evaluate = None  # not to be called
    with pytest.raises(ValueError, match="averaged_as is 'val', which is a split of the same stage"):
        make_trainer(tmp_path, callbacks=[]).validate(model, datamodule=data, verbose=False)
