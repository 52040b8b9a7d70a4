"""Texts with a gap, in which a vector stands in the place of a word: what textual inversion puts an image into.

Gal et al., An Image is Worth One Word (ICLR 2023); for CLIP's text tower as in Pic2Word and SEARLE.
"""

from collections.abc import Sequence

import torch

from contextcir.encoders.features import Prompt
from contextcir.encoders.text import Tokenizer

FILLER = "*"  # its token holds the place; any other would do


def prompt_of(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> Prompt:
    """Return B texts, each given by its pieces, with a gap of one token between every two of them.

    Between words, so that pieces have the tokens that they have in the whole text. Nothing in a piece is taken for the
    gap, whatever it spells. Texts that are too long lose their end, and with it gaps that lie there.
    """
    filler = tokenizer.parts(FILLER, ())[0][0][1]
    rows: list[tuple[int, ...]] = []
    gaps: list[list[int]] = []
    for pieces in texts:
        start, end = 0, 0
        ids: list[int] = []
        places: list[int] = []
        for number, piece in enumerate(pieces):
            start, *own, end = tokenizer.parts(piece, ())[0][0]
            if number:
                places.append(1 + len(ids))  # after the start token
                ids.append(filler)
            ids += own
        room = tokenizer.context_length - 2
        rows.append((start, *ids[:room], end))
        gaps.append([place for place in places if place <= room])
    tokens = tokenizer.pad(rows)
    place = torch.zeros_like(tokens.valid)
    for row, places in enumerate(gaps):
        place[row, places] = True
    return Prompt(tokens, place)
