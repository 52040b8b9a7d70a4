"""The page over the real searcher, with the small CLIP that comes with the package and a few drawn scenes."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the page needs FastAPI, of the extra `search`")
from fastapi.testclient import TestClient

from contextcir.fusion import CrossAttentionFusion
from contextcir.search.searcher import Searcher
from contextcir.training.module import ContextCIR
from data_modules.scenes.writer import Size, write_scenes
from experiments.benchmarks.search_load import search_load
from experiments.search.demo import first_queries, newest_run, rank_of, search_demo
from experiments.search.server import create_app, running
from tests.search_page.browsing import NEEDS, Watched

SIZE = Size(train_references=1, references=2, shared_references=1)
TEXT = "change the orange object to green"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(root, 0, SIZE, workers=1)
    return root


@pytest.fixture(scope="module")
def searcher(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    made = Searcher.load("scenes-vit", device="cpu")
    made.index_folder(scenes / "img_raw" / "val", tmp_path_factory.mktemp("index") / "index", workers=0)
    return made


@pytest.fixture(scope="module")
def attending(searcher: Searcher) -> Searcher:
    """A fusion with attention, untrained, in the same index."""
    fusion = partial(CrossAttentionFusion, layers=1, heads=2)
    return Searcher(ContextCIR(searcher.model.backbone, fusion), "attending", searcher.index)


@pytest.fixture
def client(searcher: Searcher) -> Iterator[TestClient]:
    with TestClient(create_app(searcher), base_url="http://127.0.0.1") as client:
        yield client


def test_the_answer_is_that_of_the_searcher_without_the_reference(client, searcher):
    reference = searcher.folder / "val-0-0.jpg"
    expected = [r for r in searcher.search(reference, TEXT, k=10, fold=False).results if r.photo.path != reference.name]
    asked = {"references": reference.name, "text": TEXT, "k": 8, "fold": "false"}
    results = client.post("/api/search", data=asked).json()["results"]
    assert [r["path"] for r in results] == [r.photo.path for r in expected[:8]]
    assert [r["score"] for r in results] == pytest.approx([r.score for r in expected[:8]], abs=2e-3)


def test_a_photo_that_is_in_the_folder_finds_itself_when_it_is_uploaded(client, searcher):
    content = (searcher.folder / "val-1-3.jpg").read_bytes()
    results = client.post("/api/search", files={"images": ("mine.jpg", content)}).json()["results"]
    assert (results[0]["path"], results[0]["score"]) == ("val-1-3.jpg", pytest.approx(1, abs=5e-3))


def test_a_text_alone_is_answered_and_about_tells_of_the_index(client):
    assert len(client.post("/api/search", data={"text": "a red star", "k": 3}).json()["results"]) == 3
    about = client.get("/api/about").json()
    assert (about["model"], about["crops"], about["count"], about["formats"]) == ("scenes-vit", True, 42, {"JPEG": 42})


def test_an_unwanted_photo_that_is_not_in_the_index_is_named(client):
    answer = client.post("/api/search", data={"text": "a star", "without": "none.jpg"})
    assert answer.status_code == 404 and "none.jpg" in answer.json()["error"]


def test_a_fusion_with_attention_gives_a_map_for_each_phrase(attending):
    with TestClient(create_app(attending), base_url="http://127.0.0.1") as client:
        asked = {"references": "val-0-0.jpg", "text": TEXT, "maps": "true"}
        phrases = client.post("/api/search", data=asked).json()["phrases"]
    assert phrases and all(TEXT[p["start"] : p["end"]] == p["text"] for p in phrases)
    for phrase in phrases:
        attention = phrase["attention"]
        assert (attention["rows"], attention["columns"]) == (6, 6)
        assert sum(attention["values"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=NEEDS) for kind in ("searcher", "attending")])
def test_the_page_works_on_it(request, browser, kind, scenes):
    with running(request.getfixturevalue(kind)) as address:
        seen = Watched(browser, address)
        assert len(seen.names()) == 24 and "42 photos" in seen.page.inner_text("#about")
        seen.page.set_input_files("#file", scenes / "img_raw" / "test" / "test-0-0.jpg")
        seen.ask(TEXT)
        assert seen.page.inner_text("#message p") == "" and seen.rounds() == ["Start", TEXT]
        assert len(seen.names()) == 24 and seen.page.locator(".phrase").count() > 0
        if kind == "attending":
            seen.page.locator("button.phrase").first.hover()
            assert seen.page.locator("#overlay").is_visible()
        seen.page.locator(".pick").first.click()
        assert len(seen.ask("make the star larger")) == 24
        card = seen.page.locator(".card").first
        card.hover()
        card.locator(".refuse").click()
        seen.until("!document.getElementById('unwanted').hidden")
        seen.page.click("#more")
        seen.until("document.querySelectorAll('.card').length > 24")
        seen.settle()
        assert seen.rounds() == ["Start", TEXT, "make the star larger", "make the star larger"]
        seen.context.close()
    assert seen.wrong == []


def test_the_demo_prints_what_to_try_and_answers_over_http(scenes, tmp_path, capsys):
    search_demo("scenes-vit", scenes, SIZE, tmp_path / "out", once=True)
    printed = capsys.readouterr().out.splitlines()
    assert "scenes-vit: 42 scenes" in printed[0]
    assert any(line.startswith("| val-0-0.jpg | ") for line in printed) and "Of 2 such queries" in "\n".join(printed)
    answer = json.loads(printed[-1])
    assert answer["reference"] == "val-0-0.jpg" and [r["rank"] for r in answer["results"]] == [1, 2, 3]


def test_what_to_try_are_the_first_queries_and_ranks_leave_the_reference_out(scenes):
    records = json.loads((scenes / "captions" / "cap.scenes.val.json").read_text())
    tries = first_queries(scenes)
    assert [one.reference for one in tries] == ["val-0-0.jpg", "val-1-0.jpg"]
    assert tries[0].text == records[0]["caption"] and tries[0].target == f"{records[0]['target_hard']}.jpg"

    def found(*paths: str) -> SimpleNamespace:
        results = [SimpleNamespace(photo=SimpleNamespace(path=path)) for path in paths]
        return SimpleNamespace(search=lambda *given, **settings: SimpleNamespace(results=results))

    one, target = tries[0], tries[0].target
    assert rank_of(found("val-0-0.jpg", target, "x"), scenes, one) == 1
    assert rank_of(found("x", target, "val-0-0.jpg"), scenes, one) == 2
    assert rank_of(found(*"abcdefghij", target), scenes, one) is None


def test_the_newest_run_with_a_checkpoint_is_taken(tmp_path):
    assert newest_run(tmp_path / "none") is None
    for name in ("old", "new", "empty"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    assert newest_run(tmp_path) is None
    for number, name in enumerate(("old", "new")):
        (tmp_path / name / "checkpoints" / "last.ckpt").write_bytes(b"x")
        os.utime(tmp_path / name, (number, number))
    assert newest_run(tmp_path) == str(tmp_path / "new")


@pytest.mark.slow
def test_the_load_benchmark_counts_what_it_asked(scenes, tmp_path):
    search_load(clients=3, queries=9, root=scenes, json=tmp_path / "load.json")
    figures = json.loads((tmp_path / "load.json").read_text())
    assert (figures["images"], figures["clients"], figures["queries"], figures["failures"]) == (42, 3, 9, 0)
    assert 0 < figures["p50"] <= figures["p95"] <= figures["slowest"] and 1 <= figures["calls"] <= 9
    assert figures["memory_start"] > 100
    with pytest.raises(ValueError, match="queries"):
        search_load(clients=3, queries=2, root=scenes)
