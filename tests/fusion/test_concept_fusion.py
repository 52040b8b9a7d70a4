"""Attention to noun phrases as units: against a computation one by one, and what must not change it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import QueryBatch, TripletBatch, phrases_of
from contextcir.fusion.concept_attention import ConceptAttentionFusion
from contextcir.losses.maps import ConceptReading, phrase_attention
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.phrases.parser import Parse, ParserKey, PhraseParser, Span
from contextcir.training.module import ContextCIR
from tests.helpers import tiny

CAPTIONS = ["make the dog bigger and add a red ball", "without the cat", " ", "the dog, the dog on a sofa"]
SPANS = [[(5, 12), (28, 38)], [(8, 15)], [], [(0, 7), (9, 16), (20, 26)]]
CONCEPTS = [["the dog", "a red ball"], ["the cat"], [], ["the dog", "a sofa"]]
TEXT = 11  # tokens of the longest caption


@pytest.fixture
def model() -> ContextCIR:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone(), fusion=ConceptAttentionFusion, concept=TextConceptConsistency())
    with torch.no_grad():  # at its zero initialisation, the blocks ignore text and concepts
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


def images(rows: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).double()


def triplets(spans: list = SPANS) -> TripletBatch:
    row = torch.arange(4)
    return TripletBatch(QueryBatch(row, images(), CAPTIONS, phrases_of(spans)), images(4, 1), row, row + 4)


def naive_query(model: ContextCIR, image: Tensor, caption: str, concepts: list[str]) -> tuple[Tensor, list[Tensor]]:
    """One query (E,) and its L maps (H, V, T + C), without padding: each concept encoded by itself."""
    backbone, fusion = model.backbone, model.fusion
    tokens = backbone.encode_image(image[None]).tokens
    keys = list(backbone.encode_text(backbone.tokenizer([caption])).tokens[0])
    read = []
    for text in concepts:
        alone = backbone.encode_text(backbone.tokenizer([text])).tokens[0, 1:-1]
        read.append(sum(alone) / len(alone) + fusion.concept_type)
    source, maps = torch.stack([*keys, *read])[None], []
    for block in fusion.blocks:
        normed = block.attention_norm(tokens)
        result, layer = block.attention(normed, source)
        tokens = tokens + result
        tokens = tokens + block.feed_forward(block.feed_forward_norm(tokens))
        maps.append(layer[0])
    pooled = fusion.pool(torch.cat([tokens, *(fusion.concept_projection(concept)[None, None] for concept in read)], 1))
    return fusion.projection(pooled)[0], maps


def test_queries_equal_those_composed_one_by_one(model: ContextCIR) -> None:
    fused = model.encode_query(triplets().query).fused
    for row, caption in enumerate(CAPTIONS):
        expected, maps = naive_query(model, images()[row], caption, CONCEPTS[row])
        torch.testing.assert_close(fused.embedding[row], expected)
        length, count = model.backbone.tokenizer([caption]).ids.shape[1], len(CONCEPTS[row])
        for layer, naive in zip(fused.attention, maps, strict=True):
            found = layer[row]
            torch.testing.assert_close(found[..., :length], naive[..., :length])
            torch.testing.assert_close(found[..., TEXT : TEXT + count], naive[..., length:])
            assert (found[..., length:TEXT] == 0).all() and (found[..., TEXT + count :] == 0).all()


def test_there_is_a_key_for_each_concept_of_the_longest_list(model: ContextCIR) -> None:
    assert model.attention_maps(images(), CAPTIONS, phrases_of(SPANS)).shape == (4, 4, 8, 17, TEXT + 2)


def test_phrases_change_the_query(model: ContextCIR) -> None:
    none, some = (model.embed_query(images(), CAPTIONS, phrases) for phrases in (None, phrases_of(SPANS)))
    assert (some - none).abs().amax(1)[[0, 1, 3]].min() > 1e-3


def test_a_phrase_is_the_key_of_its_concept(model: ContextCIR) -> None:
    features = model.encode_query(triplets().query)
    keys = model.fusion.keys_of_phrases(features.phrases.tokens, features.phrases.slot)
    assert keys.nonzero()[:, 1].tolist() == [TEXT + slot for slot in (0, 1, 0, 0, 0, 1)]
    found = phrase_attention(model.fusion, features)  # (P, V - 1)
    for phrase, (row, slot) in enumerate([(0, 0), (0, 1), (1, 0), (3, 0), (3, 0), (3, 1)]):
        columns = [layer[row, :, 1:, TEXT + slot].mean(0) for layer in features.fused.attention]
        torch.testing.assert_close(found[phrase].double(), sum(columns) / 4, rtol=1e-5, atol=1e-7)
    nothing = model.fusion.keys_of_phrases(torch.zeros(0, 5).bool(), torch.zeros(0).long())
    assert nothing.shape == (0, 5)


def test_phrases_without_tokens_have_no_key_and_no_influence(model: ContextCIR) -> None:
    blank = [*SPANS[:1], [(7, 8), (8, 15)], [], SPANS[3]]
    features = [model.encode_query(triplets(spans).query) for spans in (SPANS, blank)]
    torch.testing.assert_close(features[1].fused.embedding, features[0].fused.embedding)
    maps = ConceptReading(model.fusion, features[1]).detached_maps()
    assert maps.context_tokens.any(1).tolist() == [True, True, False, True, True, True, True]
    assert maps.isolated_tokens.any(1)[maps.alone].tolist() == maps.context_tokens.any(1).tolist()
    torch.testing.assert_close(
        model.concept.from_maps(maps),
        model.concept.from_maps(ConceptReading(model.fusion, features[0]).detached_maps()),
    )


def test_phrases_that_were_cut_away_are_still_read(model: ContextCIR) -> None:
    caption = "very " * 80 + "red hat"
    queries = [model.embed_query(images(1), [caption], phrases_of([spans])) for spans in ([], [(400, 407)])]
    assert (queries[0] - queries[1]).abs().max() > 1e-3


def test_at_first_the_blocks_are_identities_and_the_pool_reads_concepts() -> None:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone(), fusion=ConceptAttentionFusion).double().eval()
    image = model.backbone.encode_image(images()).tokens
    tokens, _ = model.fusion.fuse(image, torch.randn(4, 3, 32).double(), torch.ones(4, 3).bool())
    assert torch.equal(tokens, image)
    with_phrases, without = (model.embed_query(images(), CAPTIONS, p) for p in (phrases_of(SPANS), None))
    assert (with_phrases - without).abs().amax(1).gt(1e-4).tolist() == [True, True, False, True]


@pytest.mark.parametrize("spans", [SPANS, [[]] * 4], ids=["phrases", "no phrases"])
def test_every_parameter_gets_a_gradient(model: ContextCIR, spans: list) -> None:
    model.train().losses(triplets(spans))["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    of_concepts = [model.fusion.concept_type, *model.fusion.concept_projection.parameters()]
    assert all((parameter.grad.abs().max() > 0) == (spans is SPANS) for parameter in of_concepts)


def test_the_type_embedding_is_not_decayed(model: ContextCIR) -> None:
    optimizer, _ = model.optimizer(model.backbone, [model.fusion], 10)
    groups = [g for g in optimizer.param_groups if any(p is model.fusion.concept_type for p in g["params"])]
    assert [(g["name"], g["weight_decay"]) for g in groups] == [("head_no_decay", 0.0)]


class SplitAtCommas(PhraseParser):
    """Takes what stands between commas for phrases."""

    @property
    def key(self) -> ParserKey:
        return ParserKey("commas", "none", "1", "all")

    def parse(self, captions: list[str]) -> list[Parse]:
        def spans(text: str) -> tuple[Span, ...]:
            parts = [part for part in text.split(", ") if part.strip()]
            return tuple(Span(text.index(part), text.index(part) + len(part)) for part in parts)

        return [Parse(spans(caption)) for caption in captions]


def test_phrases_parsed_on_the_fly_are_those_given(model: ContextCIR) -> None:
    captions = ["a red ball, two hats", "green"]
    parsed = phrases_of([parse.phrases for parse in SplitAtCommas().parse(captions)], images().device)
    found = model.embed_query(images(2), captions, parsed)
    expected = [
        naive_query(model, image, text, text.split(", "))[0] for image, text in zip(images(2), captions, strict=True)
    ]
    torch.testing.assert_close(found, functional.normalize(torch.stack(expected), dim=-1))
