"""Which of the noun phrases that a parser finds are kept, and in which order."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contextcir.checks import whole
from contextcir.phrases.parser import Span

# Raise it when any rule of this folder changes what is found: banks of phrases made with other rules no longer match.
RULES = 1
# Tags of the Penn Treebank. Words of these stand for no thing by themselves: pronouns, determiners, "there", links
# between phrases, punctuation.
PUNCTUATION = frozenset({".", ",", ":", "``", "''", "-LRB-", "-RRB-", "HYPH", "NFP", "_SP"})
POINTERS = frozenset({"PRP", "PRP$", "DT", "PDT", "EX", "WP", "WP$", "WDT", "IN", "TO", "CC", "POS"})
EDGES = frozenset({".", ",", ":", "_SP", "POS"})  # belong to what is around a phrase, not to what it names
PARTNER = {"-LRB-": "-RRB-", "-RRB-": "-LRB-", "``": "''", "''": "``"}


class Candidate(NamedTuple):
    """A noun phrase that was found: its characters, and how many words it has without punctuation."""

    span: Span
    words: int


def trim(tags: Sequence[str], first: int, end: int) -> tuple[int, int]:
    """Return words ``[first, end)`` without what does not belong to a phrase at its edges, by the tags of all words.

    That is commas, colons, dashes, full stops, a possessive "'s", and brackets and quotes without their partner.
    """

    def is_outside(tag: str) -> bool:
        return tag in EDGES or (tag in PARTNER and PARTNER[tag] not in tags[first:end])

    while first < end and is_outside(tags[first]):
        first += 1
    while first < end and is_outside(tags[end - 1]):
        end -= 1
    return first, end


def names_something(tags: Sequence[str]) -> bool:
    """Tell whether words with these tags can have a referent: not "it", "this", "both of them", or nothing at all."""
    return any(tag not in PUNCTUATION and tag not in POINTERS for tag in tags)


def count_words(tags: Sequence[str]) -> int:
    """Return how many of the words are not punctuation."""
    return sum(tag not in PUNCTUATION for tag in tags)


class Level(ABC):
    """Which of several phrases, one inside the other, are kept."""

    name: str

    @abstractmethod
    def choose(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return those of the candidates, which have different spans, that are kept."""


class AllPhrases(Level):
    """Every phrase, also those inside others, as published."""

    name = "all"

    def choose(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return list(candidates)


class LowestPhrases(Level):
    """Phrases with no other candidate inside: "the wall" of "the wall behind a table" and "a table"."""

    name = "lowest"

    def choose(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return [one for one in candidates if not any(contains(one, other) for other in candidates)]


class HighestPhrases(Level):
    """Phrases inside no other candidate: "the wall behind a table" only."""

    name = "highest"

    def choose(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return [one for one in candidates if not any(contains(other, one) for other in candidates)]


def contains(outer: Candidate, inner: Candidate) -> bool:
    """Tell whether ``inner`` is a proper part of ``outer``."""
    (a, b), (c, d) = outer.span, inner.span
    return a <= c and d <= b and (a, b) != (c, d)


@dataclass(frozen=True)
class Quota:
    """How many phrases of a caption are kept, and how short they may be.

    The places go to the largest phrases first (most words, as published), among equals to the left one, then to the
    shorter text. The whole caption counts as any other phrase (the published code loses it). Phrases beyond the end of
    what a model reads take places as well: what a model reads is not known here.

    Args:
        max_phrases: of a caption; 10 in the published code.
        min_words: of a phrase, punctuation not counted; 1 keeps single words, which the published code leaves out.

    Raises:
        InputError: if either is no whole number from 1 on.
    """

    max_phrases: int = 10
    min_words: int = 2

    def __post_init__(self) -> None:
        whole(self.max_phrases, 1, "parser.quota.max_phrases")
        whole(self.min_words, 1, "parser.quota.min_words")

    def fill(self, candidates: Iterable[Candidate], level: Level) -> tuple[Span, ...]:
        """Return the different spans that are kept, in the order in which they are chosen; `level` sees only those
        that are long enough."""
        distinct: dict[Span, Candidate] = {}
        for candidate in candidates:
            if candidate.words >= self.min_words:
                distinct.setdefault(candidate.span, candidate)
        kept = level.choose(list(distinct.values()))
        kept.sort(key=lambda candidate: (-candidate.words, candidate.span))
        return tuple(candidate.span for candidate in kept[: self.max_phrases])

    def describe(self, level: Level) -> str:
        """Return what is kept, for a `ParserKey`."""
        return (
            f"{level.name} noun phrases of {self.min_words} words or more, at most {self.max_phrases}, "
            f"largest first, rules {RULES}"
        )
