"""The page of a run: figures against counts from its files, pictures, hostile texts, and what is missing or unlike."""

import gzip
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from callbacks.retrieved import Found, Head, Picture, path_of, write_retrieved
from contextcir.errors import InputError
from contextcir.evaluation import composition
from contextcir.files import write_json
from experiments.report.__main__ import main, with_second
from experiments.report.cards import pieces
from experiments.report.groups import by_length, groups_of
from experiments.report.results import COMPOSED, Run
from experiments.report.tables import by_group, changed, compare, confusions, one_sided_columns, recall_columns
from tests.helpers.make_data import write_image

HOSTILE = '<script>alert(1)</script> "the red" <img src=x onerror=alert(2)> {{ 7 * 7 }}'
RANKS = {
    "composed": [1, 2, 9, 0, None, 1, 4, 30],
    "sum": [1, 1, 2, 3, None, 5, 6, 7],
    "image_only": [1, 8, 8, 8, None, 8, 1, 8],
    "text_only": [8, 1, 8, 8, None, 8, 1, 8],
}
CONCEPTS = {"concepts_1": [0, 1, 2, 3], "concepts_2": [4, 5, 6, 7], "aspect_add": [1, 5]}


def entry(ranks: dict[str, list[int | None]] = RANKS, benchmark: str = "scenes") -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "queries": list(range(100, 108)),
        "references": ["a", "a", "b", "b", "c", "c", None, None],
        "strata": CONCEPTS,
        "rows": {row: {"rank": of, "subset_rank": [of and min(of, 3) for of in of]} for row, of in ranks.items()},
        "target_before": {"swapped": [True, None, False, True, None, True, False, False]},
    }


def make_run(
    folder: Path, images: Path | None = None, ranks: dict[str, list[int | None]] = RANKS, **options: Any
) -> Path:
    """A run with eight queries; the first image is the target, a swapped one, the reference, or something else."""
    write_json(folder / "queries.json", {"val": entry(ranks, **options)})
    if images is None:
        return folder
    found, pictures = [], {}
    for place in range(8):
        target, other = f"target-{place}", f"image-{place}"
        kinds = {target: "target"} | ({other: ["swapped", "reference", None][place % 3]} if place % 3 < 2 else {})
        first = [target, other] if ranks["composed"][place] == 1 else [other, target]
        for name in (target, other, f"ref-{place}"):
            write_image(images / f"{name}.png", name, (300, 200))
            pictures[name] = Picture(f"{name}.png")
        top = dict.fromkeys(("composed", "sum"), ((first[0], 0.9), (first[1], 0.5)))
        text = f"{HOSTILE} {'word ' * place}"
        start = text.index("the red")
        maps = ((0, 255, 7, 9),) if place == 7 else None
        own = {"composed": 0.5, "sum": 0.5}
        spans = ((start, start + 7),)
        found.append(Found(100 + place, f"ref-{place}", text, spans, (target,), top, own, kinds, maps))
    head = Head(options.get("benchmark", "scenes"), "val", 50, False, False, str(images), pictures, (2, 2))
    write_retrieved(path_of(folder, "val"), head, found)
    return folder


class Reader(HTMLParser):
    """Collects tags, their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(tmp_path: Path, *args: object) -> str:
    out = tmp_path / "page.html"
    main([*map(str, args), f"--out={out}"])
    return out.read_text(encoding="utf-8")


def percent(values: list[bool]) -> float:
    return 100 * sum(values) / len(values)


def test_figures_by_group_are_counts_of_the_ranks(tmp_path: Path) -> None:
    split = Run(make_run(tmp_path / "run", tmp_path / "images")).splits["val"]
    table = by_group(split, recall_columns(split))
    assert table.titles == ["R@1", "R@5", "R@10", "Rsub@1", "sum R@1", "image only R@1", "text only R@1"]
    lines = {line.group.key: line.cells for section in table.sections for line in section.lines}
    for group, members in {"all": list(range(8)), **CONCEPTS}.items():
        seen = [place for place in members if RANKS["composed"][place] is not None]
        for number, k in enumerate((1, 5, 10)):
            expected = percent([0 < RANKS["composed"][place] <= k for place in seen])
            figure = lines[group][number]
            assert figure.mean == pytest.approx(expected) and figure.low <= expected <= figure.high
            assert figure.count == len(seen)
        for number, row in enumerate(("sum", "image_only", "text_only"), 4):
            assert lines[group][number].mean == pytest.approx(percent([RANKS[row][place] == 1 for place in seen]))
    columns = {column.title: column.values for column in one_sided_columns(split)}
    either = [
        None if i is None else float(i == 1 or t == 1)
        for i, t in zip(RANKS["image_only"], RANKS["text_only"], strict=False)
    ]
    assert columns["either alone"] == either
    assert columns["lost by composing"] == [0, 1, 0, 0, None, 0, 1, 0]
    assert columns["neither, but composed"] == [0, 0, 0, 0, None, 1, 0, 0]


def test_groups_by_length_hold_every_query_once_and_strata_are_named(tmp_path: Path) -> None:
    split = Run(make_run(tmp_path / "run", tmp_path / "images")).splits["val"]
    lengths = by_length(split)
    assert sorted(place for group in lengths for place in group.members) == list(range(8)) and len(lengths) > 1
    for group in lengths:
        low, high = map(int, re.findall(r"\d+", group.key))
        assert all(low <= len(split.found[place].text.split()) <= high for place in group.members)
    titles = groups_of(split)
    assert [group.label for group in titles["Number of concepts"]] == ["1", "2"]
    assert [group.label for group in titles["Kind of edit, or semantic aspect"]] == ["add"]


def test_confusions_count_what_comes_first(tmp_path: Path) -> None:
    split = Run(make_run(tmp_path / "run", tmp_path / "images")).splits["val"]
    found, totals = confusions(split)
    counts = {line.kind: line.counts["composed"] for line in found}
    # Of the failures 1, 2, 3, 4, 6 and 7: swapped 3 and 6, the reference 1, 4 and 7, another image 2.
    assert counts == {"target": 2, "reference": 3, "swapped": 2, "another image": 1} and totals["composed"] == 8
    assert found[0].kind == "target" and found[-1].kind == "another image"


def test_a_page_has_everything_inside_and_shows_hostile_texts_as_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, make_run(tmp_path / "run", tmp_path / "images"))
    read = Reader(page)
    assert [tag for tag, _ in read.tags].count("script") == 1 and "alert(1)" in read.text and "{{ 7 * 7 }}" in read.text
    sources = [attributes.get("src") or "" for tag, attributes in read.tags if tag == "img"]
    assert len(sources) > 20 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert not [attributes for _, attributes in read.tags if "http" in str(attributes.get("href", ""))]
    policy = next(attributes["content"] for _, attributes in read.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    articles = [attributes for tag, attributes in read.tags if tag == "article"]
    reasons = [attributes["data-reasons"] for attributes in articles]
    assert reasons == ["failure", "failure", "failure", "near", "near"]  # ranks 0, 30, 9, then 2 and 4
    assert "concepts_1" in articles[0]["data-groups"].split() and "composed not ranked" in read.text
    framed = [attributes["title"] for tag, attributes in read.tags if attributes.get("class") == "right"]
    assert set(framed) == {f"target-{place}" for place in (1, 2, 3, 6, 7)}
    assert sum(tag == "details" for tag, _ in read.tags) == 1  # of the one query with attention


def test_pictures_that_are_gone_are_told_and_found_again_in_another_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "images")
    (tmp_path / "images").rename(tmp_path / "moved")
    page = page_of(tmp_path, run)
    assert "images are not where they were: no file" in page and "<img" not in page and "target-1" in page
    page = page_of(tmp_path, run, f"--root={tmp_path / 'moved'}")
    assert "not where they were" not in page and "<img" in page


def test_a_run_of_ranks_alone_gets_tables_and_says_what_is_missing(tmp_path: Path) -> None:
    page = page_of(tmp_path, make_run(tmp_path / "run"))
    assert "the run has ranks only" in page and "Recall by group" in page and "<article" not in page
    assert "retrieved/val.jsonl.gz" in page


def test_a_limit_of_examples_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "images")
    assert page_of(tmp_path, run, "--examples=1", "--of_group=0").count("<article") == 2
    assert page_of(tmp_path, run, "--examples=0").count("<article") == 0


SECOND = {**RANKS, "composed": [2, 1, 1, 0, 3, 1, 4, 1]}


def test_two_runs_are_compared_on_queries_that_both_have_seen(tmp_path: Path) -> None:
    first = Run(make_run(tmp_path / "one", tmp_path / "images")).splits["val"]
    second = Run(make_run(tmp_path / "two", tmp_path / "images", SECOND)).splits["val"]
    sections = dict(compare(first, second))
    for line in (line for lines in sections.values() for line in lines):
        members = [place for place in line.group.members if RANKS["composed"][place] is not None]
        before = [RANKS["composed"][place] == 1 for place in members]
        after = [SECOND["composed"][place] == 1 for place in members]
        assert (line.first.mean, line.second.mean) == pytest.approx((percent(before), percent(after)))
        assert line.difference.mean == pytest.approx(percent(after) - percent(before))
        assert line.won == sum(a and not b for a, b in zip(after, before, strict=False))
        assert line.lost == sum(b and not a for a, b in zip(after, before, strict=False))
    assert sections["All"][0].won == 3 and sections["All"][0].lost == 1
    assert changed(first, second, won=True, count=9) == [7, 2, 1] and changed(first, second, False, 9) == [0]
    page = page_of(tmp_path, tmp_path / "one", tmp_path / "two")
    reasons = re.findall(r'<article data-reasons="(\w+)"', page)
    assert reasons[:4] == ["won", "won", "won", "lost"] and "Helps here, hurts there" in page


def error(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([*map(str, args)])
    printed = capsys.readouterr().err
    assert end.value.code and printed.startswith("error: ") and printed.count("\n") == 1 and len(printed) <= 302
    return printed


def test_runs_that_can_not_be_compared_are_refused_in_one_line(tmp_path: Path, capsys: Any) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", benchmark="cirr")
    out = f"--out={tmp_path / 'page.html'}"
    assert "different benchmarks" in error(capsys, one, two, out)
    content = json.loads((two / "queries.json").read_text())
    (two / "queries.json").write_text(json.dumps({"test": content["val"]}))
    assert "no split in common: a/one" not in (line := error(capsys, one, two, out)) and "no split in common" in line
    other = entry() | {"queries": list(range(8))}
    (two / "queries.json").write_text(json.dumps({"val": other}))
    assert "other queries or images in scenes val" in error(capsys, one, two, out)
    assert "expected one run or two" in error(capsys, one, two, one, out)
    assert not (tmp_path / "page.html").exists()


def damage(name: str, content: bytes) -> Callable[[Path], None]:
    def write(run: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: (run / "queries.json").unlink(), "has no queries.json; the callback QueryResults writes it"),
        (damage("queries.json", b"{"), "damaged: not valid JSON"),
        (damage("queries.json", b"[]"), "has results of no split"),
        (damage("queries.json", b'{"val": {"queries": [1]}}'), "is no result of queries"),
        (damage("queries.json", b'{"val": 3}'), "is no result of queries"),
        (damage("retrieved/val.jsonl.gz", gzip.compress(b"{}\n")), "no results of queries that this version reads"),
    ],
)
def test_missing_and_damaged_files_are_told_in_one_line(
    spoil: Callable[[Path], None], words: str, tmp_path: Path, capsys: Any
) -> None:
    run = make_run(tmp_path / "run", tmp_path / "images")
    spoil(run)
    assert words in error(capsys, run, f"--out={tmp_path / 'page.html'}")


def test_settings_without_sense_and_unknown_places_are_refused(tmp_path: Path, capsys: Any) -> None:
    run = make_run(tmp_path / "run")
    assert "--examples" in error(capsys, run, "--examples=-1")
    assert "--side" in error(capsys, run, "--side=0")
    assert "has results of val" in error(capsys, run, "--splits+=test")
    assert "is no folder with a queries.json" in error(capsys, tmp_path / "nowhere")
    assert "expected a file to write, found a folder" in error(capsys, run, f"--out={tmp_path}")


def test_a_trial_of_a_study_is_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "seed-1" / "run")
    assert Run(tmp_path / "seed-1").label == f"{tmp_path.name}/seed-1"


def test_the_second_path_may_stand_anywhere() -> None:
    assert with_second(["a", "--out=x", "b"]) == ["a", "--out=x", "--second=b"]
    assert with_second(["a", "--out", "x", "b"]) == ["a", "--out", "x", "--second=b"]
    with pytest.raises(InputError):
        with_second(["a", "b", "c"])


def test_phrases_inside_phrases_have_a_colour_and_a_line_each() -> None:
    text = "the dog on the chair"
    found = pieces(text, [(0, 20), (0, 7), (11, 20)])
    assert "".join(piece.text for piece in found) == text
    assert [piece.text for piece in found] == ["the dog", " on ", "the chair"]
    assert len({piece.colour for piece in found}) == 3 and len({piece.under for piece in found}) == 1
    assert pieces("plain", []) != [] and pieces("plain", [])[0].colour == ""


def test_the_name_of_the_composed_row_is_that_of_the_metric() -> None:
    assert composition.COMPOSED == COMPOSED
