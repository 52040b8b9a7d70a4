"""Batches of like items, by number and by an estimate of their tokens."""

from collections.abc import Iterator, Sequence

from PIL import Image

CHARACTERS = 3  # of a token of text, at least; languages differ
PIXELS = 28 * 28  # of a token of an image, in models of the Qwen2-VL family

Item = tuple[Image.Image | None, str | None]


def tokens_of(item: Item) -> int:
    """Return about how many tokens an item has."""
    image, text = item
    of_image = 0 if image is None else image.width * image.height // PIXELS
    return 1 + of_image + (0 if text is None else len(text) // CHARACTERS)


def batches(items: Sequence[Item], size: int, tokens: int | None) -> Iterator[list[int]]:
    """Yield batches of positions: items of equal parts, the longest first, at most ``size`` of them.

    ``tokens``: the most that a batch may have, padding included; an item of more is a batch by itself. None: any.
    """
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for place, (image, text) in enumerate(items):
        kinds.setdefault((image is not None, text is not None), []).append(place)
    for places in kinds.values():
        places.sort(key=lambda place: -tokens_of(items[place]))
        while places:
            longest = tokens_of(items[places[0]])
            fits = size if tokens is None else min(size, max(1, tokens // longest))
            yield places[:fits]
            del places[:fits]
