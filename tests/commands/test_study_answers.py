"""The answers, costs and curves of a report, from runs that are written here."""

import csv
import random
from pathlib import Path

import pytest

from contextcir.errors import InputError
from contextcir.files import write_json
from experiments.study.file import read_plan
from experiments.study.plan import Pair, Plan
from experiments.study.queries import QueryFigures, bootstrap_difference
from experiments.study.report import write_report
from experiments.study.results import RESULT, Choices
from experiments.study.training import curves, late_rise

STUDY = """
title: Which composed query wins
configs: [base.yaml]
variants:
  sum: {}
  clause_sum: {x: 1}
  published: {x: 2}
  edited: {x: 3}
  composer: {x: 4}
seeds: [1, 2, 3]
reference: sum
metrics:
  val: {R@1: val.composed.recall_at_1, Rsub@1: val.composed.subset_recall_at_1}
  val and test: {R@1: val+test.composed.recall_at_1, "* concepts": val+test.composed.recall_at_1_concepts_*}
compare:
  figures:
    R@1: val+test.composed.recall_at_1
    "R@1, 3 and 4 concepts": val+test.composed.recall_at_1_concepts_3+4
    on val: val.composed.recall_at_1
    before the wrong object: val+test.target_before_wrong_object
  pairs:
    - {question: "Does composing beat adding clauses?", of: composer, minus: clause_sum}
    - {question: "Does encoding clauses alone help?", of: clause_sum, minus: sum}
    - {question: "Is the published fusion ahead of the sum?", of: published, minus: sum}
"""
SKILL = {"sum": 0.35, "clause_sum": 0.42, "published": 0.30, "edited": 0.41, "composer": 0.47}
REFERENCES = 60
CHOICES = Choices("", (), {}, dict.fromkeys(SKILL, 0))


def outcomes(split: str, skill: float, draw: random.Random) -> dict:
    easy = [draw.uniform(-0.2, 0.2) for _ in range(REFERENCES)]
    ranks = [1 if draw.random() < skill + easy[query // 4] else 3 for query in range(4 * REFERENCES)]
    return {
        "queries": list(range(4 * REFERENCES)),
        "references": [f"{split}-{query // 4}-0" for query in range(4 * REFERENCES)],
        "strata": {f"concepts_{k + 1}": list(range(k, 4 * REFERENCES, 4)) for k in range(4)},
        "rows": {"composed": {"rank": ranks, "subset_rank": ranks}},
        "target_before": {"wrong object": [rank == 1 for rank in ranks]},
    }


def figures(entry: dict) -> dict:
    value = 100 * sum(rank == 1 for rank in entry["rows"]["composed"]["rank"]) / (4 * REFERENCES)
    row = {"recall_at_1": value, "subset_recall_at_1": value} | {
        f"recall_at_1_concepts_{k}": value for k in range(1, 5)
    }
    return {"protocol": {"strata": dict.fromkeys(entry["strata"], REFERENCES)}, "rows": {"composed": row}}


def finish(plan: Plan, root: Path) -> None:
    draw = random.Random(0)
    for trial in plan.trials(CHOICES.chosen):
        skill, pace = SKILL[trial.variant], {"sum": 0.1, "clause_sum": 0.12}.get(trial.variant, 0.3)
        content = {split: outcomes(split, skill, draw) for split in ("val", "test")}
        found = {"fit_end": {"val": figures(content["val"])}, "test": {"test": figures(content["test"])}}
        validations = [
            {
                "step": step,
                "cpu_seconds": pace * step,
                "figures": {"val": {"recall_at_1": 100 * skill * (1 - 2 ** (-step / 250)) + draw.gauss(0, 0.5)}},
            }
            for step in range(100, 1201, 100)
        ]
        training = {"steps": 1200, "cpu_seconds": 1200 * pace, "cpu_seconds_per_step": pace, "validations": validations}
        about = {"finished": "2026-11-23T10:00:00+00:00", "machine": "m", "threads": 1, "seconds": 400.0}
        made = {"versions": {"python": "3.11"}, "commit": "abc", "code": "def"}
        result = {"flags": trial.flags, "subcommands": trial.subcommands, "metrics": found, "training": training}
        write_json(root / trial.name / RESULT, result | about | made)
        write_json(root / trial.name / "run" / "queries.json", content)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "it.yaml").write_text(STUDY)
    return read_plan(tmp_path / "it.yaml")


def test_the_report_begins_with_the_answers(plan: Plan, tmp_path: Path) -> None:
    finish(plan, tmp_path)
    files = write_report(plan, tmp_path, CHOICES, [])
    assert [file.name for file in files] == ["it.md", "it.csv", "it-answers.png", "it-curves.png", "it.png"]
    text = files[0].read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Answers", "## Cost", "## During training", "## val", "## val and test"]
    runs = {
        variant: {seed: QueryFigures(content) for seed in plan.seeds for content in [_content(tmp_path, variant, seed)]}
        for variant in SKILL
    }
    expected = bootstrap_difference(runs["composer"], runs["clause_sum"], "val+test.composed.recall_at_1")
    assert f"| Does composing beat adding clauses? | composer - clause_sum | {expected.text()} |" in text
    assert "480 queries of 120 references" in text and "all seeds (3)" in text
    assert "| sum | 1,200 | 120 | 100 |" in text
    assert "|  | R@1 | 1 concepts | 2 concepts | 3 concepts | 4 concepts |" in text
    rows = [row for row in csv.DictReader(files[1].open()) if row["section"] == "Answers"]
    assert len(rows) == 3 * 4 and rows[0]["variant"] == "composer - clause_sum" and rows[0]["runs"] == "3"
    assert float(rows[0]["low"]) == pytest.approx(expected.low, abs=1e-3)
    by_hand = []
    for seed in plan.seeds:
        ours, theirs = (
            [
                rank == 1
                for split in ("val", "test")
                for rank in _content(tmp_path, v, seed)[split]["rows"]["composed"]["rank"]
            ]
            for v in ("composer", "clause_sum")
        )
        by_hand.append(100 * (sum(ours) - sum(theirs)) / len(ours))
    assert float(rows[0]["difference"]) == pytest.approx(sum(by_hand) / 3, abs=1e-3)


def _content(root: Path, variant: str, seed: int) -> dict:
    import json

    return json.loads((root / "study" / variant / f"seed-{seed}" / "run" / "queries.json").read_text())


def test_answers_on_test_wait_until_all_runs_are_done(plan: Plan, tmp_path: Path) -> None:
    finish(plan, tmp_path)
    (tmp_path / "study" / "edited" / "seed-3" / RESULT).unlink()
    text = write_report(plan, tmp_path, CHOICES, [])[0].read_text()
    assert "| question | difference | on val |" in text and "test.composed" not in text
    assert "## val and test" not in text and "| R@1 |" in text.split("## val\n")[1]


def test_runs_without_outcomes_by_query_have_no_answers(plan: Plan, tmp_path: Path) -> None:
    finish(plan, tmp_path)
    for file in tmp_path.rglob("queries.json"):
        file.unlink()
    plan = Plan(**(plan.__dict__ | {"metrics": {"": {"R@1": "val.composed.recall_at_1"}}}))
    text = write_report(plan, tmp_path, CHOICES, [])[0].read_text()
    assert "## Answers" not in text and "| composer - sum |" in text


def test_a_curve_has_the_steps_of_all_seeds_and_tells_its_late_rise() -> None:
    def record(*values: float) -> dict:
        return {
            "validations": [
                {"step": 100 * (n + 1), "cpu_seconds": 9.0 * n, "figures": {"val": {"recall_at_1": value}}}
                for n, value in enumerate(values)
            ]
        }

    found = curves(
        {"a": {1: record(10, 20, 24, 25), 2: record(10, 22, 26, 29)}, "b": {1: record(3)}}, "val.composed.recall_at_1"
    )
    assert [(point.step, point.seconds, point.mean) for point in found["a"]][-1] == (400, 27.0, 27.0)
    assert late_rise(found["a"]).mean == pytest.approx(2.0) and late_rise(found["b"]) is None
    shorter = curves({"a": {1: record(1, 2), 2: record(1)}}, "val.composed.recall_at_1")
    assert [point.step for point in shorter["a"]] == [100]
    assert curves({"a": {1: record(1, 2)}}, "val.composed.recall_at_5") == {}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("of: published", "of: publisht", "compare.pairs.2.of is 'publisht', which is none of sum"),
        ("minus: sum}", "versus: sum}", "compare.pairs.1 must have question, of and minus"),
        ("on val: val.composed.recall_at_1", "on val: val.composed.map", "expected a figure by query such as"),
        ("compare:\n  figures:", "compare:\n  figuers:", "compare must have figures and pairs, got figuers, pairs"),
        (
            "compare:",
            "curve: val.sum.recall_at_1\ncompare:",
            "curve is 'val.sum.recall_at_1', expected a figure of the",
        ),
        (
            'question: "Is the published fusion ahead of the sum?"',
            "question: ''",
            "compare.pairs.2.question must be a text",
        ),
    ],
)
def test_mistakes_name_the_key(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in STUDY
    (tmp_path / "it.yaml").write_text(STUDY.replace(old, new, 1))
    with pytest.raises(InputError, match=words):
        read_plan(tmp_path / "it.yaml")


def test_pairs_are_read(plan: Plan) -> None:
    assert plan.pairs[1] == Pair("Does encoding clauses alone help?", "clause_sum", "sum")
