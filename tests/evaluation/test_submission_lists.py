"""Ranked lists of a submission: the nearest images in order, and their scores by the definition."""

import json
import random
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import contextcir.evaluation.nearest
from contextcir.evaluation.nearest import ranked_lists
from contextcir.evaluation.ranking import score_chunks, top_columns
from contextcir.evaluation.submission import SubmissionFormat, make, score
from contextcir.evaluation.submission_check import check, lists_of, parse
from tests.helpers import submission_oracle
from tests.helpers.make_submission import (
    CIRCO,
    GALLERY,
    RECALL,
    SUBSET,
    circo_protocol,
    cirr_protocol,
    protocol_of,
    some_lists,
)


@pytest.mark.parametrize(
    ("form", "gallery", "count"), [(RECALL, 51, 50), (RECALL, 50, 49), (RECALL, 9, 8), (SUBSET, 9, 3), (SUBSET, 6, 3)]
)
def test_a_small_gallery_is_listed_whole(form: SubmissionFormat, gallery: int, count: int) -> None:
    protocol = cirr_protocol(gallery)
    embeddings = torch.randn(gallery, 5, generator=torch.Generator().manual_seed(0))
    lists = ranked_lists(form, protocol, embeddings[:3], embeddings)
    assert {len(row) for row in lists} == {count}
    assert check(form, protocol, parse(make(form, protocol, lists).encode())) == []


def test_circo_lists_the_reference_unless_it_is_excluded() -> None:
    for exclude, count in ((False, 9), (True, 8)):
        protocol = circo_protocol(9, exclude_reference=exclude)
        embeddings = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
        lists = ranked_lists(CIRCO, protocol, embeddings[list(protocol.references)], embeddings)
        assert [len(row) for row in lists] == [count] * 3
        assert all((row[0] == own) != exclude for row, own in zip(lists, protocol.references, strict=True))


def test_a_reference_outside_of_the_gallery_takes_no_place() -> None:
    protocol = cirr_protocol(references=(-1, 1, -1), subsets=((3, 4), (1, 2), (5, 6, 7, 8)), targets=((3,), (2,), (5,)))
    embeddings = torch.randn(GALLERY, 5, generator=torch.Generator().manual_seed(0))
    assert [len(row) for row in ranked_lists(SUBSET, protocol, embeddings[:3], embeddings)] == [2, 1, 3]
    lists = ranked_lists(RECALL, protocol, embeddings[:3], embeddings)
    assert lists[0][0] == 0 and 1 not in lists[1] and lists[2][0] == 2


@pytest.mark.parametrize("form", [RECALL, SUBSET, CIRCO])
def test_lists_hold_the_nearest_images_in_order(form: SubmissionFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        contextcir.evaluation.nearest, "score_chunks", partial(score_chunks, elements=GALLERY)
    )  # query by query
    generator = torch.Generator().manual_seed(1)
    gallery, queries = torch.randn(GALLERY, 8, generator=generator), torch.randn(3, 8, generator=generator)
    protocol = protocol_of(form)
    for query, row in enumerate(ranked_lists(form, protocol, queries, gallery)):
        pool = list(form.pool(protocol, query))
        if form is not CIRCO:
            pool.remove(protocol.references[query])
        cosine = [float(queries[query] @ image / queries[query].norm() / image.norm()) for image in gallery]
        assert row == sorted(pool, key=lambda image: -cosine[image])[: form.length]


@pytest.mark.parametrize("form", [RECALL, SUBSET, CIRCO])
def test_equal_scores_follow_the_gallery(form: SubmissionFormat) -> None:
    protocol = protocol_of(form)
    for query, row in enumerate(ranked_lists(form, protocol, torch.ones(3, 4), torch.ones(GALLERY, 4))):
        pool = [i for i in sorted(form.pool(protocol, query)) if form is CIRCO or i != protocol.references[query]]
        assert row == pool[: form.length]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0, -torch.inf]), min_size=9, max_size=9), min_size=1),
    st.data(),
)
def test_top_columns_are_those_of_a_stable_sort(rows: list[list[float]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 9))
    expected = [sorted(range(9), key=lambda column, row=row: (-row[column], column))[:k] for row in rows]
    assert top_columns(torch.tensor(rows), k).tolist() == expected


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_diverged_model_gives_no_file(broken: float) -> None:
    queries, gallery = torch.ones(3, 4), torch.ones(GALLERY, 4)
    queries[1, 2] = broken
    with pytest.raises(ValueError, match="cirr val: the embedding of query 7 is not finite, as are 1 of 3"):
        ranked_lists(RECALL, cirr_protocol(), queries, gallery)
    gallery[[4, 9], 0] = broken
    with pytest.raises(ValueError, match="the embedding of image dev-4 is not finite, as are 2 of 60"):
        ranked_lists(RECALL, cirr_protocol(), torch.ones(3, 4), gallery)


def test_hidden_labels_can_not_be_scored() -> None:
    protocol = cirr_protocol(targets=((), (), ()))
    with pytest.raises(ValueError, match="labels of cirr val are hidden"):
        score(protocol, {RECALL: some_lists(RECALL, protocol)})


def test_one_of_the_two_cirr_files_gives_its_own_figures() -> None:
    protocol = cirr_protocol()
    assert list(score(protocol, {RECALL: some_lists(RECALL, protocol)})) == [f"recall_at_{k}" for k in (1, 5, 10, 50)]
    only = score(protocol, {SUBSET: some_lists(SUBSET, protocol)})
    assert list(only) == [f"subset_recall_at_{k}" for k in (1, 2, 3)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_circo_scores_are_those_of_the_definition(seed: int) -> None:
    """1 to 14 answers, a gallery in which many of them are not listed, and lists that begin with all of them."""
    order = random.Random(seed)
    records, lists = [], {}
    for query in range(order.randint(1, 6)):
        answers = order.sample(range(1000, 1000 + 4 * GALLERY), order.choice([1, 2, 5, 14]))
        others = [image for image in range(1000, 1000 + 4 * GALLERY) if image not in answers]
        found = order.sample(answers, order.randint(0, len(answers)))
        ranked = found + order.sample(others, 50 - len(found))
        if order.random() < 0.7:
            order.shuffle(ranked)
        aspects = order.sample(["addition", "negation", "viewpoint"], order.randint(0, 3))
        records.append({"id": query, "gt_img_ids": answers, "target_img_id": answers[0], "semantic_aspects": aspects})
        lists[str(query)] = ranked
    aspects = {aspect for record in records for aspect in record["semantic_aspects"]}
    protocol = circo_protocol(
        4 * GALLERY,
        query_ids=tuple(range(len(records))),
        targets=tuple(tuple(image - 1000 for image in record["gt_img_ids"]) for record in records),
        references=(-1,) * len(records),
        strata={
            f"aspect_{aspect}": tuple(r["id"] for r in records if aspect in r["semantic_aspects"])
            for aspect in sorted(aspects)
        },
    )
    submission = parse(json.dumps(lists).encode())
    assert check(CIRCO, protocol, submission) == []
    figures = score(protocol, {CIRCO: lists_of(CIRCO, protocol, submission)})
    assert figures == pytest.approx(submission_oracle.circo(records, lists), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cirr_scores_are_those_of_the_definition(seed: int) -> None:
    """Targets listed or not, grades from -1 to 1, also for the reference's set and for none."""
    order = random.Random(seed)
    names = [f"dev-{number}" for number in range(2 * GALLERY)]
    records, lists, in_subset = [], {}, {}
    for number in range(order.randint(1, 6)):
        members = order.sample(names, 6)
        reference, target = members[:2]
        graded = order.sample([name for name in names if name != reference], order.randint(0, 8))
        if order.random() < 0.5:
            graded = [*graded, *members[2:4]]
        record = {
            "pairid": 100 + number,
            "reference": reference,
            "target_hard": target,
            "target_soft": {name: order.choice([-1.0, 0.0, 0.2, 0.5, 1.0]) for name in graded},
            "members": order.sample(members, 6),
        }
        records.append(record)
        lists[str(record["pairid"])] = order.sample([name for name in names if name != reference], 50)
        in_subset[str(record["pairid"])] = order.sample(members[1:], 3)
    index = {name: number for number, name in enumerate(names)}
    protocol = cirr_protocol(
        2 * GALLERY,
        query_ids=tuple(record["pairid"] for record in records),
        targets=tuple((index[record["target_hard"]],) for record in records),
        references=tuple(index[record["reference"]] for record in records),
        subsets=tuple(tuple(index[name] for name in record["members"]) for record in records),
        graded_targets=tuple(
            {index[name]: grade for name, grade in record["target_soft"].items()} for record in records
        ),
    )
    files = {}
    for form, content in ((RECALL, lists), (SUBSET, in_subset)):
        submission = parse(json.dumps(form.header | content).encode())
        assert check(form, protocol, submission) == []
        files[form] = lists_of(form, protocol, submission)
    assert score(protocol, files) == pytest.approx(submission_oracle.cirr(records, lists, in_subset), abs=1e-4)
