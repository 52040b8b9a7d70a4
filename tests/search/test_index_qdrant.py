"""The index on Qdrant: what is asked of the server, how names are stored, and what happens if it does not answer."""

import os
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.errors import InputError
from contextcir.search import qdrant
from contextcir.search.index import Where
from contextcir.search.qdrant import Approximate, QdrantIndex, from_text, point_id, to_payload, to_photo, to_text
from tests.helpers.index_cases import PATHS, fill, paths, photo

pytest.importorskip("qdrant_client", reason="needs the extra `qdrant`")

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[QdrantClient]:
    monkeypatch.setattr(qdrant, "PAUSE", 0.001)
    client = QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture
def index(client: QdrantClient) -> QdrantIndex:
    index = QdrantIndex(client, "photos", {})
    fill(index, {"a": [1, 0], "b/c/d.jpg": [1, 1]})
    return index


@settings(max_examples=200, deadline=None)
@given(
    name=st.binary(max_size=12).map(os.fsdecode) | st.text("\\u0123456789abcdef", max_size=12) | st.sampled_from(PATHS)
)
def test_every_name_of_a_file_is_stored_as_text_and_comes_back(name: str) -> None:
    to_text(name).encode()
    assert from_text(to_text(name)) == name
    assert to_photo(to_payload(photo(name, look=2**64 - 1))) == photo(name, look=2**64 - 1)


def test_ids_are_those_of_paths_and_names_can_be_read() -> None:
    assert len({point_id(path) for path in PATHS}) == len(PATHS)
    assert uuid.UUID(point_id("a")).version == 5
    assert to_text("Ferien/Küste.jpg") == "Ferien/Küste.jpg"
    assert to_payload(photo("a/b/c.jpg"))["folders"] == ["a", "a/b"]
    assert to_payload(photo("c.jpg"))["folders"] == []


class Asked:
    """A client that notes the requests for a search."""

    def __init__(self, client: QdrantClient) -> None:
        self.client, self.requests = client, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def query_batch_points(self, collection: str, requests: list[models.QueryRequest]) -> Any:
        self.requests += requests
        return self.client.query_batch_points(collection, requests)


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_a_search_is_exact_unless_it_is_to_be_approximate(client: QdrantClient, index: QdrantIndex) -> None:
    asked = Asked(client)
    for approximate in (None, Approximate(hnsw_ef=7, rescore=False, oversampling=3)):
        QdrantIndex(asked, "photos", approximate=approximate).search(torch.ones(2, 2), 1)  # type: ignore[arg-type]
    exact, _, near, _ = (request.params for request in asked.requests)
    assert (exact.exact, exact.quantization.ignore) == (True, True)
    assert (near.exact, near.hnsw_ef, near.quantization.rescore, near.quantization.oversampling) == (False, 7, False, 3)


@pytest.mark.parametrize(
    "setting", [{"hnsw_ef": 0}, {"hnsw_ef": 1.5}, {"oversampling": 0.5}, {"oversampling": float("nan")}]
)
def test_settings_without_sense_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        Approximate(**setting)


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_unwanted_images_go_to_its_recommendations(client: QdrantClient, index: QdrantIndex) -> None:
    """Its average-vector strategy is 2 q - mean(away), which the suite for both indexes compares by scores."""
    asked = Asked(client)
    QdrantIndex(asked, "photos").search(torch.tensor([[3.0, 4.0]]), 1, away=torch.eye(2))  # type: ignore[arg-type]
    recommended = asked.requests[0].query.recommend
    assert recommended.positive == [pytest.approx([0.6, 0.8])] and recommended.negative == [[1, 0], [0, 1]]
    assert recommended.strategy == models.RecommendStrategy.AVERAGE_VECTOR


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_more_than_a_request_holds_goes_in_several(
    client: QdrantClient, index: QdrantIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant, "STORED", 3)
    monkeypatch.setattr(qdrant, "QUERIES", 2)
    names = [f"{number:02}" for number in range(10)]
    fill(index, {name: [1, number] for number, name in enumerate(names)})
    assert [one.photo.path for one in index.fetch()] == [*names, "a", "b/c/d.jpg"]
    found = index.search(torch.eye(2).repeat(3, 1)[:5], 1)
    assert [paths(hits) for hits in found[:2]] == [["00"], ["09"]] and found[:2] * 2 + found[:1] == found
    assert index.delete([*names, "unknown"]) == 10 and index.count() == 2


class Failing:
    """A client whose requests fail some times."""

    def __init__(self, client: QdrantClient, error: Exception, times: int) -> None:
        self.client, self.error, self.times, self.asked = client, error, times, 0

    def __getattr__(self, name: str) -> Any:
        def request(*given: Any, **named: Any) -> Any:
            self.asked += 1
            if self.asked <= self.times:
                raise self.error
            return getattr(self.client, name)(*given, **named)

        return request


def answer(status: int) -> UnexpectedResponse:
    return UnexpectedResponse(status, "reason", b"the\nanswer", httpx.Headers())


LOST = ResponseHandlingException(httpx.ConnectError("connection refused"))


@pytest.mark.parametrize("error", [LOST, answer(503), answer(429)], ids=["lost", "503", "429"])
def test_a_request_is_repeated_until_the_server_answers(
    client: QdrantClient, index: QdrantIndex, error: Exception
) -> None:
    index._client = failing = Failing(client, error, qdrant.TRIES - 1)  # type: ignore[assignment]
    assert index.count() == 2 and failing.asked == qdrant.TRIES
    failing.times = 10**9
    failing.asked = 0
    with pytest.raises(InputError, match="the collection 'photos' can't be used: ") as told:
        index.count()
    assert failing.asked == qdrant.TRIES and "\n" not in str(told.value)


def test_a_request_that_is_wrong_is_not_repeated(client: QdrantClient, index: QdrantIndex) -> None:
    index._client = failing = Failing(client, answer(400), 1)  # type: ignore[assignment]
    with pytest.raises(InputError, match="400"):
        index.count(Where("a"))
    assert failing.asked == 1


def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "PAUSE", 0.001)
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:1: the collection 'photos' can't be used: .*refused"):
        QdrantIndex("http://127.0.0.1:1", "photos", {})
    with pytest.raises(InputError, match="expected the address of a server"):
        QdrantIndex("ftp://nonsense:port", "photos", {})


@pytest.mark.parametrize("metadata", [None, {"contextcir": 9, "about": "{}"}], ids=["of others", "of another version"])
def test_other_collections_are_refused(client: QdrantClient, metadata: dict[str, Any] | None) -> None:
    vectors = models.VectorParams(size=2, distance=models.Distance.COSINE)
    client.create_collection("photos", vectors, metadata=metadata)
    with pytest.raises(
        InputError, match=r"'photos' (was not made by this project|has format 9, expected 1).*another one"
    ):
        QdrantIndex(client, "photos", {})


def test_a_collection_is_made_with_what_filters_need_and_may_be_quantised() -> None:
    made: list[tuple[str, dict[str, Any]]] = []
    quick = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8))
    stand_in = SimpleNamespace(
        collection_exists=lambda name: False,
        create_collection=lambda name, vectors, **settings: made.append((vectors.distance, settings)),
        create_payload_index=lambda name, field, field_schema, wait: made.append((field, field_schema)),
        upsert=lambda *given, **named: None,
    )
    index = QdrantIndex(stand_in, "photos", {"a": 1}, quantization=quick)  # type: ignore[arg-type]
    for name in ("a", "b"):
        fill(index, {name: [1, 0]})
    (distance, created), *indexed = made
    assert distance == models.Distance.COSINE and created["quantization_config"] is quick
    assert created["metadata"] == {"contextcir": 1, "about": '{"a": 1}'}
    assert dict(indexed) == {"folders": "keyword", "format": "keyword", "taken": "integer"} and len(indexed) == 3
