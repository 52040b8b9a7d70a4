"""The score of a synthesis on scenes: full marks for the exact describer, and faults at the rate that they are made."""

import json
import re
from pathlib import Path

import pytest

from contextcir.synthesis.records import Instruction, Pair, Verdict
from contextcir.synthesis.store import Shard, shard_path
from data_modules.scenes.describer import SceneGraphs
from data_modules.scenes.truth import Judgement
from data_modules.scenes.writer import Size, write_scenes
from experiments.quality.faulty_describer import FaultyGraphs, Rates
from experiments.quality.synthesis_precision import Judged, main, markdown, score, synthesis_precision, wilson
from experiments.synthesize import main as synthesize
from tests.helpers.scenes_flags import CONFIGS

FAULTY = "experiments.quality.faulty_describer.FaultyDescriber"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(folder, 0, Size(3, 40, 1), workers=1)
    return folder


def precision(root: Path, folder: Path, *flags: str) -> dict[tuple[str, str], dict]:
    """Run a synthesis on the pairs of val, and return its scores by texts and changes."""
    listed = json.loads((root / "captions" / "cap.scenes.val.json").read_text())
    sides = [[f"img_raw/val/{record[name]}.jpg" for name in ("reference", "target_hard")] for record in listed]
    folder.mkdir()
    (folder / "pairs.json").write_text(json.dumps([{"reference": a, "target": b} for a, b in sides]))
    config = [f"--config={CONFIGS / 'synthesis' / 'scenes.yaml'}", f"--pairs.file={folder / 'pairs.json'}"]
    run = folder / "run"
    synthesize([*config, f"--images={root}", *flags, f"--model.root={root}", f"--out={run}", "--filters=[]"])
    synthesis_precision(run, root, json=folder / "scores.json")
    return {(row["texts"], row["changes"]): row for row in json.loads((folder / "scores.json").read_text())}


@pytest.mark.slow
def test_the_exact_describer_is_always_right(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = precision(root, tmp_path / "exact")
    for row in scores.values():
        assert row["n"] == row["true"] == row["complete"] == row["right"] and row["unread"] == row["idle"] == 0
    assert scores["all", "all"] == {**scores["kept", "all"], "texts": "all"} and scores["all", "all"]["n"] == 160
    assert {changes for _, changes in scores} == {"1", "2", "3", "4", "all"}
    assert "| all | all | 160 | 100.0 [97.7, 100.0] | " in capsys.readouterr().out


@pytest.mark.parametrize(("fault", "rate"), [("swapped", 0.3), ("invented", 0.5), ("left_out", 0.2)])
def test_as_many_texts_are_wrong_as_targets_have_faults(fault: str, rate: float, root: Path, tmp_path: Path) -> None:
    scores = precision(root, tmp_path / "faulty", f"--model={FAULTY}", f"--model.rates.{fault}={rate}")
    exact, faulty = SceneGraphs(root), FaultyGraphs(root, Rates(**{fault: rate}), 0)
    listed = json.loads((root / "captions" / "cap.scenes.val.json").read_text())
    targets = [record["target_hard"] + ".jpg" for record in listed]
    made = sum(exact.find(t).seen_as != faulty.find(f"img_raw/val/{t}").seen_as for t in targets)
    row = scores["all", "all"]
    # a fault can undo the one change that a pair has: then there is no text
    assert row["n"] - row["right"] == made - (len(targets) - row["n"])
    low, high = wilson(made, len(targets))
    assert low < rate < high


def test_rates_that_can_not_be_are_told() -> None:
    with pytest.raises(ValueError, match=r"\(model\.rates\.swapped\)"):
        Rates(swapped=-0.1)
    with pytest.raises(ValueError, match=r"\(model\.rates\)"):
        Rates(swapped=0.6, invented=0.6)


def test_texts_are_counted_before_and_after_the_filters() -> None:
    def judged(concepts: int, judgement: Judgement, reason: str | None) -> Judged:
        return Judged(Instruction("k", "k", "", concepts), judgement, reason)

    texts = [
        judged(1, Judgement(1), None),
        judged(1, Judgement(1, false=1, missing=1), "inconsistent"),
        judged(2, Judgement(2, missing=1, idle=1), None),
        judged(7, Judgement(unread="what"), ""),
    ]
    scores = score(texts)
    numbers = {key: (row.n, row.true, row.complete, row.right) for key, row in scores.items()}
    assert numbers == {
        ("all", "1"): (2, 1, 1, 1),
        ("all", "2"): (1, 1, 0, 0),
        ("all", "5 or more"): (1, 0, 0, 0),
        ("all", "all"): (4, 2, 1, 1),
        ("kept", "1"): (1, 1, 1, 1),
        ("kept", "2"): (1, 1, 0, 0),
        ("kept", "all"): (2, 2, 1, 1),
    }
    lines = markdown(scores).splitlines()
    assert len(lines) == 2 + len(scores) and len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| kept | all | 2 | 100.0 [34.2, 100.0] | 50.0 [9.5, 90.5] |")


def test_the_interval_is_that_of_the_score_test() -> None:
    # Wilson's limits are where |share - p| is 1.96 standard errors of p: solved here by bisection
    def limit(hits: int, n: int, low: float, high: float) -> float:
        for _ in range(200):
            p = (low + high) / 2
            outside = abs(hits / n - p) > 1.959963984540054 * (p * (1 - p) / n) ** 0.5
            low, high = (p, high) if outside == (p < hits / n) else (low, p)
        return low

    for hits, n in ((1, 10), (50, 60), (7, 8)):
        low, high = wilson(hits, n)
        assert low == pytest.approx(limit(hits, n, 0, hits / n)) and high == pytest.approx(limit(hits, n, hits / n, 1))
    assert wilson(0, 5)[0] == 0 and wilson(5, 5)[1] == 1 and wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("what", ["run", "root"])
def test_a_missing_folder_is_an_error_of_one_line(
    what: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = Pair("p", "img_raw/val/val-0-0.jpg", "img_raw/val/val-0-1.jpg")
    records = {"pairs": pair, "instruct": Instruction("p#0", "p", "remove the star", 1), "filter": Verdict("p#0", None)}
    for stage, record in records.items():
        with Shard(shard_path(tmp_path / "run", stage, 0, 1)) as shard:
            shard.append([record.to_json()])
    flags = {"run": tmp_path / "run", "root": root, what: tmp_path / "none"}
    monkeypatch.setattr("sys.argv", ["synthesis_precision", *(f"--{name}={folder}" for name, folder in flags.items())])
    with pytest.raises(SystemExit):
        main()
    assert re.fullmatch(r"error: [^\n]*none[^\n]*\n", capsys.readouterr().err)
