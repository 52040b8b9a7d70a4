"""The measurement of the consistency filter: its statistics against naive ones, and a run on a few scenes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.scenes.writer import Size, write_scenes
from experiments.quality.consistency import consistency, read_cases, separation
from experiments.quality.synthesis_precision import wilson
from tests.helpers.make_data import make_cirr
from tests.helpers.scenes_flags import draw

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=9)


@given(SCORES, SCORES)
def test_separation_is_how_often_the_true_text_is_ahead(true: list[int], wrong: list[int]) -> None:
    wins = [1.0 if one > other else 0.5 if one == other else 0.0 for one in true for other in wrong]
    assert separation(true, wrong) == pytest.approx(100 * sum(wins) / len(wins))


@given(st.integers(1, 500), st.data())
def test_an_interval_has_the_shares_whose_score_test_accepts(total: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, total))
    low, high = wilson(passed, total)
    assert -1e-9 <= low <= passed / total + 1e-9 and passed / total - 1e-9 <= high <= 1 + 1e-9
    for bound in (low, high):  # at its ends the score test is at its limit
        assert abs(passed / total - bound) == pytest.approx(
            1.959963984540054 * (max(bound * (1 - bound), 0) / total) ** 0.5, abs=1e-6
        )


def test_cases_have_a_wrong_text_of_either_kind(tmp_path: Path) -> None:
    root = draw(tmp_path / "scenes")
    cases = read_cases(root, "val", 100, 0)
    assert len(cases) == 8 and cases == read_cases(root, "val", 100, 0)
    assert len(read_cases(root, "val", 3, 0)) == 3
    listed = json.loads((root / "captions" / "cap.scenes.val.json").read_text())
    owner = {record["caption"]: record["reference"] for record in listed}
    for case, record in zip(cases, listed, strict=True):
        name = Path(case.pair.reference).stem
        assert (case.true, name, case.concepts) == (record["caption"], record["reference"], record["concepts"])
        assert owner[case.other] != name and (case.same is None or owner[case.same] == name) and case.same != case.true
        assert len(case.pair.image_set) == 6 and case.pair.target in case.pair.image_set


def test_hidden_targets_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(split\)"):
        read_cases(make_cirr(tmp_path), "test1", 5, 0)


def test_it_runs(tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "scenes"
    write_scenes(root, 0, Size(train_references=1, references=8, shared_references=1), workers=1)
    consistency(root, model=f"local-dir:{clip_folder}", json=tmp_path / "r.json")
    report, printed = json.loads((tmp_path / "r.json").read_text()), capsys.readouterr().out
    assert report["texts"] == {"true": 32, "other pair": 32, "same reference": 32}
    kept = [report[f"kept at margin {margin}, slack 2.0"]["true"] for margin in (-0.1, 0.0, 0.2)]
    assert kept == sorted(kept, reverse=True) and printed.count("| 0.05 | none |") == 1
