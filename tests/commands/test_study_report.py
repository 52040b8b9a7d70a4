"""What a study reports: which figures, pooled how, compared with what, and when test may be seen."""

import csv
import io
from pathlib import Path

import pytest

from contextcir.files import write_json
from experiments.study.__main__ import main, run_study
from experiments.study.file import read_plan
from experiments.study.plan import Plan, Trial
from experiments.study.report import collect, csv_text, write_report
from experiments.study.results import RESULT, Figures, choose

STUDY = """
title: A title
configs: [base.yaml]
variants: {plain: {}, better: {x: 1}}
seeds: [1, 2, 3]
reference: plain
tune: {metric: val.composed.recall_at_1, seeds: [9], settings: [{lr: 1}, {lr: 2}, {lr: 3}]}
metrics:
  On val: {R@1: val.composed.recall_at_1}
  On test: {"R@1, * concepts": test.composed.recall_at_1_concepts_*, 1 and 2: test.composed.recall_at_1_concepts_1+2}
"""
GROUPS = {"concepts_1": 100, "concepts_2": 300}


def entry(one: float, two: float, **more: float) -> dict:
    figures = {"recall_at_1": one, "recall_at_1_concepts_1": one, "recall_at_1_concepts_2": two}
    return {"protocol": {"strata": GROUPS}, "missing_images": 0, "rows": {"composed": figures, "sum": figures}, **more}


def metrics(one: float, two: float) -> dict:
    return {
        "fit_start": {"val": entry(99.0, 99.0)},
        "fit_end": {"val": entry(one, two, pointing_game=12.5)},
        "test": {"test": entry(one + 1, two)},
    }


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "it.yaml").write_text(STUDY)
    return read_plan(tmp_path / "it.yaml")


def finish(root: Path, trial: Trial, one: float, two: float = 0.0) -> None:
    found = metrics(one, two)
    if "test" not in trial.subcommands:
        del found["test"]
    result = {"flags": trial.flags, "subcommands": trial.subcommands, "metrics": found, "seconds": 1800.0}
    about = {"finished": "2026-11-23T10:00:00+00:00", "machine": "a processor, 2 cores", "threads": 1}
    made = {"versions": {"python": "3.11"}, "commit": "abc", "code": "def"}
    write_json(root / trial.name / RESULT, result | about | made)


def tuned(plan: Plan, root: Path) -> None:
    for trial in plan.tuning_trials():
        number = int(trial.name.split("/")[2].removeprefix("setting-"))
        finish(root, trial, {"plain": [1.0, 3.0, 3.0], "better": [5.0, 4.0, 2.0]}[trial.variant][number])


def run_all(plan: Plan, root: Path) -> list[Trial]:
    tuned(plan, root)
    trials = plan.trials(choose(plan, root).chosen)
    for trial in trials:
        gain = {1: 2.0, 2: 2.5, 3: 3.0}[trial.seed] if trial.variant == "better" else 0.0
        finish(root, trial, 10.0 * trial.seed + gain, 5.0)
    return trials


def test_figures_go_by_split_row_and_name_and_start_after_training() -> None:
    figures = Figures(metrics(10.0, 20.0))
    assert figures.get("val.composed.recall_at_1") == 10.0 and figures.get("test.sum.recall_at_1") == 11.0
    assert figures.get("val.pointing_game") == 12.5 and figures.get("val.missing_images") == 0
    assert figures.get("val.composed.recall_at_7") is None and figures.get("other.composed.recall_at_1") is None
    assert figures.names("test.composed.recall_at_1_concepts_*") == {
        "1": "test.composed.recall_at_1_concepts_1",
        "2": "test.composed.recall_at_1_concepts_2",
    }
    assert figures.names("val.composed.recall_*") == {"at_1": "val.composed.recall_at_1"}  # not by group
    assert figures.is_test("test.composed.recall_at_1") and not figures.is_test("val.composed.recall_at_1")


def test_pooled_groups_are_the_mean_over_their_queries() -> None:
    figures = Figures(metrics(10.0, 20.0))
    assert figures.get("val.composed.recall_at_1_concepts_1+2") == pytest.approx((100 * 10 + 300 * 20) / 400)
    assert figures.get("val.composed.recall_at_1_concepts_1+3") is None


def test_the_setting_of_the_highest_mean_is_chosen_the_first_of_equal_ones(plan: Plan, tmp_path: Path) -> None:
    assert choose(plan, tmp_path) is None
    tuned(plan, tmp_path)
    choices = choose(plan, tmp_path)
    assert choices.chosen == {"plain": 1, "better": 0}
    assert choices.means["better"] == [5.0, 4.0, 2.0]


def test_a_complete_study_reports_means_differences_and_what_made_them(plan: Plan, tmp_path: Path) -> None:
    run_all(plan, tmp_path)
    files = write_report(plan, tmp_path, choose(plan, tmp_path), ["python -m experiments.study it.yaml"])
    assert [file.name for file in files] == ["it.md", "it.csv", "it.png"]
    text = files[0].read_text()
    for words in (
        "# A title",
        "    python -m experiments.study it.yaml",
        "Seeds 1, 2, 3; settings chosen with 9. 12 runs, 6.0 h in all, threads of each: 1, on a processor",
        "Commit abc, code def.",
        "6 of 6 runs are done.",
        '| **plain** | **`{"lr": 2}`** | **3.00** |',
        '| better | `{"lr": 2}` | 4.00 |',
        "| plain | 20.00 ± 24.84 |",
        "| better - plain | **+2.50 ± 1.24** |",
        "## On test",
        "|  | R@1, 1 concepts | R@1, 2 concepts | 1 and 2 |",
    ):
        assert words in text, words
    assert files[2].read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader(io.StringIO(files[1].read_text())))
    row = next(row for row in rows if (row["section"], row["variant"]) == ("On val", "better"))
    assert (row["metric"], row["mean"], row["difference"], row["runs"]) == ("R@1", "22.5", "2.5", "3")
    assert row["values"] == "1:12 2:22.5 3:33"
    assert float(row["difference_half"]) == pytest.approx(4.302653 * 0.5 / 3**0.5, abs=1e-5)


def test_test_is_not_shown_before_all_runs_are_done(plan: Plan, tmp_path: Path) -> None:
    trials = run_all(plan, tmp_path)
    (tmp_path / trials[-1].name / RESULT).unlink()
    text = write_report(plan, tmp_path, choose(plan, tmp_path), [])[0].read_text()
    assert "5 of 6 runs are done. Figures of test are left out" in text
    assert "## On val" in text and "## On test" not in text and "concepts" not in text
    assert "| better - plain | +2.25 |" in text  # of the two seeds that both have: too few for an interval


def test_a_variant_without_a_figure_has_none_in_the_table(plan: Plan) -> None:
    some = Figures({"fit_end": {"val": {"rows": {"composed": {"recall_at_1": 1.0}}}}})
    other = Figures({"fit_end": {"val": {"rows": {"composed": {}}}}})
    tables = collect(plan, {"plain": {1: other}, "better": {1: some}}, complete=False)
    assert [table.title for table in tables] == ["On val"]
    assert tables[0].cells["plain"] == {} and tables[0].cells["better"]["R@1"].difference is None
    assert len(csv_text(tables).splitlines()) == 2


def test_a_metric_that_no_run_has_is_told_once_all_are_done(plan: Plan) -> None:
    runs = {"plain": {1: Figures({"fit_end": {"val": {"rows": {"composed": {"recall_at_5": 1.0}}}}})}}
    with pytest.raises(
        ValueError, match=r"no run has val.composed.recall_at_1 \(R@1\); known: val.composed.recall_at_5"
    ):
        collect(plan, runs, complete=True)


class Recorder:
    """In the place of a `Runner`: all runs are done at once, and noted."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.failed, self.out_of_time = root, [], {}, False

    def run(self, trials: list[Trial]) -> None:
        self.asked.append([trial.name for trial in trials])
        for trial in trials:
            finish(self.root, trial, float(len(trial.name)))


def test_a_task_of_an_array_begins_with_its_own_share(plan: Plan, tmp_path: Path) -> None:
    tuning = [trial.name for trial in plan.tuning_trials()]
    studied = [trial.name for trial in plan.trials({"plain": 0, "better": 0})]
    shares = []
    for task in range(3):
        recorder = Recorder(tmp_path / str(task))
        run_study(plan, recorder.root, (task, 3), recorder)
        assert recorder.asked[0][:2] == tuning[task::3] and sorted(recorder.asked[0]) == sorted(tuning)
        shares += recorder.asked[1]
        assert recorder.asked[1] == studied[task::3] and (recorder.root / "choices.json").exists()
    assert sorted(shares) == sorted(studied)


def test_the_study_does_not_begin_after_a_failed_choice_of_settings(plan: Plan, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.failed = {"tune/plain/setting-0/seed-9": "out of memory"}
    with pytest.raises(ValueError, match="1 runs failed, the first is tune/plain/setting-0/seed-9: out of memory"):
        run_study(plan, tmp_path, (0, 1), recorder)
    assert len(recorder.asked) == 1


def test_the_command_lists_aggregates_and_publishes(plan: Plan, tmp_path: Path, capsys) -> None:
    root = tmp_path / "out"
    tuned(plan, root)
    call = [str(tmp_path / "it.yaml"), f"--out={root}"]
    main([*call, "--list"])
    printed = capsys.readouterr().out.splitlines()
    assert "done  tune/better/setting-2/seed-9  --x=1 --lr=3 --seed_everything=9" in printed
    assert "open  study/plain/seed-2  --lr=2 --seed_everything=2" in printed and len(printed) == 12
    run_all(plan, root)
    main([*call, "--aggregate", f"--publish={tmp_path / 'docs'}"])
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == ["it.csv", "it.md", "it.png"]
    capsys.readouterr()
    for wrong, words in (
        (["nothing.yaml"], "error: no file nothing.yaml, and none of the project's studies has this name"),
        (["smoke", "--only=4/4"], "error: expected I/N with I from 0 to N - 1, got '4/4' (--only)"),
    ):
        with pytest.raises(SystemExit):
            main([*wrong, "--list"])
        assert capsys.readouterr().err.startswith(words)
