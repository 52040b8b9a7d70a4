"""What every fusion has to satisfy; the classes of `contextcir.fusion` are found, a new one needs no line here."""

import pytest
import torch
from torch import Tensor, nn

import contextcir.fusion
from contextcir.batch import Clauses, Phrases, QueryBatch, TripletBatch, phrases_of
from contextcir.encoders.features import Fused
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.fusion import Fusion
from contextcir.losses import ClauseDistillation
from contextcir.losses.maps import ConceptReading, phrase_attention
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine
from tests.helpers import tiny
from tests.helpers.classes import concrete_classes

CAPTIONS = ["make the dog bigger and add a red ball", "without the cat", " ", "the dog, the dog on a sofa"]
SPANS = [[(5, 12), (28, 38)], [(8, 15)], [], [(0, 7), (9, 16), (20, 26)]]
TEXT = 11  # tokens of the longest caption
FUSIONS = concrete_classes(contextcir.fusion, Fusion)
every_fusion = pytest.mark.parametrize("kind", FUSIONS)


def model_of(kind: type[Fusion]) -> ContextCIR:
    """A model with nothing at its initial zero: as built, much would hold trivially."""
    torch.manual_seed(0)
    concept = ClauseDistillation() if kind.trained_by else None
    model = ContextCIR(tiny.backbone(), fusion=kind, concept=concept)
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


@pytest.fixture
def model(kind: type[Fusion]) -> ContextCIR:
    return model_of(kind)


def images(rows: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).double()


def query(phrases: Phrases | None = None) -> QueryBatch:
    return QueryBatch(torch.arange(4), images(), CAPTIONS, phrases_of(SPANS) if phrases is None else phrases)


def assert_same(found: Fused, expected: Fused, rows: Tensor | slice = slice(None)) -> None:
    torch.testing.assert_close(found.embedding, expected.embedding[rows])
    for a, b in zip(found.attention, expected.attention, strict=True):
        torch.testing.assert_close(a, b[rows])


def test_all_fusions_are_found_and_listed() -> None:
    names = {kind.__name__ for kind in FUSIONS}
    assert {"ConceptAttentionFusion", "CrossAttentionFusion", "ImageOnly", "Sum", "TextOnly"} <= names
    assert names | {"Fusion"} == set(contextcir.fusion.__all__)


@every_fusion
def test_there_is_an_embedding_and_maps_that_are_distributions_over_the_valid_keys(model: ContextCIR) -> None:
    features = model.encode_query(query())
    assert features.fused.embedding.shape == (4, model.backbone.widths.embed)
    for layer in features.fused.attention:
        rows, heads, vision, keys = layer.shape
        assert (rows, vision) == (4, 17) and heads >= 1 and keys >= TEXT
        torch.testing.assert_close(layer.sum(-1), torch.ones(4, heads, 17).double())
        assert (layer[..., :TEXT].transpose(1, 3)[~features.text.valid] == 0).all()


@every_fusion
def test_rows_do_not_depend_on_their_neighbours_or_their_padding(model: ContextCIR) -> None:
    together = model.encode_query(query())
    for row, caption in enumerate(CAPTIONS):
        batch = QueryBatch(torch.zeros(1), images()[row : row + 1], [caption], phrases_of(SPANS[row : row + 1]))
        alone = model.encode_query(batch)
        torch.testing.assert_close(alone.fused.embedding[0], together.fused.embedding[row])
        length = alone.text.tokens.shape[1]
        for a, b in zip(alone.fused.attention, together.fused.attention, strict=True):
            torch.testing.assert_close(a[0, ..., :length], b[row, ..., :length])


@every_fusion
def test_the_content_of_padding_has_no_influence(model: ContextCIR) -> None:
    image, text = model.backbone.encode_image(images()), model.fusion.encode_text(model.backbone, CAPTIONS, None)
    noise = torch.where(text.valid[..., None], text.tokens, 100 * torch.randn_like(text.tokens))
    longer = text._replace(
        tokens=torch.cat([noise, torch.randn(4, 3, 32).double()], dim=1),
        valid=torch.cat([text.valid, torch.zeros(4, 3).bool()], dim=1),
    )
    expected, found = model.fusion(image, text), model.fusion(image, longer)
    torch.testing.assert_close(found.embedding, expected.embedding)
    for a, b in zip(found.attention, expected.attention, strict=True):
        torch.testing.assert_close(a[..., :TEXT], b[..., :TEXT])


@every_fusion
def test_a_permutation_of_the_batch_permutes_the_result(model: ContextCIR) -> None:
    order = [2, 0, 3, 1]
    spans = phrases_of([SPANS[row] for row in order])
    shuffled = QueryBatch(torch.arange(4), images()[order], [CAPTIONS[row] for row in order], spans)
    assert_same(model.encode_query(shuffled).fused, model.encode_query(query()).fused, torch.tensor(order))


@every_fusion
@pytest.mark.parametrize("order", [[4, 1, 5, 2, 0, 3], [5, 4, 3, 2, 1, 0]])
def test_phrases_of_the_batch_may_stand_in_any_order(model: ContextCIR, order: list[int]) -> None:
    phrases = phrases_of(SPANS)
    mixed = Phrases(*(part[order] for part in phrases))
    expected, found = (model.encode_query(query(given)) for given in (phrases, mixed))
    torch.testing.assert_close(found.fused.embedding, expected.fused.embedding)
    if found.fused.attention:
        maps = [phrase_attention(model.fusion, features) for features in (expected, found)]
        torch.testing.assert_close(maps[1], maps[0][order])


@every_fusion
def test_a_repeated_phrase_counts_once(model: ContextCIR) -> None:
    repeated = [SPANS[0], SPANS[1] * 3, [], [SPANS[3][0], SPANS[3][2]]]  # "the dog" stands twice in the last caption
    found, expected = (model.encode_query(query(phrases_of(spans))).fused for spans in (repeated, SPANS))
    assert_same(found, expected)


@every_fusion
def test_phrases_that_are_not_given_are_like_none(model: ContextCIR) -> None:
    image, text = model.backbone.encode_image(images()), model.fusion.encode_text(model.backbone, CAPTIONS, None)
    none = PhraseTexts(model.backbone, CAPTIONS, phrases_of([[]] * 4))
    assert_same(model.fusion(image, text, none), model.fusion(image, text))
    some = model.encode_query(query()).fused.embedding
    torch.testing.assert_close(some[2], model.fusion(image, text).embedding[2])  # the caption without phrases


@every_fusion
def test_the_maps_of_phrases_alone_are_distributions_and_those_of_the_phrase_as_a_caption(model: ContextCIR) -> None:
    texts = ["a red ball", "the dog", "a hat", "two"]
    whole = phrases_of([[(0, len(text))] for text in texts])
    features = model.encode_query(query(whole)._replace(captions=texts))
    text, keys = features.text, model.fusion.keys_of_phrases(features.phrases.tokens, features.phrases.slot)
    alone = model.fusion.attention(features.image.tokens, text.tokens, text.valid)
    assert len(alone) == len(features.fused.attention)
    for found, context in zip(alone, features.fused.attention, strict=True):
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:3]).double())
        assert keys.shape == (4, context.shape[-1])
        torch.testing.assert_close(found[..., : context.shape[-1]], context)
    maps = ConceptReading(model.fusion, features).detached_maps()
    assert torch.equal(maps.isolated_tokens[maps.alone], maps.context_tokens)
    for isolated, context in zip(maps.isolated, maps.context, strict=True):
        torch.testing.assert_close(isolated[maps.alone], context)
    if alone:
        assert TextConceptConsistency().from_maps(maps) < 1e-12


@every_fusion
def test_a_phrase_has_keys_unless_it_has_no_tokens(model: ContextCIR) -> None:
    caption = "very " * 80 + "red hat"
    spans = [[(5, 12), (400, 407)], [(7, 8), (8, 15)], [], []]  # truncated with its caption; a space
    captions = [caption, *CAPTIONS[1:]]
    features = model.encode_query(query(phrases_of(spans))._replace(captions=captions))
    keys = model.fusion.keys_of_phrases(features.phrases.tokens, features.phrases.slot)
    assert keys.dtype == torch.bool and keys.any(dim=1).tolist() == [True, False, False, True]
    for layer in features.fused.attention:
        assert keys.shape[1] == layer.shape[-1]
    nothing = model.fusion.keys_of_phrases(torch.zeros(0, 5).bool(), torch.zeros(0).long())
    assert nothing.shape == (0, 5)


@every_fusion
def test_no_rows_give_no_maps(model: ContextCIR) -> None:
    image, text = model.backbone.encode_image(images()), model.fusion.encode_text(model.backbone, CAPTIONS, None)
    some = model.fusion.attention(image.tokens, text.tokens, text.valid)
    none = model.fusion.attention(image.tokens[:0], text.tokens[:0], text.valid[:0])
    assert [tuple(layer.shape) for layer in none] == [(0, *layer.shape[1:]) for layer in some]


@every_fusion
def test_it_says_truly_whether_it_reads_the_text_embedding(model: ContextCIR) -> None:
    image, text = model.backbone.encode_image(images()), model.fusion.encode_text(model.backbone, CAPTIONS, None)
    other = text._replace(embedding=text.embedding.flip(0))
    changed = not torch.equal(model.fusion(image, text).embedding, model.fusion(image, other).embedding)
    assert changed == model.fusion.reads_text_embedding


@every_fusion
def test_a_fusion_with_attention_depends_on_what_it_attends_to(model: ContextCIR) -> None:
    image, text = model.backbone.encode_image(images()), model.fusion.encode_text(model.backbone, CAPTIONS, None)
    fused = model.fusion(image, text)
    other = model.fusion(image, text._replace(tokens=text.tokens + torch.randn(4, 1, 32))).embedding
    if fused.attention:
        assert (fused.embedding - other).abs().amax(dim=1).min() > 1e-3
    else:
        assert torch.equal(fused.embedding, other)


@every_fusion
@pytest.mark.parametrize("spans", [SPANS, [[]] * 4], ids=["phrases", "no phrases"])
def test_every_trained_parameter_gets_a_gradient(model: ContextCIR, spans: list) -> None:
    row = torch.arange(4)
    model.train().losses(TripletBatch(query(phrases_of(spans)), images(4, 1), row, row + 4))["loss"].backward()
    fused = [name for name, p in model.fusion.named_parameters() if p.requires_grad and p.grad is None]
    text = [name for name, p in model.backbone.clip.named_parameters() if "text_projection" in name and p.requires_grad]
    assert fused == [] and bool(text) == model.fusion.reads_text_embedding


@every_fusion
def test_under_autocast_maps_have_full_precision(kind: type[Fusion]) -> None:
    model = model_of(kind).float()
    batch = query()._replace(reference=images().float())
    full = model.encode_query(batch).fused
    with torch.autocast("cpu", torch.bfloat16):
        features = model.encode_query(batch)
        alone = model.fusion.attention(features.image.tokens, features.text.tokens, features.text.valid)
    for layer in (*features.fused.attention, *alone):
        assert layer.dtype == torch.float32
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:3]))
    torch.testing.assert_close(features.fused.embedding.float(), full.embedding, rtol=0.1, atol=0.2)


@every_fusion
def test_evaluation_draws_no_random_numbers(model: ContextCIR) -> None:
    before = torch.get_rng_state()
    first = model.encode_query(query()).fused
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.embedding, model.encode_query(query()).fused.embedding)


@every_fusion
def test_parameters_without_weight_decay_exist_and_are_not_decayed(model: ContextCIR) -> None:
    optimizer, _ = AdamWWarmupCosine()(model.backbone, [model.fusion], 10)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    for module in model.fusion.modules():
        own = dict(module.named_parameters(recurse=False))
        listed = set(module.no_weight_decay()) if hasattr(module, "no_weight_decay") else set()
        assert listed <= set(own)
        assert not any(id(own[name]) in decayed for name in listed)
        if isinstance(module, nn.LayerNorm):
            assert not any(id(p) in decayed for p in own.values())


CLAUSES = [[(0, 19), (24, 38)], [(0, 7), (8, 15)], [], [(0, 7), (9, 26)]]


def by_clause(rows: list[int], clauses: list = CLAUSES) -> QueryBatch:
    """Some rows of the batch with their clauses, of which the third caption, a blank, has none."""
    places = phrases_of([clauses[row] for row in rows])
    phrases = phrases_of([SPANS[row] for row in rows])
    given = Clauses(places.owner, places.spans)
    return QueryBatch(torch.arange(len(rows)), images()[rows], [CAPTIONS[row] for row in rows], phrases, given)


@every_fusion
def test_clauses_are_read_by_those_fusions_that_say_so(model: ContextCIR) -> None:
    whole, clauses = model.encode_query(query()).fused, model.encode_query(by_clause([0, 1, 2, 3])).fused
    changed = (whole.embedding - clauses.embedding).abs().amax(dim=1) > 1e-6
    assert changed.tolist() == [
        model.fusion.reads_clauses,
        model.fusion.reads_clauses,
        False,
        model.fusion.reads_clauses,
    ]


@every_fusion
def test_with_clauses_maps_are_distributions_over_their_tokens(model: ContextCIR) -> None:
    features = model.encode_query(by_clause([0, 1, 2, 3]))
    assert not features.text.valid[0].equal(model.encode_query(query()).text.valid[0]) or not model.fusion.reads_clauses
    for layer in features.fused.attention:
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:3]).double())
        assert (layer[..., :TEXT].transpose(1, 3)[~features.text.valid] == 0).all()


@every_fusion
def test_with_clauses_rows_do_not_depend_on_their_neighbours_or_their_order(model: ContextCIR) -> None:
    together, order = model.encode_query(by_clause([0, 1, 2, 3])).fused, [2, 0, 3, 1]
    assert_same(model.encode_query(by_clause(order)).fused, together, torch.tensor(order))
    for row in range(4):
        alone = model.encode_query(by_clause([row]))
        torch.testing.assert_close(alone.fused.embedding[0], together.embedding[row])
        length = alone.text.tokens.shape[1]
        for a, b in zip(alone.fused.attention, together.attention, strict=True):
            torch.testing.assert_close(a[0, ..., :length], b[row, ..., :length])


@every_fusion
def test_a_caption_that_is_one_clause_is_composed_as_without_clauses(model: ContextCIR) -> None:
    one = by_clause([0, 1, 2, 3], [[(0, len(caption))] if caption.strip() else [] for caption in CAPTIONS])
    assert_same(model.encode_query(one).fused, model.encode_query(query()).fused)
