"""The file of what was retrieved: against similarities by hand, back as it was written, and in one line if damaged."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from callbacks.examples import examples, near_misses, worst
from callbacks.negatives import NegativeRoles
from callbacks.query_results import QueryResults
from callbacks.recall import RecallTable
from callbacks.retrieved import Found, Head, Picture, path_of, read_retrieved, write_retrieved
from contextcir.errors import InputError, MissingFileError
from tests.callbacks.test_negatives import some_roles
from tests.callbacks.test_recall import ToyModule, make_trainer
from tests.helpers.pictured import PicturedData
from tests.helpers.toy_evaluation import GALLERY, GRID, image_embeddings, make_protocol, text_embeddings
from tests.helpers.toy_evaluation import caption as toy_caption


class RoleData(PicturedData):
    """Names the roles of the images in the subsets."""

    def member_roles(self, split: str) -> dict[int, dict[str, str]]:
        protocol = make_protocol(split)
        return dict(zip(protocol.query_ids, some_roles(protocol), strict=True))


def evaluate(folder: Path, data: PicturedData, **settings: Any) -> tuple[Head, list[Found]]:
    trainer = make_trainer(folder, callbacks=[QueryResults(**settings), RecallTable(), NegativeRoles()])
    trainer.validate(ToyModule(), datamodule=data, verbose=False)
    return read_retrieved(path_of(folder, "val"))


def similarities(query: int) -> list[float]:
    embedding = image_embeddings()[make_protocol("val").references[query]] + 3 * text_embeddings()[query]
    return (normalize(image_embeddings()) @ normalize(embedding, dim=0)).tolist()


def test_the_file_has_texts_nearest_images_scores_kinds_and_places(tmp_path: Path) -> None:
    head, found = evaluate(tmp_path, RoleData(tmp_path / "images"), nearest=4)
    protocol = make_protocol("val")
    assert (head.benchmark, head.split, head.gallery) == ("toy", "val", GALLERY)
    assert not head.in_subsets and not head.of_first and head.root == str(tmp_path / "images")
    assert [query.query for query in found] == list(protocol.query_ids)
    for place, query in enumerate(found):
        scores = similarities(place)
        out = protocol.references[place]
        order = sorted((index for index in range(GALLERY) if index != out), key=lambda index: -scores[index])
        assert [name for name, _ in query.top["composed"]] == [protocol.gallery[index] for index in order[:4]]
        assert [score for _, score in query.top["composed"]] == pytest.approx([scores[i] for i in order[:4]], abs=1e-4)
        target = protocol.targets[place][0]
        assert query.own["composed"] == pytest.approx(scores[target], abs=1e-4)
        assert query.text == toy_caption(place, True) and query.text[slice(*query.phrases[0])] == "red ball"
        assert query.reference == protocol.gallery[out] and query.targets == (protocol.gallery[target],)
        known = {protocol.gallery[index]: "same set" for index in protocol.subsets[place]}
        known |= some_roles(protocol)[place] | {protocol.gallery[target]: "target"}
        shown = {name for best in query.top.values() for name, _ in best}
        assert query.kinds == {name: kind for name, kind in known.items() if name in shown}
        assert shown <= head.pictures.keys()
    assert head.pictures["image-1"] == Picture("image-1.png")


def test_failures_and_near_misses_have_maps_from_the_lowest_to_the_highest_value(tmp_path: Path) -> None:
    head, found = evaluate(tmp_path, PicturedData(tmp_path / "images"))
    ranks = json.loads((tmp_path / "queries.json").read_text())["val"]["rows"]["composed"]["rank"]
    with_maps = [place for place, query in enumerate(found) if query.attention is not None]
    assert head.grid == GRID and with_maps == [place for place, rank in enumerate(ranks) if rank != 1] != []
    for place in with_maps:
        maps = found[place].attention
        assert len(maps) == len(found[place].phrases) and min(map(min, maps)) == 0 and max(map(max, maps)) == 255
        assert maps[0].index(255) == 5  # of the toy's red ball
    head, found = evaluate(tmp_path, PicturedData(tmp_path / "images"), attention=0)
    assert head.grid is None and all(query.attention is None for query in found)


def test_no_file_is_written_for_zero_images_or_data_without_records(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        evaluate(tmp_path, PicturedData(tmp_path / "images"), nearest=0)
    assert (tmp_path / "queries.json").exists()


names = st.text(min_size=1, max_size=8)
tops = st.lists(st.tuples(names, st.floats(-1, 1)), max_size=3).map(tuple)
lines = st.builds(
    Found,
    query=st.integers(0, 99),
    reference=names,
    text=st.text(max_size=30),
    phrases=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple),
    targets=st.lists(names, max_size=2).map(tuple),
    top=st.dictionaries(names, tops, max_size=2),
    own=st.dictionaries(names, st.none() | st.floats(-1, 1), max_size=2),
    kinds=st.dictionaries(names, names, max_size=2),
    attention=st.none() | st.lists(st.lists(st.integers(0, 255), max_size=4).map(tuple), min_size=1).map(tuple),
)


@settings(deadline=None, max_examples=20)
@given(st.lists(lines, max_size=4), st.dictionaries(names, st.sampled_from([Picture("a"), Picture("b", (0, 1, 2, 3))])))
def test_what_is_written_is_read_back(tmp_path_factory: Any, found: list[Found], pictures: dict[str, Picture]) -> None:
    path = tmp_path_factory.mktemp("r") / "val.jsonl.gz"
    head = Head("b", "val", 3, False, True, "/root", pictures, (2, 2))
    write_retrieved(path, head, found)
    first = path.read_bytes()
    assert read_retrieved(path) == (head, found)
    write_retrieved(path, head, found)
    assert path.read_bytes() == first


def test_damaged_files_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl.gz"
    write_retrieved(path, Head("b", "val", 3, False, True, "/root", {}, None), [])
    good = path.read_bytes()
    contents = [
        b"",
        b"no gzip",
        good[:-9],
        gzip.compress(b""),
        gzip.compress(b"[]\n"),
        gzip.compress(b'{"format": 9}\n'),
    ]
    contents += [gzip.compress(b"\xff\xfe\n"), gzip.compress(gzip.decompress(good) + b"[1]\n")]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(InputError) as refused:
            read_retrieved(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)


RANKS = st.lists(st.none() | st.integers(0, 12), min_size=1, max_size=30)


@given(RANKS, st.integers(0, 6), st.data())
def test_examples_are_the_last_targets_and_the_closest_misses(ranks: list[int | None], count: int, data: Any) -> None:
    margins = data.draw(st.lists(st.none() | st.floats(0, 1), min_size=len(ranks), max_size=len(ranks)))
    among = list(range(0, len(ranks), 2))
    failed = worst(ranks, among, count)
    badness = [1000 if ranks[place] == 0 else ranks[place] for place in failed]
    left = [1000 if ranks[p] == 0 else ranks[p] for p in among if p not in failed and ranks[p] is not None]
    assert badness == sorted(badness, reverse=True) and all(rank >= 6 for rank in badness)
    assert len(failed) == count or all(rank <= 5 for rank in left)
    assert not failed or all(rank <= badness[-1] for rank in left)
    missed = near_misses(ranks, margins, among, count)
    distance = [2.0 if margins[place] is None else margins[place] for place in missed]
    assert distance == sorted(distance) and all(2 <= ranks[place] <= 5 for place in missed)
    chosen = examples(ranks, margins, {"even": among}, 0, count)
    assert chosen == sorted({*failed, *missed})
