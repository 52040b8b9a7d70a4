"""Random training triplets with noun phrases, of the lengths that real ones have."""

import random
from itertools import chain, repeat

import torch

from contextcir.batch import QueryBatch, TripletBatch, phrases_of

NOUNS = """
dog cat ball chair table lamp horse car boat house tree bird hat shirt cup plate book phone clock door wall sofa bench
road river train bus bike kite flag box bag shoe glove ring spoon fork knife bed rug
"""
ADJECTIVES = "small large old new red blue green white black brown round long short tall thin dark wet"
GLUE = ("make", " look like", ", and put", " next to")
ENDINGS = (" and keep the rest", ", seen from above", " with more light", " in the snow")


def random_triplets(batch: int, phrases: int, image_size: int, seed: int = 0) -> TripletBatch:
    """Return triplets of 2B different noise images, each caption with so many noun phrases.

    A phrase has 4 to 6 tokens with start and end of text; a caption with four phrases has 21 to 31, and 25 on average.
    """
    choose = random.Random(seed)
    captions, spans = [], []
    for _ in range(batch):
        caption, found, glue = "", [], chain(GLUE, repeat(" and"))
        for _ in range(phrases):
            words = [choose.choice(("the", "a")), *choose.sample(ADJECTIVES.split(), choose.randint(0, 2))]
            phrase = " ".join([*words, choose.choice(NOUNS.split())])
            caption += f"{next(glue)} {phrase}"
            found.append((len(caption) - len(phrase), len(caption)))
        captions.append(caption + choose.choice(ENDINGS))
        spans.append(found)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2 * batch, 3, image_size, image_size, generator=generator)  # (2B, 3, S, S)
    reference, target = images.chunk(2)
    row = torch.arange(batch)
    return TripletBatch(QueryBatch(row, reference, captions, phrases_of(spans)), target, row, batch + row)
