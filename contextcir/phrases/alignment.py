"""The text that is parsed, and spans in it that never cut a character in two.

What is parsed is what the model reads: the cleaned caption, in lower case. A span then needs no translation, whatever
cleaning did (repaired encodings, ligatures, markup, white space, the one letter that is longer in lower case), and
equal inputs of the model have equal phrases. docs/phrases.md says what lower case costs the parsers.
"""

import regex
from open_clip.tokenizer import get_clean_fn

from contextcir.phrases.parser import Span

clean = get_clean_fn("lower")  # the same as `Tokenizer.clean`
CHARACTER = regex.compile(r"\X")  # what a reader takes for one character: accents, joined emoji, flags


def whole_characters(text: str, start: int, end: int) -> Span:
    """Return the least span around ``[start, end)`` that cuts no character in two, as a reader sees them.

    Raises:
        ValueError: if the given span is empty or not inside the text.
    """
    if not 0 <= start < end <= len(text):
        raise ValueError(f"span [{start}, {end}) is not inside the text {text!r}, which has {len(text)} characters")
    if text.isascii():  # nearly all captions
        return Span(start, end)
    first, last = start, end
    for match in CHARACTER.finditer(text):
        if match.start() < start < match.end():
            first = match.start()
        if match.start() < end < match.end():
            last = match.end()
    return Span(first, last)
