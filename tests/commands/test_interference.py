"""Edits in company: what is asked is true of the pictures, the curve is what was counted, and the command runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.fusion import ClauseSum, Sum
from contextcir.training.module import ContextCIR
from data_modules.scenes.graph import Scene
from data_modules.scenes.truth import judge
from experiments.quality import interference as probe
from experiments.quality.company import KINDS, SIZES, draw_asked
from experiments.quality.interference import Outcome, compose_queries, curves, interference, measure
from tests.helpers import tiny


@pytest.mark.parametrize("number", range(15))
def test_a_text_is_true_of_the_target_and_of_no_wrong_picture(number: int) -> None:
    asked = draw_asked(3, number)
    assert asked.questions
    for question in asked.questions:
        judged = judge(question.caption, asked.reference, question.target)
        assert judged.true and judged.complete and judged.stated == question.size
        for wrong in question.wrong.values():
            found = judge(question.caption, asked.reference, wrong)
            assert not (found.true and found.complete)


@pytest.mark.parametrize("number", range(15))
def test_an_edit_has_the_same_words_in_every_company_and_a_clause_of_its_own(number: int) -> None:
    questions = draw_asked(3, number).questions
    for start in range(0, len(questions), len(SIZES)):
        alone, *others = questions[start : start + len(SIZES)]
        assert [question.size for question in (alone, *others)] == list(SIZES)
        words = alone.caption.removesuffix(".")
        for question in others:
            clauses = [question.caption[a:b] for a, b in question.clauses]
            assert len(clauses) == question.size and words in clauses
            rest = question.caption
            for clause in clauses:
                _, found, rest = rest.partition(clause)
                assert found
            assert set(question.wrong) == set(alone.wrong)
            assert all(any(a <= start and end <= b for a, b in question.clauses) for start, end in question.phrases)


OUTCOMES = st.builds(Outcome, st.integers(0, 4), st.sampled_from(SIZES), st.sampled_from(KINDS), st.booleans())


@settings(deadline=None, max_examples=30)
@given(st.lists(OUTCOMES, max_size=30))
def test_a_curve_holds_the_shares_that_were_counted(outcomes: list[Outcome]) -> None:
    found = curves(outcomes, draws=50)
    for kind in KINDS:
        for size in SIZES:
            right = [outcome.right for outcome in outcomes if (outcome.kind, outcome.size) == (kind, size)]
            cell = found[kind].cells[size]
            assert cell.n == len(right)
            assert cell.percent == (pytest.approx(100 * np.mean(right)) if right else None)
        first, last = found[kind].cells[SIZES[0]], found[kind].cells[SIZES[-1]]
        change = found[kind].change.percent
        assert change == (pytest.approx(last.percent - first.percent) if first.n and last.n else None)


def test_an_interval_is_that_of_references_and_not_of_single_cases() -> None:
    mixed = [Outcome(n, 1, KINDS[0], right) for n in range(20) for right in (True, False)]
    alike = [Outcome(n, 1, KINDS[0], n % 2 == 0) for n in range(20) for _ in range(2)]
    same, split = (curves(outcomes)[KINDS[0]].cells[1] for outcomes in (mixed, alike))
    assert same.percent == split.percent == 50
    assert (same.low, same.high) == (50, 50)
    assert split.low < 35 and split.high > 65


def model(fusion: type) -> ContextCIR:
    torch.manual_seed(0)
    return ContextCIR(tiny.backbone(), fusion=fusion).eval()


def test_clauses_reach_the_fusions_that_read_them() -> None:
    captions = ["make the red circle blue and remove the star"]
    given = (torch.randn(1, 3, 32, 32), captions, [[(5, 19)]])
    for fusion, reads in ((ClauseSum, True), (Sum, False)):
        whole, split = (compose_queries(model(fusion), *given, clauses) for clauses in (None, [[(0, 24), (29, 44)]]))
        assert torch.equal(whole, split) != reads


def test_the_ceiling_is_the_same_for_all_fusions_and_a_row_without_clauses_is_for_those_that_read_them() -> None:
    asked = [draw_asked(0, number) for number in range(2)]
    by_sum, by_clause = measure(model(Sum), asked), measure(model(ClauseSum), asked)
    assert set(by_sum) == {probe.COMPOSED, probe.TWIN}
    assert set(by_clause) == {probe.COMPOSED, probe.WITHOUT_CLAUSES, probe.TWIN}
    assert by_sum[probe.TWIN] == by_clause[probe.TWIN]
    cases = sum(len(question.wrong) for each in asked for question in each.questions)
    assert {len(outcomes) for outcomes in by_clause.values()} == {cases}


def test_an_embedding_that_knows_the_scene_is_always_right(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [draw_asked(0, number) for number in range(3)]

    class Numbered(probe.Pictures):
        places: ClassVar[dict[object, int]] = {}

        def embed(self, scenes: Sequence[Scene]) -> torch.Tensor:
            rows = [self.places.setdefault(scene.seen_as, len(self.places)) for scene in scenes]
            angle = torch.tensor(rows) / 500
            return torch.nn.functional.pad(torch.stack([angle.cos(), angle.sin()], dim=1), (0, 30))

    monkeypatch.setattr(probe, "Pictures", Numbered)
    outcomes = measure(model(Sum), asked)
    assert all(outcome.right for outcome in outcomes[probe.TWIN])
    assert not all(outcome.right for outcome in outcomes[probe.COMPOSED])


def test_the_command_prints_a_table_and_writes_every_cell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ContextCIR, "load_from_checkpoint", lambda *given, **options: model(ClauseSum))
    interference(Path("some.ckpt"), references=2, json=tmp_path / "figures.json")
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 2 + 3 * len(KINDS)
    report = json.loads((tmp_path / "figures.json").read_text())
    cell = report["curves"][probe.TWIN]["wrong value"]["cells"]["4"]
    assert cell["n"] > 0 and 0 <= cell["low"] <= cell["percent"] <= cell["high"] <= 100
