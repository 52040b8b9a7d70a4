"""Submission files as text: made, read back and checked on protocols of a few queries."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from contextcir.evaluation.submission import SubmissionFormat, formats_of, make
from contextcir.evaluation.submission_check import check, lists_of, parse, recognise
from tests.helpers.make_submission import CIRCO, RECALL, SUBSET, circo_protocol, cirr_protocol, protocol_of, some_lists


def problems_of(form: SubmissionFormat, content: dict[str, Any]) -> list[str]:
    return check(form, protocol_of(form), parse(json.dumps(content).encode()))


@pytest.mark.parametrize("form", [RECALL, SUBSET, CIRCO])
def test_what_is_made_passes_the_check_and_reads_back(form: SubmissionFormat) -> None:
    protocol = protocol_of(form)
    lists = some_lists(form, protocol)
    submission = parse(make(form, protocol, lists).encode())
    assert check(form, protocol, submission) == []
    assert lists_of(form, protocol, submission) == lists
    assert recognise(formats_of(protocol), submission) is form


def test_the_text_is_that_of_the_servers() -> None:
    protocol = cirr_protocol()
    assert make(SUBSET, protocol, [[1, 2, 3], [2, 3, 4], [3, 4, 5]]) == (
        '{"version":"rc2","metric":"recall_subset","12060":["dev-1","dev-2","dev-3"],'
        '"7":["dev-2","dev-3","dev-4"],"12063":["dev-3","dev-4","dev-5"]}'
    )
    assert make(RECALL, protocol, [[], [], []]).startswith('{"version":"rc2","metric":"recall","12060":[')
    text = make(CIRCO, circo_protocol(), [[1, 0], [2], [3]])
    assert text == '{"0":[1001,1000],"1":[1002],"2":[1003]}'


def test_scenes_take_the_format_of_the_benchmark_that_they_imitate() -> None:
    assert formats_of(cirr_protocol(benchmark="scenes")) == (RECALL, SUBSET)
    assert formats_of(circo_protocol(benchmark="scenes")) == (CIRCO,)
    assert formats_of(cirr_protocol(benchmark="fashioniq")) == ()


def test_circo_needs_integers_as_image_names() -> None:
    protocol = circo_protocol(gallery=8)
    protocol = replace(protocol, gallery=("a", *protocol.gallery[1:]))
    with pytest.raises(ValueError, match="circo val: image names must be integers, got 'a'"):
        make(CIRCO, protocol, [[0]] * 3)


Change = Callable[[dict[str, Any]], object]


def of(key: str, change: Callable[[list[Any]], object]) -> Change:
    return lambda content: change(content[key])


@pytest.mark.parametrize(
    ("form", "change", "problem"),
    [
        (RECALL, lambda c: c.pop("7"), "query 7 is missing"),
        (RECALL, lambda c: (c.pop("7"), c.pop("12063")), "query 7 is missing (and 1 more)"),
        (RECALL, lambda c: c.update({"007": c.pop("7")}), "query 7 is missing"),
        (RECALL, lambda c: c.update({"8": [], "9": []}), 'key "8" is no query of cirr val (and 1 more)'),
        (RECALL, lambda c: c.pop("version"), "field 'version' is missing, expected 'rc2'"),
        (RECALL, lambda c: c.update(version="rc1"), "field 'version' is \"rc1\", expected 'rc2'"),
        (RECALL, lambda c: c.update(version=["rc2"]), "field 'version' is a list, expected 'rc2'"),
        (RECALL, lambda c: c.pop("metric"), "field 'metric' is missing, expected 'recall'"),
        (SUBSET, lambda c: c.pop("metric"), "field 'metric' is missing, expected 'recall_subset'"),
        (RECALL, lambda c: c.update(metric="Recall"), "field 'metric' is \"Recall\", expected 'recall'"),
        (SUBSET, lambda c: c.update(metric="recall"), "query 12060: holds 3 images, expected 50 (and 2 more)"),
        (RECALL, lambda c: c.update({"7": {"a": 1}}), "query 7: expected a list, got an object"),
        (RECALL, lambda c: c.update({"7": "dev-2"}), 'query 7: expected a list, got "dev-2"'),
        (RECALL, of("7", lambda row: row.pop()), "query 7: holds 49 images, expected 50"),
        (RECALL, of("7", lambda row: row.extend(["dev-9", "dev-8"])), "query 7: holds 52 images, expected 50"),
        (SUBSET, of("7", lambda row: row.pop()), "query 7: holds 2 images, expected 3"),
        (CIRCO, of("2", lambda row: row.clear()), "query 2: holds 0 images, expected 50"),
        (RECALL, of("7", lambda row: row.__setitem__(0, row[1])), "query 7: lists image \"{1}\" more than once"),
        (CIRCO, of("1", lambda row: row.__setitem__(0, row[1])), "query 1: lists image {1} more than once"),
        (RECALL, of("7", lambda row: row.__setitem__(4, "dev-60")), 'image "dev-60" is not in the gallery of val'),
        (RECALL, of("7", lambda row: row.__setitem__(4, "dev-5.png")), 'image "dev-5.png" is not in the gallery'),
        (CIRCO, of("0", lambda row: row.__setitem__(4, 7)), "query 0: image 7 is not in the gallery of val"),
        (RECALL, of("7", lambda row: row.__setitem__(9, "dev-1")), 'query 7: lists its reference "dev-1"'),
        (SUBSET, of("7", lambda row: row.__setitem__(0, "dev-1")), 'query 7: lists its reference "dev-1"'),
        (SUBSET, of("7", lambda row: row.__setitem__(0, "dev-0")), 'query 7: image "dev-0" is not a member of'),
        (RECALL, of("7", lambda row: row.__setitem__(0, 5)), "expected a name in quotes for every image, got 5"),
        (CIRCO, of("1", lambda row: row.__setitem__(0, str(row[0]))), "expected an integer without quotes for every"),
        (CIRCO, of("1", lambda row: row.__setitem__(0, float(row[0]))), "query 1: expected an integer without quotes"),
        (CIRCO, of("1", lambda row: row.__setitem__(0, True)), "query 1: expected an integer without quotes"),
        (CIRCO, of("1", lambda row: row.__setitem__(0, None)), "query 1: expected an integer without quotes"),
        (CIRCO, of("1", lambda row: row.__setitem__(0, [row[0]])), "for every image, got a list"),
        (CIRCO, lambda c: c.update(version="rc2"), 'key "version" is no query of circo val'),
    ],
)  # fmt: skip
def test_each_kind_of_mistake_is_named_with_its_first_query(
    form: SubmissionFormat, change: Change, problem: str
) -> None:
    protocol = protocol_of(form)
    content = json.loads(make(form, protocol, some_lists(form, protocol)))
    second = {key: row[1] for key, row in content.items() if isinstance(row, list)}
    change(content)
    submission = parse(json.dumps(content).encode())
    found = check(recognise(formats_of(protocol), submission), protocol, submission)
    query = "1" if form is CIRCO else "7"
    assert any(problem.replace("{1}", str(second[query])) in line for line in found), found
    assert len(found) <= 2, "one mistake must not be reported as many"


def test_keys_that_the_text_holds_twice_are_found() -> None:
    protocol = cirr_protocol()
    text = make(SUBSET, protocol, some_lists(SUBSET, protocol))
    twice = text[:-1] + ',"7":["dev-2","dev-3","dev-4"],"version":"rc2"}'
    assert check(SUBSET, protocol, parse(twice.encode())) == ['holds key "version" more than once (and 1 more)']
    once = text[:-1] + ',"7":["dev-2","dev-3","dev-4"]}'
    assert check(SUBSET, protocol, parse(once.encode())) == ['holds key "7" more than once']


def test_five_megabytes_are_the_limit() -> None:
    protocol = cirr_protocol()
    text = make(SUBSET, protocol, some_lists(SUBSET, protocol)).encode()
    assert check(SUBSET, protocol, parse(text + b" " * (5_000_000 - len(text)))) == []
    (problem,) = check(SUBSET, protocol, parse(text + b" " * (5_000_001 - len(text))))
    assert problem == "holds 5,000,001 bytes, more than the 5,000,000 allowed: write it without blanks"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not valid JSON"),
        (b'{"0": [1, 2,]}', "is not valid JSON"),
        (b'{"0": [1]} {}', "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"\xef\xbb\xbf{}", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'[{"0": [1]}]', "must be a JSON object with a list for every query, got a list"),
        (b"3", "must be a JSON object with a list for every query, got 3"),
    ],
)
def test_what_is_no_json_object_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(content)


def test_several_mistakes_are_all_named() -> None:
    protocol = cirr_protocol()
    content = json.loads(make(RECALL, protocol, some_lists(RECALL, protocol)))
    content["7"][:3] = ["dev-1", "dev-99", "dev-99"]
    content["12063"][0] = "dev-2"
    del content["version"], content["12060"]
    assert problems_of(RECALL, content) == [
        "field 'version' is missing, expected 'rc2'",
        "query 12060 is missing",
        'query 7: lists image "dev-99" more than once',
        'query 7: image "dev-99" is not in the gallery of val',
        'query 7: lists its reference "dev-1", which must not be ranked (and 1 more)',
    ]
