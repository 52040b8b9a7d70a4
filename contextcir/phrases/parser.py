"""What every parser of noun phrases and clauses offers.

The text that is parsed, and spans in it that never cut a character in two.

What is parsed is what the model reads: the cleaned caption, in lower case. A span then needs no translation, whatever
cleaning did (repaired encodings, ligatures, markup, white space, the one letter that is longer in lower case), and
equal inputs of the model have equal phrases. docs/phrases.md says what lower case costs the parsers.
"""

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from contextcir.errors import shown


class Span(NamedTuple):
    """Characters ``[start, end)`` of a caption *as the tokenizer sees it* (`Tokenizer.clean`)."""

    start: int
    end: int


class Parse(NamedTuple):
    """What is found in a caption.

    ``phrases``: its noun phrases, in the order in which they are chosen; no two are equal. ``clauses``: the parts that
    ask for one change each, in the order of the text and without overlap, from word to word; a caption that is not
    divided is one clause, a blank one has none.
    """

    phrases: tuple[Span, ...] = ()
    clauses: tuple[Span, ...] = ()


class ParserKey(NamedTuple):
    """What the phrases of a caption depend on: two parsers with equal keys find the same phrases.

    Attributes:
        parser: its name, ``stanza`` or ``spacy``.
        model: the language model it runs.
        version: of the library and of the model.
        selection: how phrases are chosen from what it finds, as a short text.
    """

    parser: str
    model: str
    version: str
    selection: str

    def __str__(self) -> str:
        return f"{self.parser} {self.version}, model {self.model}, {self.selection}"

    def difference(self, expected: "ParserKey") -> str:
        """Return in which part this key is not the expected one, on one short line."""
        pairs = zip(self._fields, self, expected, strict=True)
        name, own, other = next(pair for pair in pairs if pair[1] != pair[2])
        return f"{name} {shown(own, 80)}, but expected is {shown(other, 80)}"


class PhraseParser(ABC):
    """Finds the noun phrases and the clauses of captions.

    A parser is cheap to build and to pickle; its model is loaded by the first `parse`, in the process that calls it.
    """

    @property
    @abstractmethod
    def key(self) -> ParserKey:
        """What the result depends on."""

    @abstractmethod
    def parse(self, captions: Sequence[str]) -> list[Parse]:
        """Return the noun phrases and the clauses of each caption.

        Captions are raw text, as users wrote them; spans count characters of the cleaned caption. Many captions in one
        call are much faster than one by one.
        """


def clean(caption: str) -> str:
    """Return a caption as CLIP's tokenizers read it: encoding repaired, markup decoded, blanks joined, in lower case.

    The result is that of open_clip's cleaning "lower" (open_clip/tokenizer.py), whose module imports torch.
    """
    if caption.isascii() and caption.isprintable() and "&" not in caption:  # nothing to repair or to decode
        return " ".join(caption.split()).lower()
    import ftfy  # here and not above, as most readers of annotations have no text to clean

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(caption))).split()).lower()


def whole_characters(text: str, start: int, end: int) -> Span:
    """Return the least span around ``[start, end)`` that cuts no character in two, as a reader sees them.

    Raises:
        ValueError: if the given span is empty or not inside the text.
    """
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"span [{start}, {end}) is not inside the text {shown(text)}, which has {len(text)} characters"
        )
    if text.isascii():  # nearly all captions
        return Span(start, end)
    import regex  # only few captions need it

    first, last = start, end
    for match in regex.finditer(r"\X", text):  # one character to a reader: with accents, joined emoji, flags
        if match.start() < start < match.end():
            first = match.start()
        if match.start() < end < match.end():
            last = match.end()
    return Span(first, last)
