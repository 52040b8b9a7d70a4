"""A parser that needs no model, for tests of what is done with phrases and clauses.

A phrase is an article or a number, and the next word; clauses are what stands between commas.
"""

import os
import re
import time
from collections.abc import Sequence
from typing import ClassVar

from contextcir.phrases.parser import Parse, ParserKey, PhraseParser, Span, clean

PHRASE = re.compile(r"\b(?:the|an?|\d+) \w+")
CLAUSE = re.compile(r"[^,\s](?:[^,]*[^,\s])?")


class WordParser(PhraseParser):
    """Finds the first ``most`` phrases of a caption, and all its clauses.

    ``batches``: what this process has parsed. The environment's WORD_PARSER_PAUSE makes every batch take so many
    seconds; captions with the word ``crash`` are more than it can parse, and ``deadly`` ones end its process.
    """

    batches: ClassVar[list[list[str]]] = []

    def __init__(self, most: int = 9) -> None:
        self.most = most

    @property
    def key(self) -> ParserKey:
        return ParserKey("words", "none", "1", f"the first {self.most}")

    def parse(self, captions: Sequence[str]) -> list[Parse]:
        self.batches.append(list(captions))
        time.sleep(float(os.environ.get("WORD_PARSER_PAUSE", 0)))
        if any("crash" in caption for caption in captions):
            raise RuntimeError("out of words")
        if any("deadly" in caption for caption in captions):
            os._exit(1)
        return [Parse(spans(PHRASE, text)[: self.most], spans(CLAUSE, text)) for text in map(clean, captions)]


def spans(pattern: re.Pattern[str], text: str) -> tuple[Span, ...]:
    return tuple(Span(*found.span()) for found in pattern.finditer(text))
