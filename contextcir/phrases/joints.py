"""Where a dependency parse begins a new clause: after commas and conjunctions that join verbs or set off a preposition.

Noun phrases are never divided: "add a dog and a cat" asks for one thing.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from contextcir.phrases.clauses import COMPARISONS, EXCHANGE

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

SEPARATORS = frozenset({",", ":", ".", "CC"})
VERBS = ("VB", "MD")
# Verbs of these relations, and what is conjoined with them, say more of a thing; they ask for nothing of their own.
INSIDE = frozenset({"relcl", "acl", "pcomp", "amod", "compound"})
LINKED = frozenset({"conj", "aux", "auxpass"})
SUBJECTS = frozenset({"nsubj", "nsubjpass", "expl"})


def clause_starts(document: "Doc") -> list[int]:
    """Return the words before which a text is divided, in ascending order."""
    starts = []
    for sentence in document.sents:
        starts.append(sentence.start)
        before = False
        for segment in _segments(sentence):
            asks = _asks(segment)
            if before and asks:
                starts.append(segment[0].i)
            before |= asks
    return starts


def _segments(words: "Iterable[Token]") -> "Iterator[list[Token]]":
    """Yield the words between commas, conjunctions and "then"."""
    segment: list[Token] = []
    for word in words:
        if word.tag_ not in SEPARATORS and word.lower_ != "then":
            segment.append(word)
        elif segment:
            yield segment
            segment = []
    if segment:
        yield segment


def _asks(segment: "Sequence[Token]") -> bool:
    """Tell whether a part of a sentence between separators may ask for a change by itself."""
    if any(word.tag_.startswith(VERBS) and _is_request(word) for word in segment):
        return True
    if any(word.lower_ == EXCHANGE for word in segment):
        return True
    first = next((word for word in segment if word.dep_ != "advmod"), segment[0])
    return first.tag_ == "IN" and first.dep_ in ("prep", "ROOT") and first.lower_ not in COMPARISONS


def _is_request(verb: "Token") -> bool:
    """Tell whether a verb stands for a request, by its place in the sentence."""
    around = {child.dep_ for child in verb.children}
    if any(child.tag_ == "TO" for child in verb.children):
        return False
    is_bare = verb.tag_ == "VB" and not around & (SUBJECTS | {"aux"})
    if (
        verb.tag_ in ("VBG", "VBN")
        and verb.dep_ not in ("ROOT", "conj")
        and not around & (SUBJECTS | {"aux", "auxpass"})
    ):
        return False  # what somebody is doing, or what is done to it
    while verb.dep_ in LINKED:
        if is_bare and verb.head.tag_ in ("VBZ", "VBD", "VBN", "VBG"):
            return True  # an imperative after something else: what it is conjoined with is a mistake of the parser
        verb = verb.head
    return verb.dep_ not in INSIDE and not any(child.dep_ == "mark" for child in verb.children)
