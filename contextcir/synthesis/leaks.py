"""A filter for texts that describe what does not change: such words fit the reference as well as the target."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from contextcir.synthesis.filters import Candidate, Filter, Finding
from contextcir.synthesis.records import Description

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
Words = tuple[str, ...]


class LeaksNothing(Filter):
    """Rejects texts that repeat descriptors of things that are the same in both descriptions.

    A descriptor counts if some word of it is nowhere in the names and descriptors of the things that do change. One of
    several words is a leak by itself; of those of a single word, which may be there to tell two things apart, two of
    the same thing are. The bare name of a thing is none.
    """

    def judge(self, candidates: Sequence[Candidate]) -> list[Finding]:
        return [
            Finding("leaks unchanged" if leaked(candidate.instruction.caption, candidate.description) else None)
            for candidate in candidates
        ]


def leaked(caption: str, description: Description) -> list[str]:
    """Return the descriptors of unchanged things that a text repeats, if they are enough to reject it."""
    said = words(caption)
    same, changed = _parts(description)
    texts = [text for entry in changed for text in (entry["object"], *entry["descriptors"])]
    of_changed = {word for text in texts for word in words(text)}
    for entry in same:
        single = []
        for descriptor in entry["descriptors"]:
            wanted = words(descriptor)
            if not set(wanted) - of_changed or not contains(said, wanted):
                continue
            if len(wanted) > 1:
                return [descriptor]
            single.append(descriptor)
        if len(single) > 1:
            return single
    return []


def words(text: str) -> Words:
    """Return the words of a text in lower case, without punctuation."""
    return tuple(WORD.findall(text.lower()))


def contains(text: Words, part: Words) -> bool:
    """Whether words stand in a text, one after the other."""
    return any(text[start : start + len(part)] == part for start in range(len(text) - len(part) + 1))


def _parts(description: Description) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the things that both images have alike, and all others of either image."""
    left = Counter(map(_look, description.target))
    same, changed = [], []
    for entry in description.reference:
        alike = left[_look(entry)] > 0
        left[_look(entry)] -= alike
        (same if alike else changed).append(entry)
    for entry in description.target:
        if left[_look(entry)] > 0:
            left[_look(entry)] -= 1
            changed.append(entry)
    return same, changed


def _look(entry: Mapping[str, Any]) -> tuple[Words, frozenset[Words]]:
    return words(entry["object"]), frozenset(_all_words(entry["descriptors"]))


def _all_words(texts: Iterable[str]) -> Iterable[Words]:
    return map(words, texts)
