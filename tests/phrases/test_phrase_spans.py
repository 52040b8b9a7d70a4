"""Phrases of any text and the tokens that they have, against spending the text's bytes on the tokens."""

import re
import unicodedata
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import get_clean_fn

from contextcir.phrases.constituency import candidates
from contextcir.phrases.parser import clean, whole_characters
from contextcir.phrases.selection import AllPhrases, Quota
from tests.encoders.test_text import naive_span_tokens
from tests.helpers import tiny
from tests.phrases.test_phrase_trees import Node

CAPTIONS = [
    "Two dogs. Two dogs (and a cat), next to two dogs!",
    "A ﬁne ﬂower; the ﬀ oﬃce",
    "put a 👩‍👩‍👧‍👦 and a 🇫🇷 flag, 👍🏽 on 猫の写真",
    "İstanbul's caf\u0065\u0301 schÃ¶n &amp; ΣΊΣΥΦΟΣ ß",
    "हिन्दी में कुत्ता  ไก่ตัวใหญ่",
    "“don’t” [brown]   -LRB- x <b>bold</b> \x1b[1m \x85 &#x81; z",
    " ".join(["a red car, behind it"] * 100),
]
ODD = "ab éé1'.(-İﬁΣ猫🐶👍🏽\u200d🇫🇷\u0301\ufe0f\ud800&;\x81\n"
TEXT = st.text(st.sampled_from(ODD) | st.characters(), max_size=40)


@settings(max_examples=300, deadline=None)
@given(TEXT | st.text() | st.sampled_from(CAPTIONS) | st.sampled_from([" &amp;amp; ", "&lt;B&gt;", "\xa0\u2028 x", ""]))
def test_cleaning_is_that_of_the_tokenizer(caption: str) -> None:
    assert clean(caption) == get_clean_fn("lower")(caption)


def parsed(text: str, cuts: list[int], first: int, end: int) -> tuple[SimpleNamespace, int, int]:
    """A document as Stanza makes it, of words cut anywhere, with an NP over some; and the characters of that NP."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    for cut in cuts:
        words = [part for a, b in words for part in ([(a, cut), (cut, b)] if a < cut < b else [(a, b)])]
    first = first % len(words)
    end = first + 1 + end % (len(words) - first)
    # what is written in a tree is not what was in the text
    tags = [Node("NN", (Node("-LRB-"),)) for _ in words]
    tree = Node("ROOT", (*tags[:first], Node("NP", (Node("X", tuple(tags[first:end])),)), *tags[end:]))
    places = [SimpleNamespace(start_char=a, end_char=b) for a, b in words]
    document = SimpleNamespace(sentences=[SimpleNamespace(words=places, constituency=tree)])
    return document, words[first][0], words[end - 1][1]


@settings(max_examples=150, deadline=None)
@given(
    caption=TEXT | st.sampled_from(CAPTIONS),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    first=st.integers(0, 30),
    end=st.integers(0, 30),
)
def test_a_phrase_anywhere_in_any_text_has_exactly_the_tokens_that_share_a_character_with_it(caption, cuts, first, end):
    text = clean(caption)
    assume(text)
    document, *place = parsed(text, cuts, first, end)
    (span,) = Quota(min_words=1).fill(candidates(text, document), AllPhrases())
    assert span == whole_characters(text, *place)
    found = tiny.tokenizer().span_tokens([caption], torch.tensor([0]), torch.tensor([span]))[0].tolist()
    expected = naive_span_tokens(caption, *span)
    assert found[:-1] == expected[: len(found) - 1]  # a long caption is cut
    assert any(expected)


@settings(max_examples=200, deadline=None)
@given(caption=TEXT | st.sampled_from(CAPTIONS), a=st.integers(0, 60), b=st.integers(1, 60))
def test_spans_grow_to_whole_characters_and_no_further(caption, a, b):
    text = clean(caption)
    assume(a < len(text))
    asked = (a, min(a + b, len(text)))
    span = whole_characters(text, *asked)
    assert span.start <= asked[0] and asked[1] <= span.end
    assert whole_characters(text, *span) == span
    for before, after in zip(asked, span, strict=True):
        if 0 < after < len(text):  # no accent is torn off a letter, and no joined emoji apart
            left, right = text[after - 1], text[after]
            assert not (unicodedata.category(left)[0] == "L" and unicodedata.category(right) in ("Mn", "Me"))
            assert not (text[after - 2 : after] in ("👩\u200d", "👧\u200d") and right in "👩👧👦")
        if before in (0, len(text)) or (text[before - 1] + text[before]).isascii():
            assert after == before


def test_spans_of_characters_made_of_several_are_whole():
    text = clean("a 👩‍👩‍👧‍👦 x\u0323 🇫🇷🇩🇪")
    family = text.index("👩")
    assert whole_characters(text, family, family + 1) == (family, family + 7)
    dot = text.index("\u0323")  # a dot below the x
    assert whole_characters(text, dot - 1, dot) == whole_characters(text, dot, dot + 1) == (dot - 1, dot + 1)
    flags = text.index("🇫")
    assert whole_characters(text, flags + 1, flags + 3) == (flags, flags + 4)


@pytest.mark.parametrize("span", [(0, 0), (2, 1), (-1, 1), (0, 4)])
def test_spans_outside_the_text_are_an_error(span):
    with pytest.raises(ValueError, match=r"not inside the text 'abc'"):
        whole_characters("abc", *span)


@settings(max_examples=100, deadline=None)
@given(caption=TEXT | st.sampled_from(CAPTIONS))
def test_the_parsed_text_is_what_the_tokenizer_reads(caption):
    assert clean(caption) == tiny.tokenizer().clean(caption)
    assert not any("\ud800" <= character <= "\udfff" for character in clean(caption))


def test_a_word_of_a_contraction_without_a_place_takes_that_of_the_whole():
    token = SimpleNamespace(start_char=2, end_char=8)
    word = SimpleNamespace(start_char=None, end_char=None, parent=token)
    tree = Node("NP", (Node("NN", (Node("will"),)), Node("NN", (Node("not"),))))
    document = SimpleNamespace(sentences=[SimpleNamespace(words=[word, word], constituency=tree)])
    assert Quota().fill(candidates("a winter day", document), AllPhrases()) == ((2, 8),)
