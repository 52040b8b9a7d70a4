"""A bundle is verified figure by figure; whatever is changed in it is named."""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.errors import InputError
from experiments.bundle.__main__ import main
from experiments.bundle.archive import HEAD, read_archive, write_archive
from experiments.bundle.contents import content_of, digest, parts_of
from experiments.bundle.figures import DIFFERS, UNVERIFIED, VERIFIED
from experiments.bundle.rows import row_of
from experiments.bundle.verify import check_bundle, refuse_different
from tests.helpers.result_runs import QUERIES, make_run

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return content_of(make_run(tmp_path_factory.mktemp("runs") / "name" / "id1"), "mit")


def sealed(files: Files, change: Callable[[dict[str, Any]], None]) -> Files:
    """Return files with a changed head, and all digests made anew, as whoever tampers would do."""
    head = json.loads(files[HEAD])
    change(head)
    head["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in files if name != HEAD}
    head["digests"] = {name: digest(value) for name, value in parts_of(head).items()}
    return {**files, HEAD: json.dumps(head).encode()}


def refusal(files: Files) -> str:
    with pytest.raises(InputError) as refused:
        refuse_different(check_bundle(files, Path("a.zip")), Path("a.zip"))
    return str(refused.value)


def test_every_figure_of_ranks_is_verified_and_others_are_said_not_to_be(files: Files) -> None:
    bundle = check_bundle(files, Path("a.zip"))
    assert bundle.of(DIFFERS) == []
    figures = {figure.name: figure for figure in bundle.figures}
    expected = json.loads(files[HEAD])["results"]["validate"]
    for split, entry in expected.items():
        for row, of in entry["rows"].items():
            for name, value in of.items():
                figure = figures[f"validate.{split}.{row}.{name}"]
                assert (figure.state, figure.value) == (VERIFIED, value), figure
    assert figures["validate.val.target_before_swapped"].state == VERIFIED
    assert figures["validate.val.protocol.strata"].state == VERIFIED
    unverified = {figure.name for figure in bundle.of(UNVERIFIED)}
    assert "validate.val.pointing_game" in unverified and "submission/cirr_val_recall.json" in unverified
    assert not any(".composed." in name for name in unverified)


def test_figures_agree_with_formulas_written_out_here(files: Files) -> None:
    ranks = json.loads(files["ranks/circo_val.json"])
    rows = json.loads(files[HEAD])["results"]["validate"]["circo_val"]["rows"]["composed"]
    total = 0.0
    for places in ranks["rows"]["composed"]["target_ranks"]:
        found = sorted(place for place in places if place)
        total += sum((n + 1) / place for n, place in enumerate(found) if place <= 5) / min(len(places), 5)
    assert rows["map_at_5"] == pytest.approx(100 * total / QUERIES, abs=1e-3)
    first = sum(rank <= 5 for rank in ranks["rows"]["composed"]["rank"])
    assert rows["recall_at_5"] == pytest.approx(100 * first / QUERIES, abs=1e-3)


def test_nothing_in_a_bundle_names_people_or_places(files: Files) -> None:
    for name, content in files.items():
        for word in (b"somebody", b"/home", b"datasets", b"key@"):
            assert word not in content, (name, word)
    head = json.loads(files[HEAD])
    notes = " ".join(head["left_out"])
    assert "config.data.root" in notes and "config.data.url" in notes and "fit_start val" in notes
    assert head["seeds"] == [3] and head["licence"] == "mit" and head["model"]["fusion"] == "ClauseSum"
    assert head["results"]["validate"]["val"]["checkpoint"]["file"] == "last.ckpt"


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        main([str(make_run(tmp_path / name / "exp" / "id1")), "--out", str(tmp_path / f"{name}.zip")])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_the_commands_verify_and_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Files) -> None:
    run, good, bad = make_run(tmp_path / "exp" / "id1"), tmp_path / "good.zip", tmp_path / "bad.zip"
    main([str(run), "--out", str(good), "--licence", "mit"])
    main(["verify", str(good), "--figures"])
    said = capsys.readouterr().out
    assert "validate.val.composed.recall_at_1 " in said and ", 0 differs" in said
    main(["verify", str(good)])
    assert "validate.val.composed: 30 verified" in capsys.readouterr().out

    def change(head: dict[str, Any]) -> None:
        head["results"]["validate"]["val"]["rows"]["sum"]["recall_at_5"] += 0.01

    write_archive(bad, sealed(read_archive(good), change))
    with pytest.raises(SystemExit) as end:
        main(["verify", str(bad)])
    told = capsys.readouterr()
    assert end.value.code == 1 and told.err.count("\n") == 1
    assert "validate.val.sum.recall_at_5 says " in told.err and "the ranks give" in told.err


def test_a_run_whose_figures_differ_from_its_ranks_is_not_bundled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["validate"]["circo_val"]["rows"]["composed"]["map_at_5"] += 1
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(SystemExit):
        main([str(run), "--out", str(tmp_path / "a.zip")])
    assert "validate.circo_val.composed.map_at_5" in capsys.readouterr().err and not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda results: results["val"]["rows"]["composed"].update(recall_at_1=1.2345), "val.composed.recall_at_1"),
        (lambda results: results["fashion"]["rows"]["sum"].update(recall_at_10=1.0), "fashion.sum.recall_at_10"),
        (lambda results: results["val"].update(target_before_swapped=51.0), "val.target_before_swapped"),
        (lambda results: results["val"]["protocol"].update(queries=25), "val.protocol.queries"),
        (lambda results: results["val"]["protocol"]["strata"].update(short=11), "val.protocol.strata"),
        (lambda results: results["circo_val"]["protocol"].update(targets_per_query_max=9), "targets_per_query_max"),
        (lambda results: results["circo_val"]["protocol"].update(gallery=3), "circo_val.protocol.gallery"),
        (lambda results: results["val"]["seen"].update(queries=7), "val.seen.queries"),
    ],
)
def test_what_contradicts_the_ranks_is_found_though_all_digests_are_right(
    change: Callable[[dict[str, Any]], None], named: str, files: Files
) -> None:
    assert named in refusal(sealed(files, lambda head: change(head["results"]["validate"])))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda head: head["results"]["validate"]["val"]["protocol"].update(exclude_reference=False), "val.protocol"),
        (lambda head: head["results"]["validate"]["val"]["protocol"].update(version=9), "validate.val.protocol"),
        (lambda head: head["results"]["validate"]["val"].update(pointing_game=99.0), "part validate.val"),
        (lambda head: head.update(licence="none"), "part licence"),
        (lambda head: head["results"]["validate"].pop("val"), "validate.val"),
        (lambda head: head["digests"].pop("seeds"), "part seeds"),
    ],
)
def test_other_changes_are_found_by_the_digests_of_parts(
    change: Callable[[dict[str, Any]], Any], named: str, files: Files
) -> None:
    head = json.loads(files[HEAD])
    change(head)
    assert named in refusal({**files, HEAD: json.dumps(head).encode()})


def test_a_changed_rank_and_a_removed_or_added_file_are_named(files: Files) -> None:
    ranks = json.loads(files["ranks/val.json"])
    ranks["rows"]["composed"]["rank"][0] += 1
    changed = {**files, "ranks/val.json": json.dumps(ranks).encode()}
    figures = check_bundle(changed, Path("a.zip")).of(DIFFERS)
    assert "file ranks/val.json" in {figure.name for figure in figures}
    without = {name: content for name, content in files.items() if name != "ranks/val.json"}
    assert "file ranks/val.json" in refusal(without) and "missing" in refusal(without)
    assert "file config.fit.yaml" in refusal({**files, "config.fit.yaml": b"{}"})


def test_ranks_that_contradict_each_other_are_refused(files: Files) -> None:
    ranks = json.loads(files["ranks/circo_val.json"])
    ranks["rows"]["composed"]["rank"][3] = 4711
    changed = {**files, "ranks/circo_val.json": json.dumps(ranks).encode()}
    assert "4711 for the query at 3" in refusal(sealed(changed, lambda head: None))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_single_changed_figure_is_found(data: st.DataObject, files: Files) -> None:
    results = json.loads(files[HEAD])["results"]["validate"]
    split = data.draw(st.sampled_from(sorted(results)))
    row = data.draw(st.sampled_from(sorted(results[split]["rows"])))
    name = data.draw(st.sampled_from(sorted(results[split]["rows"][row])))
    # Figures are rounded to four places, and single precision leaves the last one open by one.
    change = data.draw(st.floats(2e-4, 100) | st.floats(-100, -2e-4) | st.sampled_from([math.inf, 1e300, 0.0002]))

    def edit(head: dict[str, Any]) -> None:
        figures = head["results"]["validate"][split]["rows"][row]
        figures[name] = min(figures[name] + change, 1e300)

    differing = check_bundle(sealed(files, edit), Path("a.zip")).of(DIFFERS)
    assert [figure.name for figure in differing] == [f"validate.{split}.{row}.{name}"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_rank_that_moves_over_a_cut_off_changes_a_figure(data: st.DataObject, files: Files) -> None:
    ranks = json.loads(files["ranks/val_dress.json"])
    row = data.draw(st.sampled_from(sorted(ranks["rows"])))
    place = data.draw(st.integers(0, QUERIES - 1))
    column = ranks["rows"][row]["rank"]
    column[place] = data.draw(st.integers(11, 40) if column[place] <= 10 else st.integers(1, 10))
    changed = {**files, "ranks/val_dress.json": json.dumps(ranks).encode()}
    named = {figure.name for figure in check_bundle(sealed(changed, lambda head: None), Path("a.zip")).of(DIFFERS)}
    assert {f"validate.val_dress.{row}.recall_at_10", f"validate.fashion.{row}.recall_at_10"} <= named


def test_ranks_of_older_runs_verify_what_they_can(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    queries = json.loads((run / "queries.json").read_text())
    for entry in queries.values():
        entry.pop("made")
        for row in entry["rows"].values():
            for name in set(row) - {"rank", "subset_rank"}:
                row.pop(name)
    (run / "queries.json").write_text(json.dumps(queries))
    figures = {figure.name: figure for figure in check_bundle(content_of(run), run).figures}
    assert figures["validate.val.composed.recall_at_1"].state == VERIFIED
    assert figures["validate.circo_val.composed.recall_at_5"].state == VERIFIED
    missing = figures["validate.circo_val.composed.map_at_5"]
    assert missing.state == UNVERIFIED and missing.why == "the ranks of all targets were not kept"
    assert figures["validate.val.composed.soft_recall_at_1"].state == UNVERIFIED


def test_ranks_of_another_evaluation_verify_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    queries = json.loads((run / "queries.json").read_text())
    queries["val"]["made"]["step"] = 19
    (run / "queries.json").write_text(json.dumps(queries))
    figures = {figure.name: figure for figure in check_bundle(content_of(run), run).figures}
    assert figures["validate.val.composed.recall_at_1"].why == "the ranks are of another evaluation of this split"


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_bundles_with_anything_else_in_them_end_in_one_line(data: st.DataObject, files: Files) -> None:
    name = data.draw(st.sampled_from([HEAD, "ranks/val.json", "ranks/circo_val.json"]))
    content = json.loads(files[name])
    place, key = {"": content}, ""
    for _ in range(data.draw(st.integers(1, 6))):  # down to some value
        inner = place[key]  # type: ignore[index]
        if not isinstance(inner, dict | list) or not inner:
            break
        keys = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
        place, key = inner, data.draw(st.sampled_from(keys))  # type: ignore[assignment]
    place[key] = data.draw(st.sampled_from([None, True, -1, 1.5, 10**30, "x", [], {}, [[]], [None]]))
    changed = {**files, name: json.dumps(content).encode()}
    with contextlib.suppress(InputError, KeyError, TypeError, AttributeError):  # of the sealing
        changed = sealed(changed, lambda head: None)
    with contextlib.suppress(InputError):
        bundle = check_bundle(changed, Path("a.zip"))
        refuse_different(bundle)
        row_of(bundle)
