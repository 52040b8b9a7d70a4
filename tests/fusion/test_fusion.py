"""The parts of cross-attention against loops, and the baselines."""

import math

import pytest
import torch

from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import ImageFeatures, TextFeatures
from contextcir.fusion import ConceptAttentionFusion, CrossAttentionFusion, ImageOnly, Sum, TextOnly
from contextcir.fusion.blocks import Attention, FusionBlock
from contextcir.fusion.cross_attention import AttentionPool

WIDTHS = Widths(vision=16, text=12, embed=10)
FUSIONS = [CrossAttentionFusion, ConceptAttentionFusion]  # without phrases, the second does what the first does
both = pytest.mark.parametrize("kind", FUSIONS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Nothing at its initial zero: as built, the blocks are identities, and much holds trivially."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module.double()


def features(batch: int = 3, vision: int = 5, text: int = 6, lengths: tuple[int, ...] = (6, 2, 4)):
    image = ImageFeatures(torch.randn(batch, vision, 16).double(), torch.randn(batch, 10).double())
    valid = torch.arange(text) < torch.tensor(lengths)[:, None]
    return image, TextFeatures(torch.randn(batch, text, 12).double(), valid, torch.randn(batch, 10).double())


def naive_maps(attention: Attention, target: torch.Tensor, source: torch.Tensor, valid: list[bool]):
    """Maps of one row, by loops: heads x target tokens x source tokens."""
    size = attention.query.out_features // attention.heads
    rows = []
    for head in range(attention.heads):
        part = slice(head * size, (head + 1) * size)
        queries, keys = attention.query(target)[:, part].tolist(), attention.key(source)[:, part].tolist()
        rows.append([])
        for query in queries:
            scores = [sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(size) for key in keys]
            powers = [math.exp(s) if ok else 0.0 for s, ok in zip(scores, valid, strict=True)]
            rows[-1].append([power / sum(powers) for power in powers])
    return torch.tensor(rows, dtype=torch.double)


def test_attention_equals_loops_over_heads_and_tokens():
    attention = randomised(Attention(16, 12, heads=4))
    image, text = features()
    result, maps = attention(image.tokens, text.tokens, text.valid)
    for row in range(3):
        expected = naive_maps(attention, image.tokens[row], text.tokens[row], text.valid[row].tolist())
        torch.testing.assert_close(maps[row], expected)
        value = attention.value(text.tokens[row])
        read = torch.cat([expected[head] @ value[:, 4 * head : 4 * head + 4] for head in range(4)], dim=1)
        torch.testing.assert_close(result[row], attention.output(read))


@both
def test_there_is_a_map_for_each_layer_and_head(kind):
    fusion = randomised(kind(WIDTHS, layers=3, heads=4))
    image, text = features()
    assert [tuple(layer.shape) for layer in fusion(image, text).attention] == [(3, 4, 5, 6)] * 3
    alone = fusion.attention(image.tokens, text.tokens, text.valid)
    assert [tuple(layer.shape) for layer in alone] == [(3, 4, 5, 6 + (kind is ConceptAttentionFusion))] * 3


def test_blocks_are_identities_at_first():
    block = FusionBlock(16, 12, heads=4, dropout=0.0).double()
    image, text = features()
    tokens, _ = block(image.tokens, text.tokens, text.valid)
    assert torch.equal(tokens, image.tokens)


def test_a_block_is_pre_norm_and_residual():
    block = randomised(FusionBlock(16, 12, heads=4, dropout=0.0))
    image, text = features()
    tokens, _ = block(image.tokens, text.tokens, text.valid)
    middle = image.tokens + block.attention(block.attention_norm(image.tokens), text.tokens, text.valid)[0]
    first, _, _, second = block.feed_forward
    hidden = first(block.feed_forward_norm(middle))
    gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    torch.testing.assert_close(tokens, middle + second(gelu))


def test_attention_alone_gives_the_maps_of_the_whole():
    fusion = randomised(CrossAttentionFusion(WIDTHS))
    image, text = features()
    torch.testing.assert_close(fusion.attention(image.tokens, text.tokens, text.valid), fusion(image, text).attention)


def test_a_block_for_few_tokens_equals_the_block():
    block = randomised(FusionBlock(16, 12, heads=4, dropout=0.0))
    image, text = features()
    expected, found = (f(image.tokens, text.tokens, text.valid) for f in (block, block.forward_folded))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(block.maps_folded(image.tokens, text.tokens, text.valid), expected[1])
    gradients = []
    for result, maps in (expected, found):
        block.zero_grad()
        (result.pow(2).sum() + maps.pow(2).sum()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in block.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_a_block_for_few_tokens_rounds_no_worse():
    block = randomised(FusionBlock(256, 128, heads=8, dropout=0.0).double())
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(0.2)  # the scores of attention stay within reason
    image, text = torch.randn(3, 50, 256).double(), torch.randn(3, 6, 128).double()
    valid = torch.arange(6) < torch.tensor([[6], [4], [5]])
    exact = block(image, text, valid)[1]
    single = block.float()
    errors = [
        (f(image.float(), text.float(), valid)[1].double() - exact).abs().max()
        for f in (single.forward, single.forward_folded)
    ]
    assert exact.std() > 0.05 and errors[1] < max(2 * errors[0], 2e-7) and errors[0] < 2e-6


def test_the_pool_ignores_the_order_of_tokens_and_normalises():
    pool = AttentionPool(16, heads=4).double()
    tokens = torch.randn(3, 5, 16).double()
    torch.testing.assert_close(pool(tokens), pool(tokens.flip(1)))
    torch.testing.assert_close(pool(tokens).mean(dim=1), torch.zeros(3).double())


@both
def test_wrong_sizes_are_refused(kind):
    with pytest.raises(ValueError, match=r"16 .* 3 attention heads \(model\.fusion\.heads\)$"):
        kind(WIDTHS, heads=3)
    for heads in (0, -4):
        with pytest.raises(ValueError, match=rf"from 1 on, got {heads} \(model\.fusion\.heads\)$"):
            kind(WIDTHS, heads=heads)
    with pytest.raises(ValueError, match=r"from 1 to 256, got 0 \(model\.fusion\.layers\)$"):
        kind(WIDTHS, layers=0)


def test_baselines_use_what_their_names_say():
    image, text = features()
    assert torch.equal(ImageOnly(WIDTHS)(image, text).embedding, image.embedding)
    assert torch.equal(TextOnly(WIDTHS)(image, text).embedding, text.embedding)
    for i, t, found in zip(image.embedding, text.embedding, Sum(WIDTHS)(image, text).embedding, strict=True):
        torch.testing.assert_close(found, i / i.pow(2).sum().sqrt() + t / t.pow(2).sum().sqrt())
    for baseline in (ImageOnly(WIDTHS), TextOnly(WIDTHS), Sum(WIDTHS)):
        assert list(baseline.parameters()) == []
        assert baseline(image, text).attention == baseline.attention(image.tokens, text.tokens, text.valid) == ()
