"""Grounded consistency: places of phrases against loops, what has a say and what gets a gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import Phrases, QueryBatch
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.losses.grounded import GroundedConsistency, PhraseAlignment, similarity
from contextcir.losses.maps import ConceptReading, phrase_attention
from contextcir.training.module import ContextCIR
from tests.helpers import tiny

CAPTIONS = ["the dog sees the dog and a red ball", "a red ball", "no phrases"]
SPANS = [(1, 0, 10), (0, 0, 7), (0, 25, 35), (0, 13, 20)]
WORDS = ["a red ball", "the dog", "a red ball", "the dog"]
IMAGES = torch.tensor([7, 5, 7])  # the first and last caption are about the same image


@pytest.fixture
def model() -> ContextCIR:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone())
    with torch.no_grad():  # at its zero initialisation, the fusion ignores the text
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def queries(model: ContextCIR, spans: list[tuple[int, int, int]] = SPANS) -> QueryFeatures:
    pixels = torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in IMAGES.tolist()])
    where = torch.tensor(spans, dtype=torch.long).reshape(-1, 3)
    phrases = Phrases(where[:, 0], where[:, 1:], torch.full((len(spans), 4), float("nan")))
    return model.encode_query(QueryBatch(torch.arange(3), pixels, CAPTIONS, phrases))


def patch_cosines(model: ContextCIR, features: QueryFeatures) -> tuple[list[Tensor], list[Tensor]]:
    """For each phrase the patches of its image, and the phrase, both of length 1: by the parts of the model."""
    visual = model.backbone.clip.visual
    patches, phrases = [], []
    for (owner, _, _), text in zip(SPANS, WORDS, strict=True):
        tokens = features.image.tokens[owner, 1:]
        patches.append(functional.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1))
        embedding = model.backbone.encode_text(model.backbone.tokenizer([text])).embedding[0]
        phrases.append(functional.normalize(embedding, dim=-1))
    return patches, phrases


def test_places_equal_loops_over_phrases(model: ContextCIR) -> None:
    features = queries(model)
    found = GroundedConsistency(temperature=0.1).places(ConceptReading(model.fusion, features, IMAGES).embeddings())
    patches, phrases = patch_cosines(model, features)
    middle = torch.stack(phrases).mean(dim=0)
    for p, place in enumerate(found):
        scores = [((phrases[p] - middle) @ patch).item() / 0.1 for patch in patches[p]]
        torch.testing.assert_close(place, torch.tensor(scores).softmax(dim=0), rtol=1e-4, atol=1e-6)
    assert not found.requires_grad


def test_images_and_wordings_are_there_once(model: ContextCIR) -> None:
    features = queries(model)
    given = ConceptReading(model.fusion, features, IMAGES).embeddings()
    assert given.patches.shape == (2, 16, 32) and given.wordings.shape == (2, 32)
    assert given.image_id.tolist() == [5, 7] and given.image.tolist() == [0, 1, 1, 1]
    assert [given.texts[row] for row in given.row] == WORDS
    patches, phrases = patch_cosines(model, features)
    torch.testing.assert_close(given.patches[given.image], torch.stack(patches), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given.wordings[given.row], torch.stack(phrases), atol=1e-5, rtol=1e-5)
    unknown = ConceptReading(model.fusion, features).embeddings()
    assert unknown.patches.shape[0] == 3 and unknown.image.tolist() == [1, 0, 0, 0] and unknown.image_id is None
    torch.testing.assert_close(unknown.patches[unknown.image], given.patches[given.image], atol=1e-5, rtol=1e-5)


def test_similarity_needs_no_order_of_phrases() -> None:
    patches, phrases = torch.randn(3, 4, 5), torch.randn(7, 5)
    image = torch.tensor([2, 0, 2, 2, 0, 2, 0])
    expected = torch.stack([patches[i] @ phrase for i, phrase in zip(image.tolist(), phrases, strict=True)])
    torch.testing.assert_close(similarity(patches, phrases, image), expected)
    assert similarity(patches, phrases[:0], image[:0]).shape == (0, 4)


def test_phrases_whose_place_is_anywhere_have_no_say() -> None:
    context, places = torch.rand(2, 8), torch.full((2, 8), 1 / 8)
    places[0] = torch.eye(8)[3]
    both, first = (GroundedConsistency().consistency(context[:n], places[:n]).item() for n in (2, 1))
    assert 0 < both == pytest.approx(first / 2, rel=1e-5)


def test_maps_flatter_than_the_places_cost_more_up_to_the_least_contrast() -> None:
    places = (3 * torch.randn(4, 16, generator=torch.Generator().manual_seed(0))).softmax(dim=1)  # contrast near 3
    costs = {
        least: [
            GroundedConsistency(least_contrast=least).consistency(places**power, places).item()
            for power in (1, 0.3, 0.1, 0.02)
        ]
        for least in (0.5, 0.01)
    }
    extra = [one - other for one, other in zip(costs[0.5], costs[0.01], strict=True)]
    assert costs[0.5][0] < 1e-6 and extra[:2] == [0, 0] and 1e-3 < extra[2] < extra[3]


def test_the_whole_is_the_sum_of_both_parts(model: ContextCIR) -> None:
    features = queries(model)
    reading = ConceptReading(model.fusion, features, IMAGES)
    loss = GroundedConsistency(alignment=PhraseAlignment(0.25, temperature=0.2))
    context = phrase_attention(model.fusion, features)
    consistency = loss.consistency(context, loss.places(reading.embeddings()))
    alignment = PhraseAlignment(temperature=0.2).from_embeddings(reading.embeddings())
    torch.testing.assert_close(loss(reading), consistency + 0.25 * alignment)


def test_consistency_trains_the_fusion_and_alignment_both_encoders(model: ContextCIR) -> None:
    features = queries(model)
    reading = ConceptReading(model.fusion, features, IMAGES)
    loss, parts = GroundedConsistency(), (model.fusion, model.backbone.clip.visual, model.backbone.clip.transformer)
    for value, expected in (
        (loss.consistency(reading.in_context()[0], loss.places(reading.embeddings())), [True, True, True]),
        (loss.alignment.from_embeddings(reading.embeddings()), [False, True, True]),
    ):
        model.zero_grad()
        value.backward(retain_graph=True)
        moved = [any(x.grad is not None and x.grad.abs().max() > 0 for x in part.parameters()) for part in parts]
        assert moved == expected


def test_a_temperature_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0\.0001 to 100\.0, got -1 \(model\.concept\.temperature\)$"):
        GroundedConsistency(temperature=-1)
