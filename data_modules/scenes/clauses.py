"""Clauses of the captions of scenes without a parser: divided where the grammar of the benchmark joins them."""

import re
from collections.abc import Sequence

from contextcir.phrases.parser import Parse, Span, clean
from contextcir.phrases.sources import PhraseSource

# What `wording.join_clauses` puts between clauses, and at the end; no clause of `edits` holds any of it.
JOINTS = re.compile(r", then |, | and |\. also |\. |\.$")


class SceneClauses(PhraseSource):
    """The true clauses of captions of Scenes, to compare what parsers find with; no phrases.

    Captions of other data sets are divided at the same words, wherever these stand.
    """

    def find(self, captions: Sequence[str]) -> list[Parse]:
        return [Parse(clauses=divided(clean(caption))) for caption in captions]


def divided(text: str) -> tuple[Span, ...]:
    """Return the clauses of a cleaned caption of Scenes."""
    joints = [joint.span() for joint in JOINTS.finditer(text)]
    starts, ends = [0, *(end for _, end in joints)], [*(start for start, _ in joints), len(text)]
    return tuple(Span(start, end) for start, end in zip(starts, ends, strict=True) if start < end)
