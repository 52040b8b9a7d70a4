"""`experiments.search`: what it prints and writes, whatever photos are called, and how it tells mistakes."""

import json
import re
from calendar import timegm
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from contextcir.errors import InputError
from contextcir.search.index import Where
from experiments.search.__main__ import main
from experiments.search.querying import Asked, path_below, span_of
from tests.helpers.photos import damaged, picture, save

NAMES = (
    "a.png",
    "<img src=x onerror=alert(1)>.png",
    "new\nline \x1b[31mred.png",
    "q\"uote'.png",
    "\u202ertl.png",
    "[b]x.png",
)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(NAMES):
        save(folder / "sub" / name, number)
    damaged(folder)
    (folder / "film.mp4").write_bytes(b"x")
    return folder


@pytest.fixture(scope="module")
def index(album: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "photos.index"
    main(["index", str(album), f"--model={clip_folder}", f"--out={out}", "--workers=0", "--device=cpu"])
    return out


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    main([str(arg) for arg in args])
    return capsys.readouterr().out


def error(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """Return the one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    assert ended.value.code in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].isprintable() and len(lines[0]) <= 300
    return lines[0]


def test_an_indexing_says_what_it_did(
    album: Path, index: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(capsys, "index", album, "--model", clip_folder, "--out", index, "--json", tmp_path / "r.json")
    lines = said.splitlines()
    assert lines[0].endswith("6 photos (0 new, 0 changed, 0 moved, 0 deleted, 6 unchanged)")
    assert lines[1].startswith("0 photos encoded; ") and lines[2] == "1 files skipped (1: a video)"
    assert lines[3] == "5 photos can't be read:" and all(line.isprintable() for line in lines)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["unchanged"] == 6 and report["skipped"] == [{"path": "film.mp4", "reason": "a video"}]
    assert {left["path"] for left in report["damaged"]} == {"cut.jpg", "text.jpg", "empty.png", "cut.png", "cut.heic"}


def test_a_query_prints_a_table_that_no_name_breaks(
    album: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(capsys, "query", index, "--image", album / "sub" / "a.png", "--text", "in red", "--k", 6)
    lines = said.splitlines()
    assert lines[0] == "rank  score  photo" and len(lines) == 7 and all(line.isprintable() for line in lines)
    for rank, line in enumerate(lines[1:], start=1):
        assert re.match(rf" +{rank}  -?\d\.\d{{3}}  sub/", line)
    assert any("\\x1b[31m" in line for line in lines) and any("\\u202e" in line for line in lines)
    assert printed(capsys, "query", index, "--text", "a", "--folder", "none") == "no photo fits\n"


def test_results_are_written_as_json(
    album: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    printed(capsys, "query", index, "--image", album / "sub" / "a.png", "--k", 6, "--json", file)
    found = json.loads(file.read_text())
    assert found["results"][0]["path"] == "sub/a.png" and found["results"][0]["score"] > 0.999
    assert {result["path"] for result in found["results"]} == {f"sub/{name}" for name in NAMES}
    assert [result["rank"] for result in found["results"]] == [1, 2, 3, 4, 5, 6]


class Page(HTMLParser):
    """The tags of a page, and all its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_is_one_file_on_which_names_are_text(
    album: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, text = tmp_path / "new" / "found.html", "add the <script>alert(1)</script> dog"
    printed(capsys, "query", index, "--image", album / "sub" / "a.png", "--text", text, "--html", file)
    page = Page(file.read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 7 and all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "header", "img", "p", "mark", "small", "main", "figure",
        "figcaption", "br", "bdi",
    }  # fmt: skip
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<img src=x onerror=alert(1)>.png" in page.text and text in page.text and "\u202e" not in page.text
    assert "default-src 'none'" in file.read_text()


def test_unwanted_photos_are_named_by_their_file_or_their_path(
    album: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = ["--image", album / "sub" / "a.png"]
    by_file = printed(capsys, "query", index, *image, "--without", album / "sub" / "a.png")
    assert by_file == printed(capsys, "query", index, *image, "--without", "sub/a.png") and "sub/a.png" not in by_file
    assert path_below(str(album / "film.mp4"), album) == "film.mp4" and path_below("sub/a.png", album) == "sub/a.png"
    assert "no photo 'none.png' in the index (--without)" in error(capsys, "query", index, *image, "--without=none.png")


def test_indexes_of_shards_are_joined(
    album: Path, index: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [tmp_path / "part0", tmp_path / "part1"]
    for number, part in enumerate(parts):
        model = ["--model", clip_folder, "--workers=0"]
        printed(capsys, "index", album, *model, "--out", part, "--only", f"{number}/2")
    said = printed(capsys, "merge", *parts, "--out", tmp_path / "whole")
    assert "whole: 6 photos, 6 of them from 2 indexes" in said
    query = ["--text", "a dog", "--k", 6]
    assert printed(capsys, "query", tmp_path / "whole", *query) == printed(capsys, "query", index, *query)
    assert "is one of the shards: name another folder (--out)" in error(capsys, "merge", *parts, "--out", parts[0])


def test_recall_of_a_search_of_all_photos_is_whole(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "recall", index, "--queries=4", "--k=3")
    assert "6 photos, 4 of them as queries (seed 0), search of all photos" in said
    assert "recall at 3: 100.00 %" in said and re.search(r"a query took \d+\.\d ms \(median\)", said)


def test_another_model_is_refused_with_the_command_that_makes_a_new_index(
    album: Path, index: Path, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error(capsys, "query", index, "--text=a", "--model", golden)
    assert "made with another model" in said
    command = said[said.index("python -m experiments.search index") :].split()
    assert command[4] == str(album) and command[5:7] == ["--model", str(golden)] and command[7] == "--out"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "name a subcommand: index, query, serve, merge, recall"),
        (["indx"], "did you mean index?"),
        (["index"], "missing: PHOTOS, --model, --out"),
        (["index", "none", "--model=none", "--out=x"], "no model of this name"),
        (["index", ".", "--model=scenes-vit", "--out=x", "--only=2/2"], "expected I/N"),
        (["index", ".", "--model=scenes-vit", "--out=x", "--workers=-1"], "(--workers)"),
        (["index", ".", "--model=scenes-vit", "--out=x", "--workers=a"], "expected int, got 'a' (--workers)"),
        (["query", "none", "--text=a"], "no index in none; make one: python -m experiments.search index"),
        (["query", "none", "--text=a", "--since=yesterday"], "expected a day, a month or a year"),
        (["query", "none", "--text=a", "--format=RAW"], "expected one of JPEG, PNG"),
        (["query", "INDEX"], "expected an image, a text, or both; got neither (--text)"),
        (["query", "INDEX", "--text=a", "--k=0"], "(--k)"),
        (["query", "INDEX", "--text=a", "--k=nan"], "(--k)"),
        (["query", "INDEX", "--text=a", "--balance=nan"], "a number from 0 to 1, got nan (--balance)"),
        (["query", "INDEX", "--text=a", "--balance=x"], "expected float, got 'x' (--balance)"),
        (["query", "INDEX", "--image=none.jpg"], "no file none.jpg (--image)"),
        (["query", "INDEX", "--text=a", "--device=cuda:99"], "can't use 'cuda:99'"),
        (["query", "INDEX", "--text=a", "--txt=b"], "the closest: --text"),
        (["query", "INDEX", "--text=a", "--json=INDEX"], "expected a file to write"),
        (["recall", "INDEX", "--queries=0"], "(--queries)"),
        (["recall", "none"], "no index in none"),
        (["merge", "--out=x"], "missing: SHARD"),
        (["merge", "none", "--out=x"], "no index in none"),
    ],
)
def test_a_mistake_is_one_line(
    args: list[str], words: str, index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(index.parent)
    assert words in error(capsys, *[arg.replace("INDEX", index.name) for arg in args])


def test_a_missing_folder_of_photos_makes_no_index(
    clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error(capsys, "index", tmp_path / "none", "--model", clip_folder, "--out", tmp_path / "x")
    assert said == f"error: no folder: {tmp_path}/none; expected the folder of the photos"
    assert not (tmp_path / "x").exists()


def day(*date: int) -> int:
    return timegm((*date, 0, 0, 0))


def test_dates_are_days_months_or_years() -> None:
    assert span_of("2024-02-29", "since") == (day(2024, 2, 29), day(2024, 3, 1))
    assert span_of("2024-12", "since") == (day(2024, 12, 1), day(2025, 1, 1))
    assert span_of("2023", "since") == (day(2023, 1, 1), day(2024, 1, 1))
    for bad in (
        "2023-02-29",
        "2023-13",
        "2023-00",
        "2023-01-00",
        "23",
        "2023-1-1",
        "0000",
        "2023-01-01x",
        "",
        "２０２３",
    ):
        with pytest.raises(InputError, match="expected a day"):
            span_of(bad, "since")
    asked = Asked(since="2023", until="2023-06", folder="/a/b/", format=("jpg", "heif"))
    assert asked.where() == Where("a/b", day(2023, 1, 1), day(2023, 7, 1), ("JPEG", "HEIF"))
    assert Asked(folder="/").where() is None


def test_help_tells_every_flag_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("index", "query", "serve", "merge", "recall"):
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        text = capsys.readouterr().out
        assert ended.value.code == 0 and f"python -m experiments.search {name}" in text
        assert max(map(len, text.splitlines())) <= 120
    assert picture(0).size == (64, 48)
