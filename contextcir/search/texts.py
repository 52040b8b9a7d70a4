"""Noun phrases and clauses of the texts of searches: by spaCy where it is installed, else by the text's own joints."""

import logging
import re
import threading
from collections.abc import Sequence
from itertools import pairwise

from contextcir.errors import InputError
from contextcir.phrases.parser import Parse, PhraseParser, Span, clean

log = logging.getLogger(__name__)

# With these verbs people ask for a change; after "and" or a comma they begin a clause, where other words may go on with
# a list of things: "a red, round ball and a box".
VERBS = (
    "add be change close colour color cut delete drop fill flip give has have hide increase insert is keep let lower "
    "make move open paint place put raise reduce remove replace rotate set shift show shrink swap switch take turn use"
)
JOINTS = re.compile(
    r"(?:[.!?;]+|,? then|,? also|,? and then|,? but)\s+(?=\S)"
    rf"|,?\s+and\s+(?=(?:{'|'.join(VERBS.split())})\b)"
    rf"|,\s+(?=(?:and\s+)?(?:{'|'.join(VERBS.split())})\b)"
)
EDGES = " \t,.;:!?"


class TextReader:
    """Finds the noun phrases and clauses of texts; threads may share one.

    The parser is loaded with the first text. Where it can't be, that is logged once; then texts are divided by
    `divided`, and have no noun phrases.

    Args:
        parser: finds them; None for spaCy's noun chunks (`contextcir.phrases.chunks.ChunkParser`).
    """

    def __init__(self, parser: PhraseParser | None = None) -> None:
        self._parser = parser
        self._plain = False
        self._lock = threading.Lock()

    def read(self, texts: Sequence[str]) -> list[Parse]:
        """Return what is found in each text; spans count characters of the cleaned text."""
        with self._lock:
            if not any(text.strip() for text in texts):
                return [Parse() for _ in texts]
            if not self._plain:
                try:
                    return self._load().parse(texts)
                except InputError as error:
                    self._plain = True
                    log.warning(f"texts are divided at their joints and have no noun phrases: {error.problem}")
            return [Parse(clauses=divided(clean(text))) for text in texts]

    def _load(self) -> PhraseParser:
        if self._parser is None:
            from contextcir.phrases.chunks import ChunkParser  # imports spaCy when it parses

            self._parser = ChunkParser()
        return self._parser


def divided(text: str) -> tuple[Span, ...]:
    """Return the clauses of a cleaned text: its parts between full stops, "then", and "and" or a comma before a verb.

    A text of one part is one clause, a blank one has none.
    """
    cuts = [0, *(place for joint in JOINTS.finditer(text) for place in joint.span()), len(text)]
    parts = [(text[start:end], start) for start, end in list(pairwise(cuts))[::2]]
    spans = []
    for part, start in parts:
        left = len(part) - len(part.lstrip(EDGES))
        inner = part.strip(EDGES)
        if inner:
            spans.append(Span(start + left, start + left + len(inner)))
    return tuple(spans) or ((Span(0, len(text)),) if text.strip() else ())
