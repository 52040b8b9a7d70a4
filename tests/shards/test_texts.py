"""Texts that are sorted in parts come as `sorted` gives them, each once, and any number of times."""

from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.shards import texts
from contextcir.shards.texts import SortedTexts


@settings(max_examples=60, deadline=None)
@given(given_texts=st.lists(st.text(max_size=3), max_size=150), most=st.integers(1, 40))
def test_texts_come_in_order_and_once(given_texts: list[str], most: int) -> None:
    made = SortedTexts(most=most)
    for text in given_texts:
        made.add(text)
    assert list(made) == sorted(set(given_texts)) == list(made)
    assert len(made) == len(set(given_texts))


def test_texts_that_cross_a_block_are_whole(monkeypatch) -> None:
    monkeypatch.setattr(texts, "BLOCK", 7)
    made = SortedTexts(most=2)
    for text in ("a" * 30, "", "b", "\ud800", "\n", "c" * 6):
        made.add(text)
    assert list(made) == sorted(["a" * 30, "", "b", "\ud800", "\n", "c" * 6])
