"""A protocol without some of its images means by its positions what the whole one means by its names."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.metrics import (
    AveragePrecisionAt,
    RecallAt,
    SoftRecallAt,
    SoftSubsetRecallAt,
    SubsetRecallAt,
)
from contextcir.evaluation.protocol import Protocol
from data_modules.loading.missing import restrict
from data_modules.records import QueryRecord

METRICS = (
    *RecallAt.at(1, 2),
    SubsetRecallAt(1),
    AveragePrecisionAt(2),
    *SoftRecallAt.at(1, 2),
    SoftSubsetRecallAt(1),
)
NAMES = [f"i{number}" for number in range(7)]


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[Protocol, tuple[QueryRecord, ...]]:
    """Protocols with all fields in use, and records in one or two views."""
    count, views = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    images = st.integers(0, len(NAMES) - 1)
    references = draw(st.lists(images, min_size=count, max_size=count))
    targets, subsets, graded = [], [], []
    for reference in references:
        others = [image for image in range(len(NAMES)) if image != reference]
        targets.append(tuple(draw(st.lists(st.sampled_from(others), min_size=1, max_size=3, unique=True))))
        subsets.append(tuple(draw(st.lists(images, max_size=4, unique=True))))
        graded.append(dict.fromkeys(draw(st.lists(images, max_size=3, unique=True)), 0.5))
    protocol = Protocol(
        benchmark="toy",
        split="val",
        gallery=tuple(NAMES),
        query_ids=tuple(range(10, 10 + count)),
        targets=tuple(targets),
        references=tuple(references),
        exclude_reference=True,
        subsets=tuple(subsets),
        graded_targets=tuple(graded),
        query_views=views,
        metrics=METRICS,
        strata={"first": (0,), "all": tuple(range(count))},
    )
    records = tuple(
        QueryRecord(NAMES[references[query]], f"view {view}", target=NAMES[targets[query][0]], id=10 + query)
        for view in range(views)
        for query in range(count)
    )
    return protocol, records


@given(evaluations(), st.sets(st.sampled_from(NAMES), min_size=1, max_size=3), st.integers(0, 99))
def test_scores_are_those_of_the_images_that_are_left(
    evaluation: tuple[Protocol, tuple[QueryRecord, ...]], missing: set[str], seed: int
) -> None:
    protocol, records = evaluation
    count = len(protocol.query_ids)
    keeps = [
        query
        for query in range(count)
        if NAMES[protocol.references[query]] not in missing
        and any(NAMES[image] not in missing for image in protocol.targets[query])
    ]
    if not keeps:
        with pytest.raises(ValueError, match="no query is left"):
            restrict(protocol, records, missing)
        return
    restricted, left, positions = restrict(protocol, records, missing)
    assert [records[position]._replace(target="") for position in positions] == [r._replace(target="") for r in left]
    assert [(record.caption, record.id) for record in left] == [
        (f"view {view}", 10 + query) for view in range(protocol.query_views) for query in keeps
    ]

    def named(one: Protocol, query: int) -> list[object]:
        def names(images: tuple[int, ...]) -> list[str]:
            return [one.gallery[image] for image in images if one.gallery[image] not in missing]

        graded = {one.gallery[image]: value for image, value in one.graded_targets[query].items()}
        graded = {name: value for name, value in graded.items() if name not in missing}
        reference = one.gallery[one.references[query]]
        return [one.query_ids[query], names(one.targets[query]), names(one.subsets[query]), graded, reference]

    assert [named(restricted, new) for new in range(len(keeps))] == [named(protocol, query) for query in keeps]
    assert restricted.strata == {
        name: tuple(new for new, query in enumerate(keeps) if query in members)
        for name, members in protocol.strata.items()
        if set(members) & set(keeps)
    }
    generator = torch.Generator().manual_seed(seed)
    gallery, queries = torch.randn(len(NAMES), 4, generator=generator), torch.randn(count, 4, generator=generator)
    whole = replace(
        protocol,
        query_views=1,
        targets=tuple(tuple(i for i in row if NAMES[i] not in missing) or row for row in protocol.targets),
    )
    figures = []
    for one, rows, images in (
        (whole, keeps, [image for image, name in enumerate(NAMES) if name not in missing]),
        (replace(restricted, query_views=1), range(len(keeps)), range(len(restricted.gallery))),
    ):
        metric = CompositionMetric(one)
        metric.update_queries(torch.tensor(list(rows)), queries[keeps])
        metric.update_gallery(torch.tensor(list(images)), gallery[[NAMES.index(name) for name in restricted.gallery]])
        figures.append({name: round(value.item(), 4) for name, value in metric.figures().items()})
    assert figures[0] == figures[1]
