"""From the words with which clauses begin to their spans: what belongs to no clause is cut off at their edges."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from contextcir.phrases.parser import Span, whole_characters
from contextcir.phrases.selection import trim

# Raise it when any rule of this folder changes how captions are divided: clauses of older banks are no longer used.
RULES = 1
LINKS = frozenset({"and", "but", "or", "then", "also", "next", "finally", "plus", "&"})  # between clauses, part of none
EXCHANGE = "instead"  # "a cat instead of the dog" asks for something without a verb
COMPARISONS = frozenset({"unlike", "like", "as", "than"})  # prepositions that ask for nothing by themselves


class Word(NamedTuple):
    """A word of a caption: its characters ``[start, end)``, and its tag in the Penn Treebank."""

    start: int
    end: int
    tag: str


def clause_spans(text: str, words: Sequence[Word], starts: Iterable[int]) -> tuple[Span, ...]:
    """Return the clauses of a text that is divided before some of its words, those in ``starts``.

    Punctuation and links ("and then") at the edges of a clause belong to none, and what consists of nothing else is no
    clause. A text of nothing but these is one clause as a whole; without words it has none.
    """
    if not words:
        return ()
    tags = [word.tag for word in words]
    cuts = sorted({0, len(words), *(start for start in starts if 0 < start < len(words))})
    spans: list[Span] = []
    for first, end in pairwise(cuts):
        first, end = _inside(text, words, tags, first, end)
        if first < end:
            span = whole_characters(text, words[first].start, words[end - 1].end)
            if spans and span.start < spans[-1].end:  # divided within what a reader sees as one character
                span = Span(spans.pop().start, span.end)
            spans.append(span)
    return tuple(spans) or (whole_characters(text, words[0].start, words[-1].end),)


def _inside(text: str, words: Sequence[Word], tags: Sequence[str], first: int, end: int) -> tuple[int, int]:
    def is_link(place: int) -> bool:
        return text[words[place].start : words[place].end] in LINKS

    before = None
    while before != (first, end):
        before = (first, end)
        first, end = trim(tags, first, end)
        while first < end and is_link(first):
            first += 1
        while first < end and is_link(end - 1):
            end -= 1
    return first, end
