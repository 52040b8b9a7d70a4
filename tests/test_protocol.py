"""A protocol refuses what contradicts itself, and describes everything that decides the figures."""

import json
from dataclasses import replace

import pytest

from contextcir.protocol import Protocol

PROTOCOL = Protocol(
    benchmark="toy",
    split="val",
    gallery=("a", "b", "c", "d"),
    query_ids=(70, 71),
    targets=((1,), (2, 3)),
    references=(0, -1),
    exclude_reference=True,
    subsets=((0, 1, 2), (2, 3)),
    recall_at=(1, 5),
    subset_recall_at=(1,),
    average_precision_at=(5, 10),
    strata={"concepts_2": (1,)},
    headline="subset_recall_at_1",
    options={"query_text": "caption"},
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "val/x"}, "split"),
        ({"gallery": ()}, "gallery"),
        ({"query_ids": ()}, "query_ids"),
        ({"gallery": ("a", "b", "c", "a")}, "gallery holds 'a' twice"),
        ({"query_ids": (70, 70)}, "query_ids holds 70 twice"),
        ({"targets": ((1,),)}, r"targets expected one per query \(2\), got 1"),
        ({"references": (0,)}, "references expected one per query"),
        ({"subsets": ((0, 1),)}, "subsets expected one per query"),
        ({"targets": ((1,), (4,))}, r"targets of query 71 \(position 1\).*0\.\.3, got 4"),
        ({"targets": ((1,), (-1,))}, "targets of query 71"),
        ({"targets": ((1,), (2, 2))}, "targets of query 71.*twice"),
        ({"targets": ((1,), ())}, "targets of query 71.*all of them or for none"),
        ({"targets": ((0,), (2,))}, "targets of query 70.*exclude_reference"),
        ({"targets": ((0,), (2,)), "exclude_reference": False}, "targets of query 70.*subset"),
        ({"references": (0, -2)}, "references of query 71"),
        ({"references": (4, -1)}, "references of query 70"),
        ({"subsets": ((0, 9), (2,))}, "subsets of query 70"),
        ({"subsets": ((0, 0), (2,))}, "subsets of query 70.*twice"),
        ({"subsets": None}, "subset_recall_at"),
        ({"recall_at": (5, 1)}, "recall_at expected rising"),
        ({"recall_at": (0, 1)}, "recall_at expected rising positive"),
        ({"average_precision_at": (5, 5)}, "average_precision_at"),
        ({"strata": {"concepts 2": (1,)}}, "strata.*concepts 2"),
        ({"strata": {"concepts_2": ()}}, "strata.*empty"),
        ({"strata": {"concepts_2": (0, 0)}}, "strata.*twice"),
        ({"strata": {"concepts_2": (2,)}}, r"strata.*0\.\.1"),
        ({"headline": "recall_at_2"}, "headline.*recall_at_2.*recall_at_1, recall_at_5"),
    ],
)
def test_contradictions_are_refused_by_field_and_query(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        replace(PROTOCOL, **changes)
    assert str(error.value).startswith("protocol toy") and "\n" not in str(error.value)


def test_hidden_labels_are_a_state_of_the_whole_protocol() -> None:
    assert PROTOCOL.labelled
    assert not replace(PROTOCOL, targets=((), ())).labelled


def test_a_reference_may_be_a_target_where_it_stays_in_the_gallery() -> None:
    options = {"targets": ((0,), (2,)), "exclude_reference": False, "subsets": None, "subset_recall_at": ()}
    assert replace(PROTOCOL, **options, headline="recall_at_1").targets[0] == (0,)


def test_metric_names_are_in_reporting_order() -> None:
    assert PROTOCOL.metric_names() == ("recall_at_1", "recall_at_5", "subset_recall_at_1", "map_at_5", "map_at_10")


def test_description_holds_every_option_and_is_json() -> None:
    described = json.loads(json.dumps(PROTOCOL.describe()))
    assert described == {
        "benchmark": "toy",
        "split": "val",
        "gallery": 4,
        "queries": 2,
        "labelled": True,
        "targets_per_query_max": 2,
        "exclude_reference": True,
        "subsets": True,
        "recall_at": [1, 5],
        "subset_recall_at": [1],
        "average_precision_at": [5, 10],
        "average_precision_denominator": "min(targets, k)",
        "strata": {"concepts_2": 1},
        "headline": "subset_recall_at_1",
        "query_text": "caption",
    }
