"""Both indexes against one written with Python's lists: whatever is stored, removed and asked for, in any order."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contextcir.errors import InputError
from contextcir.search.embedded import EmbeddedIndex
from contextcir.search.index import Index, Where
from contextcir.search.qdrant import SPARE, QdrantIndex
from contextcir.search.recall import recall_at
from tests.helpers.index_cases import FOLDERS, FORMATS, PATHS, Lists, assert_best, fill, paths, photo

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
ABOUT = {"weights": "abc", "sizes": (3, 4)}
Make = Callable[..., Index]


@pytest.fixture(params=["folder", "qdrant in memory", "qdrant on a server"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes an index; one of the same name opens that again."""
    opened: list[Any] = []
    if request.param == "folder":

        def new(name: str, about: Any = ABOUT) -> Index:
            opened.append(EmbeddedIndex(tmp_path / name, about))
            return opened[-1]

    else:
        address = os.environ.get("QDRANT_URL")
        if request.param == "qdrant on a server" and not address:
            pytest.skip("needs a Qdrant server, its address in QDRANT_URL")
        package = pytest.importorskip("qdrant_client", reason="needs the extra `qdrant`")
        client = package.QdrantClient(address if "server" in request.param else ":memory:")
        run = uuid4().hex

        def new(name: str, about: Any = ABOUT) -> Index:
            opened.append(QdrantIndex(client, f"test_{run}_{name}", about))
            return opened[-1]

    yield new
    for index in opened:
        if isinstance(index, QdrantIndex) and "server" in request.param:
            client.delete_collection(index.collection)
    if "qdrant" in request.param:
        client.close()
    else:
        for index in opened:
            index.close()


vectors = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)
some_paths = st.lists(st.sampled_from([*PATHS, "unknown.jpg"]), max_size=4)
some_vectors = st.lists(vectors, min_size=1, max_size=3)
wheres = st.none() | st.builds(
    Where,
    st.sampled_from(FOLDERS),
    st.none() | st.integers(-2, 3),
    st.none() | st.integers(-2, 3),
    st.lists(st.sampled_from(FORMATS), max_size=2).map(tuple),
)
photos = st.builds(
    photo,
    st.sampled_from(PATHS),
    st.none() | st.integers(-2, 3),
    st.sampled_from(FORMATS),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**40),
)
steps = st.lists(
    st.tuples(st.just("upsert"), st.lists(st.tuples(photos, vectors), max_size=6))
    | st.tuples(st.just("delete"), some_paths)
    | st.tuples(
        st.just("search"), st.tuples(some_vectors, st.integers(1, 20), wheres, some_paths, st.none() | some_vectors)
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_it_holds_and_finds_what_lists_do(make: Make, steps: list[tuple[str, Any]]) -> None:
    index, lists = make(uuid4().hex), Lists()
    for verb, given_to_it in steps:
        if verb == "upsert":
            of_them, their_vectors = [one for one, _ in given_to_it], [vector for _, vector in given_to_it]
            index.upsert(of_them, torch.tensor(their_vectors, dtype=torch.float32).reshape(-1, 3))
            lists.upsert(of_them, their_vectors)
        elif verb == "delete":
            assert index.delete(given_to_it) == lists.delete(given_to_it)
        else:
            queries, count, where, without, away = given_to_it
            unwanted = None if away is None else torch.tensor(away, dtype=torch.float32)
            found = index.search(torch.tensor(queries, dtype=torch.float32), count, where, without, unwanted)
            for query, hits in zip(queries, found, strict=True):
                assert_best(hits, lists.scores(query, where, without, away or ()), count, 1e-3)
                assert all(hit.photo == lists.stored[hit.photo.path][0] for hit in hits)
            assert index.count(where) == len(lists.scores(queries[0], where))
    assert [stored.photo for stored in index.fetch()] == [lists.stored[path][0] for path in sorted(lists.stored)]
    for stored in index.fetch(PATHS[::2], embeddings=True):
        assert stored.embedding.tolist() == pytest.approx(lists.stored[stored.photo.path][1], abs=1e-3)


def test_conditions_hold_for_the_photos_that_they_should(make: Make) -> None:
    index, lists = make("conditions"), Lists()
    dates = [None, -2, -1, 0, 1, 2, 3]
    kept = [photo(path, dates[n % 7], FORMATS[n % 3], 2**64 - 1 - n) for n, path in enumerate(PATHS)]
    directions = [[1, n] for n in range(len(PATHS))]
    index.upsert(kept, torch.tensor(directions, dtype=torch.float32))
    lists.upsert(kept, directions)
    times = [(None, None), (0, None), (None, 1), (-1, 2), (2, 2)]
    formats: list[tuple[str, ...]] = [(), ("PNG",), ("PNG", "HEIF"), ("GIF",)]
    for where in [
        *(Where(folder) for folder in FOLDERS),
        *(Where(folder, since, until) for folder in (None, "a") for since, until in times),
        *(Where(folder, 0, None, kinds) for folder in (None, "a") for kinds in formats),
        *(Where(formats=kinds) for kinds in formats),
    ]:
        scores = lists.scores([1, 0], where)
        assert index.count(where) == len(scores), where
        (found,) = index.search(torch.tensor([[1.0, 0.0]]), len(PATHS), where)
        assert set(paths(found)) == set(scores), where
        assert all(where.holds(hit.photo) and hit.photo == lists.stored[hit.photo.path][0] for hit in found)


def test_an_empty_index_finds_nothing(make: Make) -> None:
    index = make("empty")
    assert index.search(torch.ones(2, 5), 3, Where("a"), ["b"], torch.ones(1, 5)) == [[], []]
    assert (index.count(), index.delete(["a"]), list(index.fetch(embeddings=True))) == (0, 0, [])
    index.upsert([], torch.empty(0, 7))
    fill(index, {"a": [1, 0]})
    assert index.delete(["a", "a"]) == 1
    assert index.search(torch.ones(1, 2), 3) == [[]]


def test_equal_scores_are_in_order_of_paths(make: Make) -> None:
    index = make("equal")
    names = [f"{number:02}" for number in range(SPARE)]
    fill(index, {"best": [1, 2, 3], **{name: [3, 2, 1] for name in reversed(names)}, "worst": [-1, -1, -1]})
    for count in (1, 2, 5, SPARE, SPARE + 2):
        (found,) = index.search(torch.tensor([[1.0, 2.0, 3.0]]), count)
        assert paths(found) == ["best", *names, "worst"][:count]
        assert len({hit.score for hit in found[1 : SPARE + 1]}) <= 1


def test_an_image_that_is_left_out_is_there_the_next_time(make: Make) -> None:
    index = make("left out")
    fill(index, {"a": [1, 0], "b": [1, 1]})
    for where in (None, Where(formats=("JPEG",))):
        for without, left in ((["a", "unknown"], ["b"]), ((), ["a", "b"]), (["a", "b"], [])):
            assert paths(index.search(torch.tensor([[1.0, 0.0]]), 5, where, without)[0]) == left


def test_embeddings_and_queries_may_have_any_length_and_precision(make: Make) -> None:
    index = make("length")
    index.upsert([photo("a"), photo("b")], torch.tensor([[0.0, 900.0], [3e-3, 4e-3]], dtype=torch.float64))
    ((first, second),) = index.search(torch.tensor([[0.0, 5.0]], dtype=torch.bfloat16), 2)
    assert (first.photo.path, second.photo.path) == ("a", "b")
    assert first.score == pytest.approx(1, abs=1e-3) and second.score == pytest.approx(0.8, abs=1e-3)


def test_the_last_one_of_several_photos_of_a_path_counts(make: Make) -> None:
    index = make("twice")
    index.upsert([photo("a", size=1), photo("b"), photo("a", size=2)], torch.eye(3))
    assert [stored.photo.size for stored in index.fetch(["a"])] == [2]
    assert index.search(torch.eye(3)[2:], 1)[0][0].score == pytest.approx(1, abs=1e-3)
    assert index.count() == 2


def test_it_is_there_again_when_it_is_opened(make: Make) -> None:
    first = make("again")
    fill(first, {"a": [1, 0], "b": [1, 1]})
    for again in (make("again"), make("again", None)):
        assert again.about == {"weights": "abc", "sizes": [3, 4]} == first.about
        assert again.search(torch.eye(2), 2) == first.search(torch.eye(2), 2)
    fill(again, {"c": [0, 1]})
    assert first.count() == 3 and paths(first.search(torch.tensor([[0.0, 1.0]]), 1)[0]) == ["c"]


def test_photos_come_without_their_thumbnails_if_these_are_not_wanted(make: Make) -> None:
    index = make("thumbnails")
    fill(index, {"a": [1, 0]})
    (plain,) = index.fetch(thumbnails=False)
    assert plain.photo.thumbnail == b"" and plain.photo.path == "a" and plain.embedding is None
    assert [one.photo.thumbnail for one in index.fetch(["a"])] == [photo("a").thumbnail]


def test_an_index_about_something_else_is_refused(make: Make) -> None:
    fill(make("other"), {"a": [1, 0]})
    with pytest.raises(InputError, match=r"made by something else \(see 'sizes, weights'\).*choose another"):
        make("other", {"weights": "xyz"})
    with pytest.raises(InputError, match="index a folder of images first"):
        make("not there", None)


def test_what_can_not_be_stored_or_asked_is_refused(make: Make) -> None:
    index = make("refused")
    fill(index, {"a": [1, 0]})
    before = list(index.fetch(embeddings=True))
    bad = [torch.ones(1, 3), torch.ones(1, 2, 1), torch.tensor([[1.0, math.nan]]), torch.tensor([[1.0, math.inf]])]
    for vector in bad:
        with pytest.raises(InputError, match=r"expected embeddings of (shape \(N, 2\)|finite numbers), got"):
            index.upsert([photo("b")], vector)
        with pytest.raises(InputError, match="expected queries of"):
            index.search(vector, 1)
        with pytest.raises(InputError, match="expected embeddings to move away from of"):
            index.search(torch.ones(1, 2), 1, away=vector)
    with pytest.raises(InputError, match="an embedding for each of 2 photos, got 1"):
        index.upsert([photo("b"), photo("c")], torch.ones(1, 2))
    for count in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="a whole number from 1 on"):
            index.search(torch.ones(1, 2), count)
    after = list(index.fetch(embeddings=True))
    assert [one.photo for one in after] == [one.photo for one in before] and index.count() == 1


def test_recall_is_the_share_of_the_best_that_is_found(make: Make) -> None:
    exact, other = make("exact"), make("other")
    angles = {str(step): [math.cos(step / 10), math.sin(step / 10)] for step in range(10)}
    fill(exact, angles)
    fill(other, {name: vector for name, vector in angles.items() if name not in ("0", "9")})
    queries = torch.tensor([angles["0"], angles["9"], angles["5"]])
    assert recall_at(exact, queries, 4, exact) == 1
    assert recall_at(other, queries, 4, exact) == pytest.approx((3 / 4 + 3 / 4 + 1) / 3)
    with pytest.raises(InputError, match="at least one query"):
        recall_at(exact, queries[:0], 4, exact)
    with pytest.raises(InputError, match="without images"):
        recall_at(exact, queries, 4, make("none"))
