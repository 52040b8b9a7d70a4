"""What every parser of noun phrases offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Characters ``[start, end)`` of a caption *as the tokenizer sees it* (`Tokenizer.clean`)."""

    start: int
    end: int


class ParserKey(NamedTuple):
    """What the phrases of a caption depend on: two parsers with equal keys find the same phrases.

    ``parser``: its name ("stanza", "spacy"). ``model``: the language model it runs. ``version``: of the library and of
    the model. ``selection``: how phrases are chosen from what it finds, as a short text.
    """

    parser: str
    model: str
    version: str
    selection: str

    def __str__(self) -> str:
        return f"{self.parser} {self.version}, model {self.model}, {self.selection}"


class PhraseParser(ABC):
    """Finds the noun phrases of captions.

    A parser is cheap to build and to pickle; its model is loaded by the first `parse`, in the process that calls it.
    """

    @property
    @abstractmethod
    def key(self) -> ParserKey:
        """What the result depends on."""

    @abstractmethod
    def parse(self, captions: Sequence[str]) -> list[tuple[Span, ...]]:
        """Return the noun phrases of each caption, in the order in which they are chosen; () where there are none.

        Captions are raw text, as users wrote them; spans count characters of the cleaned caption, and no two of one
        caption are equal. Many captions in one call are much faster than one by one.
        """
