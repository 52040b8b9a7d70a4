"""The Composition Gap beside every result, against ranks written out by hand."""

import json
import math
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from callbacks import RecallTable
from callbacks.results import add_results, make_sheets
from tests.helpers import toy_evaluation
from tests.helpers.toy_evaluation import QUERIES, ToyData, image_embeddings, reference, text_embeddings

ROWS = ("composed", "image_only", "text_only", "sum")


class ToyModule(toy_evaluation.ToyModule):
    """With a backbone that says what it was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone.model_name, self.backbone.pretrained = "Toy-B-4", "toy400m"


def naive_gains(chosen: range) -> dict[str, float]:
    """The mean over queries of 1 / log2(1 + rank of the target), in percent, by row."""
    images, texts = image_embeddings(), text_embeddings()
    gains = dict.fromkeys(ROWS, 0.0)
    for query in chosen:
        image, text = images[reference(query)], texts[query]
        vectors = (image + 3 * text, image, text, image / image.norm() + text / text.norm())
        for row, vector in zip(ROWS, vectors, strict=True):
            scores = [float(vector @ other / vector.norm() / other.norm()) for other in images]
            own = scores[reference(query) + 1]
            others = [score for place, score in enumerate(scores) if place != reference(query)]
            gains[row] += 100 / math.log2(1 + sum(score >= own for score in others)) / len(chosen)
    return gains


def test_a_validation_states_its_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [RecallTable()]
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "max_epochs": 1}
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=callbacks, **options)
    trainer.validate(ToyModule(), datamodule=ToyData(), verbose=False)
    entry = json.loads((tmp_path / "metrics.json").read_text())["validate"]["val"]
    expected = naive_gains(range(QUERIES))
    assert len({round(value, 3) for value in expected.values()}) == 4
    assert entry["composition"]["ndcg"] == pytest.approx(expected, abs=1e-3)
    gap = 1 - max(expected["image_only"], expected["text_only"]) / expected["composed"]
    assert entry["composition"]["gap"] == pytest.approx(gap, abs=1e-4)
    for stratum, queries in (("concepts_1", range(3)), ("concepts_2", range(3, 7))):
        part = naive_gains(queries)
        found = 1 - max(part["image_only"], part["text_only"]) / part["composed"]
        assert entry["composition"]["strata"][stratum] == pytest.approx(found, abs=1e-4)
    line = f"Composition Gap {gap:.3f} (nDCG of the whole ranking: composed {expected['composed']:.2f}, image only"
    assert line in capsys.readouterr().out and line in (tmp_path / "recall_table.md").read_text()
    assert entry["protocol"]["version"] == 1


def entry(gap: float | None, rows: tuple[str, ...] = ROWS) -> dict:
    return {
        "protocol": {"benchmark": "toy", "strata": {"few": 2}, "queries": 3, "gallery": 4},
        "seen": {"queries": 3, "gallery": 4},
        "rows": {row: {"recall_at_1": 1.0, "recall_at_1_few": 2.0} for row in rows},
        "composition": {"ndcg": dict.fromkeys(rows, 0.0), "gap": gap, "strata": {"few": gap}},
    }


def test_a_gap_that_is_not_defined_is_said_to_be_so(tmp_path: Path) -> None:
    whole, groups = make_sheets("validate", "val", entry(None))
    assert whole.note.startswith("Composition Gap not defined (nDCG") and groups.rows[0][-1] == "not defined"
    assert groups.header[-1] == "gap"
    assert make_sheets("validate", "val", entry(-0.25))[1].rows[0][-1] == "-0.250"
    add_results(tmp_path, "validate", "val", entry(None))
    assert json.loads((tmp_path / "metrics.json").read_text())["validate"]["val"]["composition"]["gap"] is None


def test_there_is_no_gap_without_the_rows_of_both_sides() -> None:
    whole, _ = make_sheets("validate", "val", entry(0.5, ("composed", "image_only")))
    assert whole.note == ""
    old = entry(0.5)
    del old["composition"]
    whole, groups = make_sheets("validate", "val", old)
    assert whole.note == "" and groups.header == ["group", "queries", "R@1"], "results of earlier versions"
