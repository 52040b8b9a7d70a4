"""Rows of runs, bundles and studies become tables: one protocol each, what is reported apart from what was run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from contextcir.errors import InputError, MissingFileError
from experiments.bundle.__main__ import main as bundle
from experiments.bundle.contents import content_of
from experiments.bundle.rows import row_of
from experiments.bundle.verify import check_bundle
from experiments.leaderboard.__main__ import main
from experiments.leaderboard.entries import REPORTED_FILE, Cell, Entry, read_folder, read_reported
from experiments.leaderboard.markdown import markdown, size_text
from experiments.leaderboard.tables import gap, make_tables
from tests.helpers.chromium import opened_chromium
from tests.helpers.result_runs import make_run


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        row_of(check_bundle(content_of(make_run(folder / name / "id1", seed), "mit"), folder), f"model <{name}>")
        for seed, name in enumerate(("a", "b"))
    ]


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        (folder / f"row-{number}.json").write_text(json.dumps(row))
    return folder


def copy(row: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(row))


def test_a_row_has_figures_over_all_queries_with_intervals(rows: list[dict[str, Any]]) -> None:
    tables = {table["split"]: table for table in rows[0]["tables"]}
    assert set(tables) == {"val", "circo_val", "val_dress", "val_shirt", "fashion"}
    composed = tables["val"]["rows"]["composed"]
    assert not any(name.endswith(("_short", "_long")) for name in composed)
    cell = composed["recall_at_5"]
    assert cell["over"] == "references" and cell["low"] <= cell["mean"] <= cell["high"] and cell["low"] < cell["high"]
    assert set(tables["val"]["rows"]["image_only"]["recall_at_5"]) == {"mean", "values"}
    checked = tables["val"]["checked"]
    assert checked["verified"] > 100 and checked["could not be verified"] == 2 and checked["differs"] == 0
    assert rows[0]["model"]["licence"] == "mit" and rows[0]["model"]["parameters"] == 1200


def test_runs_of_one_protocol_stand_in_one_table_and_the_best_is_first(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    tables = make_tables(read_folder(written(tmp_path, *rows)))
    assert [table.title.partition(",")[0] for table in tables] == [
        "CIRCO circo val", "CIRR val", "FashionIQ fashion", "FashionIQ val dress", "FashionIQ val shirt",
    ]  # fmt: skip
    for table in tables:
        means = [entry.figures["composed"][table.headline].mean for entry in table.entries]
        assert len(means) == 2 and means == sorted(means, reverse=True)
        assert table.metrics[0] == table.headline


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"exclude_reference": None},
        {"gallery": 41},
        {"query_text": "with the shared concept"},
        {"an_option_of_later_versions": True},
        {"ties": "for the targets"},
    ],
)
def test_rows_of_other_versions_or_options_are_never_in_one_table(
    change: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    other = copy(rows[1])
    for table in other["tables"]:
        table["protocol"] |= change
        if "seen" in table:
            table["seen"]["gallery"] = table["protocol"]["gallery"]
    tables = make_tables(read_folder(written(tmp_path, rows[0], other)))
    assert len(tables) == 10 and all(len(table.entries) == 1 for table in tables)
    assert len({table.anchor for table in tables}) == 10


def test_other_data_and_parts_of_a_benchmark_are_apart_too(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    other = copy(rows[1])
    for table in other["tables"]:
        table["data"] = "0" * 12
    part = copy(rows[1])
    for table in part["tables"]:
        table["missing_images"] = 3
    tables = make_tables(read_folder(written(tmp_path, rows[0], other, part)))
    assert len(tables) == 15
    assert "3 images missing" in " ".join(table.words for table in tables)


def test_more_metrics_make_no_other_protocol(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    other = copy(rows[1])
    for table in other["tables"]:
        table["protocol"]["recall_at"] = [1, 2, 3]
        table["protocol"]["precision_at"] = [5]
    assert len(make_tables(read_folder(written(tmp_path, rows[0], other)))) == 5


def with_ndcg(composed: float, image: float, text: float) -> Entry:
    of = {"composed": composed, "image_only": image, "text_only": text}
    figures = {row: {"ndcg": Cell(value)} for row, value in of.items()}
    return Entry("a", "reproduced", {"benchmark": "cirr", "split": "val"}, figures)


def test_the_gap_is_of_ndcg_and_left_out_without_it(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert gap(with_ndcg(40.0, 10.0, 30.0)) == pytest.approx(0.25)
    assert gap(with_ndcg(40.0, 50.0, 30.0)) == pytest.approx(-0.25)
    assert gap(with_ndcg(0.0, 0.0, 0.0)) is None
    tables = make_tables(read_folder(written(tmp_path, *rows)))
    assert not any(table.has_gap for table in tables) and "gap" not in markdown(tables).split("\n\n", 3)[3]


def test_reported_figures_have_sources_and_stand_in_tables_of_their_own(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    reported = read_reported(REPORTED_FILE)
    assert all(entry.source and entry.protocol["words"] for entry in reported)
    own = next(entry for entry in reported if entry.name == "ConText-CIR ViT-H")
    assert own.figures["composed"]["recall_at_1"].mean == 55.24 and "2505.20764" in own.source
    assert all(0 < cell.mean < 100 for entry in reported for cell in entry.figures["composed"].values())
    tables = make_tables([*read_folder(written(tmp_path, *rows)), *reported])
    assert all(len({entry.kind for entry in table.entries}) == 1 for table in tables)
    kinds = [table.kind for table in tables]
    assert kinds == sorted(kinds, reverse=True) and set(kinds) == {"reproduced", "reported"}
    text = markdown(tables)
    assert text.index("## Reproduced") < text.index("CIRR val, protocol") < text.index("## Reported")
    assert text.index("## Reported") < text.index("CIRR test1, supervised")


def test_reported_figures_without_a_source_or_of_another_number_are_refused(tmp_path: Path) -> None:
    start = "sources: {a: A}\ntables:\n  - {benchmark: cirr, split: x, protocol: p, metrics: [recall_at_1], rows: ["
    for row, words in (
        ("{name: m, figures: [1.0], source: b}", "no source 'b'"),
        ("{name: m, figures: [1.0, 2.0], source: a}", "expected 1 figures"),
        ("{name: m, source: a}", "no file of published figures"),
    ):
        (tmp_path / "r.yaml").write_text(f"{start}{row}]}}\n")
        with pytest.raises(InputError, match=words):
            read_reported(tmp_path / "r.yaml")


def test_the_command_takes_rows_and_bundles_and_refuses_a_tampered_one(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "results", rows[0])
    run = make_run(tmp_path / "run" / "id1", 1)
    bundle([str(run), "--out", str(folder / "more" / "b.zip")])
    main([str(folder), "--out", str(tmp_path / "p.html"), "--markdown", str(tmp_path / "t.md")])
    assert "10 reproduced results" in capsys.readouterr().out
    page, text = (tmp_path / "p.html").read_text(), (tmp_path / "t.md").read_text()
    assert "model &lt;a&gt;" in page and "model <a>" not in page and r"model \<a\>" in text
    assert not re.search(r"(src|href)=\"(?!#)", page) and "://" not in page.replace("https://github.com", "")
    line = next(line for line in text.splitlines() if line.startswith(r"| model \<a\>"))
    assert "| mit |" in line and "| 1 |" in line and "1.2K" in line
    assert "· image only" in text and "· text only" in text and "· sum" in text
    (folder / "c.json").write_text("{}")
    with pytest.raises(SystemExit):
        main([str(folder), "--out", str(tmp_path / "p.html")])
    assert "no row of results" in capsys.readouterr().err


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(MissingFileError):
            read_folder(folder)


def make_study(root: Path, trained: bool = True) -> Path:
    """Return the folder of a study of two variants and three seeds, as `experiments.study` leaves it."""
    for variant, seed in ((variant, seed) for variant in ("sum", "clauses") for seed in (1, 2, 3)):
        folder = root / "study" / variant / f"seed-{seed}"
        make_run(folder / "run", seed if trained else 0, "test")
        subcommands = ["fit" if trained else "validate", "test"]
        about = {"machine": "a machine", "versions": {"python": "3"}, "commit": "abc", "code": "def"}
        result = {"variant": variant, "seed": seed, "subcommands": subcommands, **about}
        (folder / "result.json").write_text(json.dumps(result))
    (root / "commands.txt").write_text("2026-11-28 10:00\tpython -m experiments.study x --data.root=/home/me/scenes\n")
    return root


def test_a_study_becomes_rows_over_its_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from math import sqrt
    from statistics import fmean, stdev

    bundle(["study", str(make_study(tmp_path / "scenes")), "--out", str(tmp_path / "results"), "--licence", "mit"])
    assert capsys.readouterr().out.count(".json") == 2
    row = json.loads((tmp_path / "results" / "clauses.json").read_text())
    assert row["seeds"] == [1, 2, 3] and row["name"] == "clauses" and "/home/me" not in json.dumps(row)
    assert row["study"]["name"] == "scenes" and row["environment"]["trial"]["machine"] == "a machine"
    table = next(table for table in row["tables"] if table["split"] == "val")
    values = [
        json.loads((tmp_path / "scenes" / "study" / "clauses" / f"seed-{seed}" / "run" / "metrics.json").read_text())[
            "test"]["val"]["rows"]["composed"]["recall_at_5"] for seed in (1, 2, 3)
    ]  # fmt: skip
    cell, half = table["rows"]["composed"]["recall_at_5"], 4.302653 * stdev(values) / sqrt(3)  # t of 2 degrees, 0.95
    assert (
        cell["values"] == values and cell["over"] == "seeds" and cell["mean"] == pytest.approx(fmean(values), abs=1e-3)
    )
    assert cell["high"] - cell["mean"] == pytest.approx(half, abs=0.02)
    main([str(tmp_path / "results"), "--out", str(tmp_path / "p.html"), "--reported=null"])
    assert "Reported" not in (tmp_path / "p.html").read_text()


def test_a_variant_that_is_not_trained_has_no_seeds(tmp_path: Path) -> None:
    bundle(["study", str(make_study(tmp_path / "scenes", trained=False)), "--out", str(tmp_path / "results")])
    row = json.loads((tmp_path / "results" / "sum.json").read_text())
    assert row["seeds"] == [] and row["tables"][0]["rows"]["composed"]["recall_at_10"]["over"] == "references"


def test_a_study_with_a_changed_figure_makes_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_study(tmp_path / "scenes")
    path = root / "study" / "sum" / "seed-2" / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["test"]["val"]["rows"]["composed"]["recall_at_1"] += 2
    path.write_text(json.dumps(metrics))
    with pytest.raises(SystemExit):
        bundle(["study", str(root), "--out", str(tmp_path / "results")])
    assert "test.val.composed.recall_at_1" in capsys.readouterr().err and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("number", "text"), [(None, "–"), (149_000_000, "149M"), (7_600_000_000, "7.6B"), (1200, "1.2K"), (12, "12")]
)
def test_sizes_are_short(number: int | None, text: str) -> None:
    assert size_text(number) == text


def test_the_page_sorts_in_a_browser_and_hides_the_rows_of_parts(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    main([str(written(tmp_path / "results", *rows)), "--out", str(tmp_path / "p.html")])
    with opened_chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: said.append(request.url) if "p.html" not in request.url else None)
        page.goto((tmp_path / "p.html").as_uri())
        table = page.locator("table").first
        title = table.locator("thead th").nth(1)

        def figures() -> list[float]:
            return [
                float(cell.get_attribute("data-key")) for cell in table.locator("tbody td:nth-child(2)[data-key]").all()
            ]

        falling = figures()
        assert title.get_attribute("aria-sort") == "descending" and falling == sorted(falling, reverse=True)
        title.locator("button").click()
        assert figures() == sorted(falling) and title.get_attribute("aria-sort") == "ascending"
        assert table.locator("tbody").first.locator("tr").count() == 4  # its parts move with a model
        side = table.locator("tr.side").first
        assert side.is_visible()
        page.locator("#sides").uncheck()
        assert not side.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert said == []
