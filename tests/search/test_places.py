"""Where an index is: in a folder, or on a Qdrant server that the folder names (here the client's own memory)."""

import json
from pathlib import Path
from typing import Any

import pytest

from contextcir.errors import InputError, MissingFileError
from contextcir.fusion import Sum
from contextcir.search import qdrant
from contextcir.search.embedded import EmbeddedIndex
from contextcir.search.places import make_index, open_index
from contextcir.search.searcher import Searcher
from contextcir.training.module import ContextCIR
from experiments.search.recall import recall
from tests.helpers import tiny
from tests.helpers.photos import picture, save

ABOUT = {"format": 1, "model": "m", "weights": "a" * 64, "preprocess": "b", "reading": 1, "folder": "/photos"}
URL = "http://localhost:6333"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    client = pytest.importorskip("qdrant_client", reason="needs the extra `qdrant`").QdrantClient(":memory:")
    monkeypatch.setattr(qdrant, "_client", lambda address: client)
    return client


def test_a_folder_holds_an_index_or_names_its_server(tmp_path: Path, server: Any) -> None:
    assert isinstance(make_index(tmp_path / "here", ABOUT), EmbeddedIndex)
    made = make_index(tmp_path / "there", ABOUT, URL)
    assert isinstance(made, qdrant.QdrantIndex) and made.collection == "there"
    assert json.loads((tmp_path / "there" / "qdrant.json").read_text()) == {"server": URL, "collection": "there"}
    assert isinstance(open_index(tmp_path / "here"), EmbeddedIndex)
    with pytest.raises(InputError, match="choose another folder"):
        make_index(tmp_path / "here", ABOUT, URL)
    with pytest.raises(InputError, match="is on 'http://localhost:6333', got 'http://other'"):
        make_index(tmp_path / "there", ABOUT, "http://other")


def test_photos_are_indexed_and_searched_on_a_server(
    tmp_path: Path, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        save(tmp_path / "album" / f"{number}.png", number)
    model = ContextCIR(tiny.backbone(), Sum)
    for shard in range(2):
        searcher = Searcher(model, "tiny")
        report = searcher.index_folder(tmp_path / "album", tmp_path / "far", only=(shard, 2), qdrant=URL)
        assert report.encoded == report.new
    assert searcher.index_folder(tmp_path / "album", tmp_path / "far").unchanged == 6  # the folder names the server
    again = Searcher(model, "tiny", open_index(tmp_path / "far"))
    found = again.search(picture(3), "a dog", k=6)
    local = Searcher(model, "tiny")
    local.index_folder(tmp_path / "album", tmp_path / "near")
    expected = local.search(picture(3), "a dog", k=6)
    assert [result.photo for result in found.results] == [result.photo for result in expected.results]
    with pytest.raises(InputError, match="another model"):
        Searcher(ContextCIR(tiny.backbone(seed=1), Sum), "b").index_folder(tmp_path / "album", tmp_path / "far")
    recall(tmp_path / "far", 3, 2, 0)
    assert "approximate search" in capsys.readouterr().out


def test_what_is_no_index_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no index in .*; make one: python -m experiments.search index"):
        open_index(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="expected a folder, found a file"):
        make_index(tmp_path / "file", ABOUT)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "letter.txt").write_text("x")
    with pytest.raises(InputError, match="other files than an index"):
        make_index(tmp_path / "own", ABOUT)
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["letter.txt"]
    for content in ("{}", "[]", '{"server": 1, "collection": "a"}'):
        (tmp_path / "qdrant.json").write_text(content)
        with pytest.raises(InputError, match="expected a server and a collection"):
            open_index(tmp_path)
