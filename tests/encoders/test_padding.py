"""Texts padded to a few sizes: the same features, and few shapes for a compiler."""

import random

import torch

from contextcir.encoders.features import PseudoWords
from contextcir.encoders.padding import FewSizes
from tests.helpers import tiny

MOST = 77


def texts(rows: int, words: int, seed: int = 0) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(choose.choice(("dog", "red", "a")) for _ in range(choose.randint(0, words))) for _ in range(rows)]


def test_padded_texts_have_the_features_of_texts_alone() -> None:
    plain, padded = tiny.backbone(), tiny.backbone()
    padded.sizes = FewSizes(MOST)
    for rows, words in ((1, 3), (5, 12), (13, 80)):
        tokens = plain.tokenizer(texts(rows, words))
        place = torch.zeros_like(tokens.valid)
        place[::2, 1] = True
        for inserted in (None, PseudoWords(place, torch.randn(rows, 32))):
            expected, found = (one.encode_equally_long(*tokens, inserted) for one in (plain, padded))
            assert found.tokens.shape == expected.tokens.shape
            assert torch.equal(found.valid, expected.valid)
            torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-5, atol=1e-5)
            kept = expected.valid[..., None]
            torch.testing.assert_close(found.tokens * kept, expected.tokens * kept, rtol=1e-5, atol=1e-5)


def test_few_sizes_hold_everything_and_pad_little() -> None:
    sizes = FewSizes(MOST)
    rows = {sizes.rows(count) for count in range(1, 2049)}
    assert all(count <= sizes.rows(count) <= max(8, 1.25 * count + 1) for count in range(1, 2049))
    assert len(rows) <= 34 and sizes.rows(1024) == 1024
    lengths = [sizes.length(tokens) for tokens in range(2, MOST + 1)]
    assert all(tokens <= length <= tokens + 7 for tokens, length in enumerate(lengths, start=2))
    assert len(set(lengths)) == 10 and max(lengths) == MOST


def test_no_texts_are_no_texts() -> None:
    backbone = tiny.backbone()
    backbone.sizes = FewSizes(MOST)
    none = backbone.encode_equally_long(*backbone.tokenizer([]))
    assert none.tokens.shape == (0, 2, 32) and none.embedding.shape == (0, 32)


def test_a_compiled_block_meets_few_shapes() -> None:
    backbone = tiny.backbone()
    backbone.sizes = FewSizes(MOST)
    met = set()
    block = backbone.clip.transformer.resblocks[0]
    handle = block.register_forward_pre_hook(lambda _, given: met.add(tuple(given[0].shape)))
    for seed in range(20):
        backbone.encode_equally_long(*backbone.tokenizer(texts(97 + seed % 16, 12, seed)))
    handle.remove()
    assert len(met) <= 2  # of 16 numbers of texts
