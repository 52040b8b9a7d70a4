"""From what a parser finds to what a model is given."""

from collections.abc import Iterable, Sequence

import torch

from contextcir.batch import Phrases


def phrases_of(spans: Sequence[Iterable[tuple[int, int]]], device: torch.device | str = "cpu") -> Phrases:
    """The noun phrases of B captions, as `PhraseParser.parse` or a bank gives them, as a batch; no boxes are known.

    ``device``: that of the images they go with. To compose queries with phrases that are parsed on the fly::

        phrases = phrases_of(parser.parse(captions), images.device)
        queries = model.embed_query(images, captions, phrases)
    """
    found = [(row, start, end) for row, caption in enumerate(spans) for start, end in caption]
    places = torch.tensor(found, dtype=torch.int64, device=device).reshape(-1, 3)  # (P, 3)
    boxes = torch.full((len(found), 4), float("nan"), device=device)  # (P, 4)
    return Phrases(places[:, 0], places[:, 1:], boxes)
