"""ContextCIR as a whole: embeddings, attention, and the losses against naive computations."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import Phrases, QueryBatch, TripletBatch
from contextcir.errors import InputError
from contextcir.fusion import ConceptAttentionFusion, CrossAttentionFusion
from contextcir.fusion.baselines import ImageOnly, Sum
from contextcir.losses.contrastive import InfoNCE
from contextcir.losses.grounded import GroundedConsistency, PhraseAlignment
from contextcir.losses.maps import ConceptReading
from contextcir.losses.text_cc import SpatialConsistency, TextConceptConsistency
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine
from tests.helpers import tiny

CAPTIONS = ["make the dog bigger and add a red ball", "without the cat", " ", "the dog is on a sofa"]
SPANS = [
    (0, 5, 12),
    (0, 28, 38),
    (1, 8, 15),
    (3, 0, 7),
]  # owner, start, end: "the dog", "a red ball", "the cat", "the dog"


@pytest.fixture
def model() -> ContextCIR:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone(), concept=TextConceptConsistency())
    with torch.no_grad():  # at its zero initialisation, the fusion ignores the text
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def triplets(reference_id: list[int], target_id: list[int]) -> TripletBatch:
    """A batch whose images are a function of their ids, as on disk."""

    def images(ids: list[int]) -> Tensor:
        return torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in ids])

    phrases = Phrases(
        torch.tensor([owner for owner, _, _ in SPANS]),
        torch.tensor([(start, end) for _, start, end in SPANS]),
        torch.full((len(SPANS), 4), float("nan")),
    )
    query = QueryBatch(torch.arange(len(CAPTIONS)), images(reference_id), CAPTIONS, phrases)
    return TripletBatch(query, images(target_id), torch.tensor(reference_id), torch.tensor(target_id))


def test_embeddings_have_unit_length_whatever_the_mode(model: ContextCIR) -> None:
    batch = triplets([1, 2, 3, 4], [5, 6, 7, 8])
    model.train()
    query, image = model.embed_query(batch.query.reference, CAPTIONS), model.embed_image(batch.target)
    assert model.training
    assert query.shape == image.shape == (4, 32)
    for embedding in (query, image):
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(4))
        assert not embedding.requires_grad
    model.eval()
    torch.testing.assert_close(query, functional.normalize(model.encode_query(batch.query).fused.embedding, dim=-1))


def test_a_caption_changes_the_query_and_its_neighbours_do_not(model: ContextCIR) -> None:
    images = triplets([1, 2, 3, 4], [5, 6, 7, 8]).query.reference
    together = model.embed_query(images, CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        alone = model.embed_query(images[row : row + 1], [caption])[0]
        torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=1e-5)
        other = model.embed_query(images[row : row + 1], ["something else"])[0]
        assert (other - together[row]).abs().max() > 1e-3


def test_attention_maps_are_distributions_over_the_text_that_is_there(model: ContextCIR) -> None:
    images = triplets([1, 2, 3, 4], [5, 6, 7, 8]).query.reference
    maps = model.attention_maps(images, CAPTIONS)
    tokens = model.backbone.tokenizer(CAPTIONS)
    assert maps.shape == (4, 4, 8, 17, tokens.ids.shape[1])
    torch.testing.assert_close(maps.sum(-1), torch.ones(4, 4, 8, 17))
    assert (maps.movedim(1, 0).movedim(-1, 1)[~tokens.valid] == 0).all()


def test_a_fusion_without_attention_says_so() -> None:
    model = ContextCIR(tiny.backbone(), fusion=Sum)
    with pytest.raises(ValueError, match="Sum has no attention"):
        model.attention_maps(torch.zeros(1, 3, 32, 32), ["a dog"])


def test_the_text_projection_trains_only_for_fusions_that_read_it() -> None:
    assert not ContextCIR(tiny.backbone()).backbone.clip.text_projection.requires_grad
    assert ContextCIR(tiny.backbone(), fusion=Sum).backbone.clip.text_projection.requires_grad


def test_phrase_maps_equal_those_of_phrases_encoded_one_by_one(model: ContextCIR) -> None:
    batch = triplets([1, 2, 3, 4], [5, 6, 7, 8]).query
    maps = ConceptReading(model.fusion, model.encode_query(batch)).detached_maps()
    for phrase, (owner, start, end) in enumerate(SPANS):
        text = CAPTIONS[owner][start:end]
        alone = model.attention_maps(batch.reference[owner : owner + 1], [text])[:, 0]  # (L, H, V, T)
        length = alone.shape[-1]
        together = torch.stack([layer[maps.alone[phrase]] for layer in maps.isolated])
        torch.testing.assert_close(together[..., :length], alone, atol=1e-6, rtol=1e-5)
        assert (together[..., length:] == 0).all()
        assert maps.isolated_tokens[maps.alone[phrase]].nonzero().flatten().tolist() == list(range(1, length - 1))
        ids = model.backbone.tokenizer(CAPTIONS).ids[owner][maps.context_tokens[phrase]]
        assert ids.tolist() == model.backbone.tokenizer([text]).ids[0, 1:-1].tolist()


def test_the_same_words_on_the_same_image_are_read_once(model: ContextCIR, monkeypatch: pytest.MonkeyPatch) -> None:
    model.concept = TextConceptConsistency()
    batch = triplets([1, 1, 3, 1], [5, 6, 7, 8])
    query = batch.query._replace(captions=[CAPTIONS[0]] * 4)
    start, end = next((start, end) for owner, start, end in SPANS if owner == 0)
    phrases = query.phrases._replace(
        owner=torch.arange(4), spans=torch.tensor([[start, end]] * 4), boxes=torch.full((4, 4), torch.nan)
    )
    query = query._replace(phrases=phrases, reference=query.reference[[0, 0, 2, 0]])
    features = model.encode_query(query)
    apart = ConceptReading(model.fusion, features).detached_maps()
    together = ConceptReading(model.fusion, features, batch.reference_id).detached_maps()
    assert [len(maps.isolated[0]) for maps in (apart, together)] == [4, 2]
    assert together.alone.tolist() == [0, 0, 1, 0]
    torch.testing.assert_close(model.concept.from_maps(together), model.concept.from_maps(apart))


def test_the_loss_is_contrastive_plus_weighted_concept_loss_computed_image_by_image(model: ContextCIR) -> None:
    batch = triplets([1, 1, 3, 1], [5, 6, 1, 8])  # image 1: three times reference, once target
    losses = model.losses(batch)
    features = [
        model.encode_query(
            QueryBatch(torch.zeros(1), batch.query.reference[i : i + 1], [CAPTIONS[i]], batch.query.phrases)
        )
        for i in range(4)
    ]
    query = torch.cat([f.fused.embedding for f in features])
    reference = torch.cat([f.image.embedding for f in features])
    target = torch.cat([model.backbone.encode_image(batch.target[i : i + 1]).embedding for i in range(4)])
    contrastive = InfoNCE()(query, target, reference, batch.target_id, batch.reference_id)
    torch.testing.assert_close(losses["contrastive"], contrastive, atol=1e-5, rtol=1e-5)

    differences = []
    for owner, start, end in SPANS:
        image = batch.query.reference[owner : owner + 1]
        context = model.attention_maps(image, [CAPTIONS[owner]]).mean((0, 2))[0, 1:]  # (V - 1, T)
        alone = model.attention_maps(image, [CAPTIONS[owner][start:end]]).mean((0, 2))[0, 1:]
        tokens = model.backbone.tokenizer.span_tokens(
            [CAPTIONS[owner]], torch.tensor([0]), torch.tensor([[start, end]])
        )
        differences.append((context[:, tokens[0]].mean(1) - alone[:, 1:-1].mean(1)).abs().mean())
    torch.testing.assert_close(losses["concept"], torch.stack(differences).mean(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(losses["loss"], losses["contrastive"] + 0.08 * losses["concept"])


def test_gradients_of_images_that_occur_several_times_add_up(model: ContextCIR) -> None:
    repeated, distinct = triplets([1, 1, 3, 1], [5, 6, 7, 8]), triplets([1, 1, 3, 1], [5, 6, 7, 8])
    # The same pixels under four names: nothing is encoded once for all, and no mask of the loss is touched.
    distinct = distinct._replace(reference_id=torch.tensor([1, 91, 3, 92]))
    model.contrastive = WithoutIds()
    gradients = []
    for batch in (repeated, distinct):
        model.zero_grad()
        model.losses(batch)["loss"].backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


class WithoutIds(InfoNCE):
    """InfoNCE that takes every row for an image of its own."""

    def forward(self, query: Tensor, target: Tensor, reference: Tensor, *ids: Tensor) -> Tensor:
        row = torch.arange(len(query))
        return super().forward(query, target, reference, row, row + len(query))


def test_a_batch_without_phrases_has_no_concept_loss_and_still_a_gradient(model: ContextCIR) -> None:
    batch = triplets([1, 2, 3, 4], [5, 6, 7, 8])
    none = Phrases(torch.empty(0, dtype=torch.long), torch.empty(0, 2, dtype=torch.long), torch.empty(0, 4))
    losses = model.losses(batch._replace(query=batch.query._replace(phrases=none)))
    assert losses["concept"] == 0
    losses["loss"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_few_steps_make_queries_find_their_targets(model: ContextCIR) -> None:
    batch = triplets([1, 2, 3, 4], [5, 6, 7, 8])
    optimizer, _ = AdamWWarmupCosine(lr=1e-3, backbone_lr=1e-4, warmup_steps=1)(model.backbone, [model.fusion], 40)
    first = model.losses(batch)["loss"].item()
    for _ in range(25):
        optimizer.zero_grad()
        loss = model.losses(batch)["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first
    scores = model.embed_query(batch.query.reference, CAPTIONS) @ model.embed_image(batch.target).T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]


def test_phrases_outside_of_their_caption_are_an_error(model: ContextCIR) -> None:
    batch = triplets([1, 2, 3, 4], [5, 6, 7, 8])
    spans = batch.query.phrases.spans.clone()
    spans[2, 1] = 99
    phrases = batch.query.phrases._replace(spans=spans)
    with pytest.raises(ValueError, match=r"span \[8, 99\) is not inside the caption 'without the cat'"):
        model.losses(batch._replace(query=batch.query._replace(phrases=phrases)))


def test_settings_do_not_change_by_being_used() -> None:
    optimizer = AdamWWarmupCosine(lr=1e-3)
    before = dict(vars(optimizer))
    model = ContextCIR(tiny.backbone(), optimizer=optimizer)
    optimizer(model.backbone, [model.fusion], 10)
    assert vars(optimizer) == before


class Blind(CrossAttentionFusion):
    """A fusion of somebody else's, without maps."""

    def attention(self, image: torch.Tensor, text: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ()


@pytest.mark.parametrize("fusion", [Sum, ImageOnly, Blind])
@pytest.mark.parametrize("loss", [TextConceptConsistency, SpatialConsistency, GroundedConsistency])
def test_a_loss_on_maps_is_refused_with_a_fusion_that_has_none(fusion: type, loss: type) -> None:
    message = rf"{loss.__name__} compares attention maps, and {fusion.__name__} has none.*\(model\.fusion\)$"
    with pytest.raises(InputError, match=message):
        ContextCIR(tiny.backbone(), fusion=fusion, concept=loss())


def test_a_loss_that_reads_no_maps_goes_with_any_fusion_and_the_check_draws_no_random_numbers() -> None:
    ContextCIR(tiny.backbone(), fusion=Sum, concept=PhraseAlignment())
    states = []
    for concept in (None, TextConceptConsistency()):
        torch.manual_seed(0)
        model = ContextCIR(tiny.backbone(), fusion=partial(ConceptAttentionFusion, dropout=0.5), concept=concept)
        states.append((torch.rand(()), model.fusion.training))
    assert states[0] == states[1]
