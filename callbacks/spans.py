"""Captions whose noun phrases have colours: which phrase a character belongs to, and how a caption is broken."""

import itertools
from collections.abc import Sequence
from typing import Any

# Readable on white, and apart for colour-blind readers (Wong, Nature Methods 2011).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#3B9DD6", "#7A4FBF", "#555555")

Spans = Sequence[Sequence[Any]]  # of each phrase, first its start and end
Pieces = Sequence[tuple[str, int | None]]  # of a line: texts, and the phrase that each belongs to


def owners(length: int, phrases: Spans) -> list[int | None]:
    """Return for each character of a caption the innermost phrase that it belongs to, of equal ones the first."""
    owner: list[int | None] = [None] * length
    outer_first = sorted(enumerate(phrases), key=lambda item: (item[1][0] - item[1][1], -item[0]))
    for number, (start, end, *_) in outer_first:
        owner[start:end] = [number] * len(owner[start:end])
    return owner


def underlines(lines: Sequence[Pieces], phrases: Spans) -> list[list[tuple[int, int, int, int]]]:
    """Return for each line what to underline: first and last column, phrase, and how many phrases it holds in turn.

    Only phrases that hold others are underlined: of these the inner ones take the colour.
    """
    spans = [(phrase[0], phrase[1]) for phrase in phrases]

    def depth(number: int) -> int:
        start, end = spans[number]
        inner = [n for n, (a, b) in enumerate(spans) if start <= a and b <= end and b - a < end - start]
        return 1 + max(map(depth, inner)) if inner else 0

    found: list[list[tuple[int, int, int, int]]] = []
    begin = 0
    for line in lines:
        length = sum(len(text) for text, _ in line)
        strokes = []
        for number, (start, end) in enumerate(spans):
            first, last = max(start, begin), min(end, begin + length)
            if first < last and (deep := depth(number)):
                strokes.append((first - begin, last - begin, number, deep))
        found.append(strokes)
        begin += length
    return found


def wrap(caption: str, phrases: Spans, width: int) -> list[list[tuple[str, int | None]]]:
    """Break a caption into lines of about ``width`` characters, each a list of (text, phrase number or None)."""
    owner = owners(len(caption), phrases)
    lines, start = [], 0
    while start < len(caption):
        end = len(caption)
        if end - start > width:
            space = caption.rfind(" ", start + 1, start + width + 1)
            end = start + width if space == -1 else space + 1
        cuts = [start, *(i for i in range(start + 1, end) if owner[i] != owner[i - 1]), end]
        lines.append([(caption[a:b], owner[a]) for a, b in itertools.pairwise(cuts)])
        start = end
    return lines or [[("(blank caption)", None)]]
