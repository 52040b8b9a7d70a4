"""Finding and checking the one JSON object in what a model says."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.synthesis.models.answers import DEEPEST, Flaw, find_object, parse

pytest.importorskip("jsonschema")
ANY = {"type": "object"}
texts = st.text(st.characters(exclude_characters="<", exclude_categories=("Cs", "Cc")), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
words = st.text(st.characters(exclude_characters='{}[]<>"', exclude_categories=("Cs", "Cc")), max_size=20)


@given(st.dictionaries(texts, values, max_size=4), words, words)
@settings(max_examples=60, deadline=None)
def test_an_object_is_found_among_words(found, before, after):
    for said in (
        json.dumps(found),
        f"{before} {json.dumps(found)} {after}",
        f"```json\n{json.dumps(found, indent=1)}\n```",
    ):
        assert find_object(said) == found


@given(st.text(max_size=60) | st.text(st.sampled_from('{}[]":,1a\\ '), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_an_object_or_a_flaw(said):
    try:
        found = parse(said, ANY)
    except Flaw as flaw:
        assert flaw.reason
    else:
        assert isinstance(found, dict) and json.dumps(found).encode()


@pytest.mark.parametrize(
    "said",
    ['{"a":' * 40_000, "{" * 150_000, '{"a":[' * 30_000 + "]}" * 30_000, "[" * 190_000, '{"a": ' + "9" * 10_000 + "}"],
)
def test_hostile_nesting_and_numbers_are_flaws(said):
    with pytest.raises(Flaw):
        parse(said, ANY)


def test_nesting_up_to_the_limit_is_fine_and_beyond_is_not():
    def nested(levels):
        return '{"a":' * levels + "1" + "}" * levels

    assert parse(nested(DEEPEST - 1), ANY)
    with pytest.raises(Flaw, match="too deep"):
        parse(nested(DEEPEST + 1), ANY)


@pytest.mark.parametrize("said", ['{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}'])
def test_numbers_that_are_no_json_are_flaws(said):
    assert not math.isfinite(float("1e999"))
    with pytest.raises(Flaw, match="not JSON"):
        parse(said, ANY)


def test_the_same_object_twice_is_one_object_and_others_are_not():
    assert find_object('{"a": 1} again: {"a": 1}') == {"a": 1}
    with pytest.raises(Flaw, match="several objects"):
        find_object('{"a": 1} {"a": 2}')


def test_objects_in_thoughts_do_not_count():
    assert find_object('<think>{"a": 0}</think>{"a": 1}') == {"a": 1}
    assert find_object('{"a": "</think>"}') == {"a": "</think>"}


def test_a_flaw_of_the_schema_names_the_place():
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}}
    with pytest.raises(Flaw) as caught:
        parse('{"a": ["b", 3]}', schema)
    assert caught.value.detail.startswith("a/1: 3 is not")


def test_a_schema_for_one_stage_is_not_mistaken_for_another():
    first = {"type": "object", "required": ["a"]}
    second = {"type": "object", "required": ["b"]}
    assert parse('{"a": 1}', first) == {"a": 1}
    with pytest.raises(Flaw, match="not the schema"):
        parse('{"a": 1}', second)
