"""A protocol refuses what contradicts itself, and describes everything that decides the figures."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from contextcir.evaluation.metrics import (
    AveragePrecisionAt,
    MeanOf,
    RecallAt,
    SoftRecallAt,
    SoftSubsetRecallAt,
    SubsetRecallAt,
)
from contextcir.evaluation.protocol import Protocol, averaging_groups

HARD = (*RecallAt.at(1, 5), SubsetRecallAt(1), *AveragePrecisionAt.at(5, 10))
SOFT = (*SoftRecallAt.at(1, 5), SoftSubsetRecallAt(1))
METRICS = (*HARD, *SOFT, MeanOf("mean_recall", RecallAt(5), SubsetRecallAt(1)))
PROTOCOL = Protocol(
    benchmark="toy",
    split="val",
    gallery=("a", "b", "c", "d"),
    query_ids=(70, 71),
    targets=((1,), (2, 3)),
    references=(0, -1),
    exclude_reference=True,
    graded_targets=({1: 1.0, 0: -1.0}, {}),
    subsets=((0, 1, 2), (2, 3)),
    query_views=2,
    metrics=METRICS,
    strata={"concepts_2": (1,)},
    averaged_as="all",
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
        ({"subsets": None}, "metrics has subset_recall_at_1, but `subsets` is None"),
        ({"graded_targets": None}, "metrics has soft_recall_at_1, but `graded_targets` is None"),
        (
            {"metrics": RecallAt.at(5, 1)},
            r"recall_at: expected rising positive cut-offs, whole numbers, got \[5, 1\]",
        ),
        ({"metrics": RecallAt.at(0, 1)}, "metrics recall_at: expected rising positive"),
        ({"metrics": RecallAt.at(1, math.nan)}, "metrics recall_at: expected rising positive"),
        ({"metrics": RecallAt.at(1, math.inf)}, "metrics recall_at: expected rising positive"),
        ({"metrics": RecallAt.at(True, 5)}, "metrics recall_at: expected rising positive"),
        ({"metrics": AveragePrecisionAt.at(5, 5)}, "metrics map_at_5: is reported twice"),
        ({"strata": {"concepts 2": (1,)}}, "strata.*concepts 2"),
        ({"strata": {"concepts_2": ()}}, "strata.*empty"),
        ({"strata": {"concepts_2": (0, 0)}}, "strata.*twice"),
        ({"strata": {"concepts_2": (2,)}}, r"strata.*0\.\.1"),
        ({"query_views": 0}, "query_views expected a whole number from 1 on, got 0"),
        ({"averaged_as": "a b"}, "averaged_as expected a word.*'a b'"),
        ({"graded_targets": ({},)}, r"graded_targets expected one per query \(2\), got 1"),
        ({"graded_targets": ({4: 1.0}, {})}, r"graded_targets of query 70.*0\.\.3, got 4"),
        ({"graded_targets": ({}, {2: 1.5})}, "graded_targets of query 71.*relevance up to 1, got 1.5 for 2"),
        ({"graded_targets": ({}, {2: float("nan")})}, "graded_targets of query 71.*got nan"),
        ({"targets": ((), ())}, "graded_targets of query 70.*`targets` is empty"),
        (
            {"metrics": (*HARD, MeanOf("map_at_5", RecallAt(1)))},
            "metrics map_at_5: is reported twice: give every metric a name of its own",
        ),
        ({"metrics": (*HARD, MeanOf("mean recall", RecallAt(1)))}, "metrics mean recall: is no word"),
        (
            {"metrics": (*HARD, MeanOf("mean", RecallAt(2)))},
            r"mean: expected a mean of some of recall_at_1.*got \['recall_at_2'\]",
        ),
        ({"metrics": (*HARD, MeanOf("mean"))}, "metrics mean: expected a mean of some of"),
        ({"headline": "recall_at_2"}, "headline.*recall_at_2.*recall_at_1, recall_at_5"),
    ],
)
def test_contradictions_are_refused_by_field_and_query(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        replace(PROTOCOL, **changes)
    assert str(error.value).startswith("protocol toy") and "\n" not in str(error.value)


def test_hidden_labels_are_a_state_of_the_whole_protocol() -> None:
    assert PROTOCOL.labelled
    assert not replace(PROTOCOL, targets=((), ()), graded_targets=None, metrics=HARD).labelled


def test_a_reference_may_be_a_target_where_it_stays_in_the_gallery() -> None:
    options = {
        "targets": ((0,), (2,)),
        "exclude_reference": False,
        "subsets": None,
        "metrics": RecallAt.at(1, 5),
    }
    assert replace(PROTOCOL, **options, headline="recall_at_1").targets[0] == (0,)


def test_metric_names_are_in_reporting_order() -> None:
    hard = ("recall_at_1", "recall_at_5", "subset_recall_at_1", "map_at_5", "map_at_10")
    soft = ("soft_recall_at_1", "soft_recall_at_5", "soft_subset_recall_at_1")
    assert PROTOCOL.metric_names() == (*hard, *soft, "mean_recall")
    without = replace(PROTOCOL, graded_targets=None, metrics=(*HARD, METRICS[-1]))
    assert without.metric_names() == (*hard, "mean_recall") and without.means == ("mean_recall",)


def test_answers_may_be_looked_for_in_subsets_only() -> None:
    own = replace(PROTOCOL, metrics=(SubsetRecallAt(1),), graded_targets=None)
    assert own.metric_names() == ("subset_recall_at_1",)


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
        "graded_targets": True,
        "subsets": True,
        "query_views": 2,
        "ties": "against the targets",
        "recall_at": [1, 5],
        "recall_of_first": False,
        "subset_recall_at": [1],
        "average_precision_at": [5, 10],
        "soft_recall_at": [1, 5],
        "soft_subset_recall_at": [1],
        "average_precision_denominator": "min(targets, k)",
        "means": {"mean_recall": ["recall_at_5", "subset_recall_at_1"]},
        "strata": {"concepts_2": 1},
        "averaged_as": "all",
        "headline": "subset_recall_at_1",
        "query_text": "caption",
        "version": 1,
    }


def test_protocols_are_grouped_by_the_word_that_they_are_averaged_as() -> None:
    first, second = replace(PROTOCOL, split="a"), replace(PROTOCOL, split="b", strata={})
    other, alone = replace(PROTOCOL, split="c", averaged_as="rest"), replace(PROTOCOL, split="d", averaged_as=None)
    assert averaging_groups([first, other, second, alone]) == {"all": (0, 2), "rest": (1,)}
    assert averaging_groups([]) == averaging_groups([alone]) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "val"}, "toy val: split is that of another protocol of the same stage"),
        ({"split": "all", "averaged_as": None}, "toy val: averaged_as is 'all', which is a split of the same stage"),
        ({"split": "b", "metrics": HARD}, "toy b: averaged_as is 'all', but val has other metrics"),
    ],
)
def test_figures_that_would_share_a_name_or_can_not_be_averaged_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        averaging_groups([PROTOCOL, replace(PROTOCOL, **changes)])


def test_protocols_and_submission_files_need_no_torch() -> None:
    modules = [f"contextcir.evaluation.{name}" for name in ("metrics", "protocol", "submission", "submission_check")]
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
