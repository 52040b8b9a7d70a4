"""From an evaluation of each benchmark to a page, through the commands; figures against those of the run's table."""

import json
import re
from pathlib import Path

import pytest

from callbacks.retrieved import path_of, read_retrieved
from data_modules import CIRCO, CIRR, GeneCIS
from experiments.report.__main__ import main as report
from experiments.report.results import Run
from experiments.report.tables import by_group, recall_columns
from experiments.run import main
from tests.helpers.make_data import make_circo, make_cirr
from tests.helpers.make_genecis import make_genecis
from tests.helpers.scenes_flags import configs, draw, on

MAKE = {"cirr": make_cirr, "circo": make_circo, "genecis": make_genecis}
NAMES = {"R@1": "recall_at_1", "R@5": "recall_at_5", "R@10": "recall_at_10", "Rsub@1": "subset_recall_at_1"}
pytestmark = pytest.mark.usefixtures("runs")


def check_page(run: Path, split: str, out: Path) -> str:
    """Make the page, and compare its first line with the table of the run."""
    report([str(run), f"--out={out}"])
    found = Run(run).splits[split]
    table, columns = by_group(found, recall_columns(found)), recall_columns(found)
    rows = json.loads((run / "metrics.json").read_text())["validate"][split]["rows"]
    for column, figure in zip(columns, table.sections[0].lines[0].cells, strict=True):
        name = NAMES.get(column.title) or {"mAP@5": "map_at_5"}.get(column.title)
        if name in rows["composed"]:
            assert figure.mean == pytest.approx(rows["composed"][name], abs=1e-3)
    for row in ("sum", "image_only", "text_only"):
        title = f"{row.replace('_', ' ')} {'Rsub' if found.in_subsets else 'R'}@1"
        figure = table.sections[0].lines[0].cells[[column.title for column in columns].index(title)]
        name = "subset_recall_at_1" if found.in_subsets else "recall_at_1"
        assert figure.mean == pytest.approx(rows[row][name], abs=1e-3)
    page = out.read_text(encoding="utf-8")
    assert "not where they were" not in page
    assert set(re.findall(r'src="(.{10})', page)) <= {"data:image"}
    return page


@pytest.mark.parametrize("name", MAKE)
def test_other_benchmarks_get_pages_and_figures(name: str, small: list[str], tmp_path: Path, runs: Path) -> None:
    root = MAKE[name](tmp_path / name)
    experiment = configs("base", "cirr_b32", *(() if name == "cirr" else (name,)))
    main(["validate", *experiment, *small, f"--data.root={root}"])
    run = runs / ("cirr_b32" if name == "cirr" else name) / "id1"
    split = "focus_object" if name == "genecis" else "val"
    head, found = read_retrieved(path_of(run, split))
    assert head.in_subsets == (name == "genecis") and head.of_first == (name == "circo")
    check_page(run, split, tmp_path / "page.html")
    assert (run / "retrieval" / "validate" / f"{split}.jpg").stat().st_size > 10_000
    if name == "circo":
        assert [len(query.targets) for query in found] == [1, 2, 2]
        assert "has 2 bottles" in found[0].text


def test_scenes_get_a_page_with_attention_and_hard_negatives(small: list[str], tmp_path: Path, runs: Path) -> None:
    flags = [*configs("base", "scenes"), *small, *on(draw(tmp_path / "scenes")), "--data.test_splits=[]"]
    main(["validate", *flags])
    page = check_page(runs / "scenes" / "id1", "val", tmp_path / "page.html")
    assert "attention of the noun phrases" in page and "Hard negatives by kind" in page and "swapped" in page
    _, found = read_retrieved(path_of(runs / "scenes" / "id1", "val"))
    assert any("hard" not in kind and kind for query in found for kind in query.kinds.values())
    report([str(runs / "scenes" / "id1"), str(runs / "scenes" / "id1"), f"--out={tmp_path / 'two.html'}"])
    assert "won" in (tmp_path / "two.html").read_text()


def test_data_modules_say_where_images_lie_and_load_them(tmp_path: Path) -> None:
    for kind, make, split in ((CIRR, make_cirr, "val"), (CIRCO, make_circo, "val")):
        data = kind(make(tmp_path / split / kind.__name__), val_splits=[split], preprocess=lambda image: image)
        protocol = data.protocols("val")[0]
        places = data.image_places("val", 0, protocol.gallery)
        assert all(place.file.is_file() and place.box is None for place in places.values())
        assert data.gallery_image("val", 0, 2).size == (40, 30)
        assert [record.id for record in data.query_records("val", 0)] == list(protocol.query_ids)
    data = GeneCIS(make_genecis(tmp_path / "genecis"), val_splits=["focus_attribute"], preprocess=lambda image: image)
    protocol = data.protocols("val")[0]
    place = data.image_places("val", 0, protocol.gallery[:1])[protocol.gallery[0]]
    assert place.file.is_file() and len(place.box) == 4
    assert data.gallery_image("val", 0, 0).width == data.gallery_image("val", 0, 0).height  # a crop, padded
