"""What every loss has to satisfy; the classes of `contextcir.losses` are found, a new one needs no line here."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import contextcir.losses
from contextcir.batch import Clauses, Phrases, QueryBatch, phrases_of
from contextcir.fusion import SEARLE, DistilledSum
from contextcir.losses import (
    ClauseDistillation,
    ConceptLoss,
    ConceptReading,
    InfoNCE,
    JoinedConsistency,
    MeanOverPhrases,
    PseudoWordDistillation,
    SelfMaskingProjection,
    WithoutTriplets,
    mean_over_phrases,
)
from contextcir.losses.inversion import InversionLoss
from contextcir.losses.text_cc import MapConsistency
from contextcir.training.module import ContextCIR
from tests.helpers import tiny
from tests.helpers.classes import concrete_classes
from tests.helpers.concept_cases import maps
from tests.helpers.distributed import run_ranks

CAPTIONS = ["the dog sees the dog and a red ball", "a red ball", "no phrases", "a hat on the dog", "more"]
SPANS = [[(0, 7), (13, 20), (25, 35)], [(0, 10)], [], [(9, 16), (0, 5)], []]
CLAUSES = [[(0, 20), (25, 35)], [], [], [(0, 5), (6, 16)], []]
IMAGES = torch.tensor([7, 5, 7, 3, 9])  # the first and the third caption are about the same image
EVERY = concrete_classes(contextcir.losses, nn.Module)
CONCEPT = concrete_classes(contextcir.losses, ConceptLoss)
every_concept_loss = pytest.mark.parametrize("kind", CONCEPT)
every_contrastive_loss = pytest.mark.parametrize("kind", concrete_classes(contextcir.losses, InfoNCE))


def test_all_losses_are_found_and_listed() -> None:
    named = {"GroundedConsistency", "PhraseAlignment", "SpatialConsistency", "TextConceptConsistency"}
    named |= {"Additivity", "ClauseConsistency", "JoinedConsistency"}
    assert named <= {kind.__name__ for kind in CONCEPT}
    assert all(issubclass(kind, ConceptLoss | InfoNCE | WithoutTriplets) for kind in EVERY), (
        "a kind of loss without tests here"
    )
    assert {kind.__name__ for kind in EVERY} <= set(contextcir.losses.__all__)


def made(kind: type[ConceptLoss], weight: float = 1.0) -> ConceptLoss:
    """A loss that draws no random numbers and takes no long."""
    fast = {PseudoWordDistillation: {"steps": 2}, SelfMaskingProjection: {"noise": 0.0}}
    return kind(weight=weight, **fast.get(kind, {}))


def new_model(kind: type[ConceptLoss] | None = None) -> ContextCIR:
    """A model that a concept loss can train."""
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone())
    if kind is ClauseDistillation:
        model = ContextCIR(tiny.backbone(), DistilledSum, concept=kind())
    if kind is not None and issubclass(kind, InversionLoss):
        model = ContextCIR(tiny.backbone(), SEARLE, concept=kind()).eval()  # without dropout
    with torch.no_grad():  # at its zero initialisation, the fusion ignores the text
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


@pytest.fixture
def model(request: pytest.FixtureRequest) -> ContextCIR:
    return new_model(request.node.callspec.params.get("kind") if hasattr(request.node, "callspec") else None)


def pixels(ids: Tensor) -> Tensor:
    return torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in ids.tolist()])


def query(rows: list[int], captions: list[str] = CAPTIONS, spans: list = SPANS, clauses: list = CLAUSES) -> QueryBatch:
    """Some rows of the batch."""
    phrases, parts = (phrases_of([given[row] for row in rows]) for given in (spans, clauses))
    images = pixels(IMAGES[rows])
    places = Clauses(parts.owner, parts.spans)
    return QueryBatch(torch.arange(len(rows)), images, [captions[r] for r in rows], phrases, places)


def read(model: ContextCIR, rows: list[int], *given: list) -> ConceptReading:
    """Some rows of the batch, composed and ready to be read by a loss."""
    batch = query(rows, *given)
    batch = batch._replace(reference=batch.reference.to(next(model.parameters()).dtype))
    return ConceptReading(model.fusion, model.encode_query(batch), IMAGES[rows])


ALL = [0, 1, 2, 3]


@every_concept_loss
def test_a_concept_loss_is_a_scalar_with_gradients(kind: type[ConceptLoss], model: ContextCIR) -> None:
    value = made(kind)(read(model, ALL))
    value.backward()
    assert value.shape == () and value.isfinite() and value.item() > 0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert max(gradient.abs().max() for gradient in gradients) > 1e-6


@every_concept_loss
def test_its_weight_is_left_to_the_caller(kind: type[ConceptLoss], model: ContextCIR) -> None:
    reading = read(model, ALL)
    assert made(kind, 3.0).weight == 3.0
    assert torch.equal(made(kind, 3.0)(reading), made(kind, 0.1)(reading))


@pytest.mark.parametrize("kind", [kind for kind in CONCEPT if not issubclass(kind, ClauseDistillation | InversionLoss)])
def test_without_phrases_and_clauses_it_is_zero_with_zero_gradients(kind: type[ConceptLoss], model: ContextCIR) -> None:
    value = made(kind)(read(model, [0, 1, 3], CAPTIONS, [[]] * 4, [[]] * 4))  # nor two captions of one image
    value.backward()
    assert value.item() == 0.0
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


@every_concept_loss
def test_the_order_of_the_batch_changes_nothing(kind: type[ConceptLoss], model: ContextCIR) -> None:
    loss = made(kind)
    torch.testing.assert_close(loss(read(model, [2, 0, 3, 1])), loss(read(model, ALL)))
    batch = query(ALL)
    mixed = Phrases(*(part[[3, 1, 5, 0, 2, 4]] for part in batch.phrases))
    clauses = Clauses(*(part[[3, 0, 2, 1]] for part in batch.clauses))
    features = model.encode_query(batch._replace(reference=batch.reference.double(), phrases=mixed, clauses=clauses))
    torch.testing.assert_close(loss(ConceptReading(model.fusion, features, IMAGES[ALL])), loss(read(model, ALL)))


@pytest.mark.parametrize(  # those that do not read that caption
    "kind", [kind for kind in CONCEPT if kind not in (ClauseDistillation, SelfMaskingProjection)]
)
def test_padding_by_a_longer_caption_changes_nothing(kind: type[ConceptLoss], model: ContextCIR) -> None:
    longer = [*CAPTIONS[:4], "no phrases in many words " * 5]
    loss = made(kind)
    torch.testing.assert_close(loss(read(model, [*ALL, 4], longer)), loss(read(model, [*ALL, 4])))


@every_concept_loss
def test_low_precision_around_it_gives_nearly_the_same_in_full_precision(
    kind: type[ConceptLoss], model: ContextCIR
) -> None:
    model, loss = model.float(), made(kind)
    full = loss(read(model, ALL))
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(read(model, ALL))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, rtol=0.1, atol=0.01)


def flat_gradient(model: ContextCIR) -> Tensor:
    """The gradients of all parameters but the large table of tokens; 0 where there are none."""
    named = [(name, p) for name, p in model.named_parameters() if "token_embedding" not in name]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for _, p in named])


def loss_on_rank(rank: int, kind: type[ConceptLoss], parts: list[list[int]]) -> list[Tensor]:
    model = new_model(kind)
    value = made(kind)(read(model, parts[rank]))
    value.backward()
    gradient = flat_gradient(model)
    dist.all_reduce(gradient)
    return [value, gradient / len(parts)]  # as distributed training averages it


@every_concept_loss
@pytest.mark.parametrize(
    "parts",
    [[[0, 1], [2, 3]], [[1], [0, 2, 3]], [[0, 1, 3], [2]], [[0, 2], [3, 1]]],
    ids=["both", "one", "none", "by image"],
)
def test_two_ranks_equal_one_process(kind: type[ConceptLoss], parts: list[list[int]]) -> None:
    if kind in (JoinedConsistency, ClauseDistillation) and set(IMAGES[parts[0]].tolist()) & set(
        IMAGES[parts[1]].tolist()
    ):
        pytest.skip("captions of an image on two ranks are no pair: an order of data keeps them in one batch")
    ranks = run_ranks(loss_on_rank, 2, kind, parts)
    model = new_model(kind)
    joint = made(kind)(read(model, [*parts[0], *parts[1]]))
    joint.backward()
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]).item() / 2, joint.item(), rtol=1e-9, atol=0)
    for _, gradient in ranks:
        torch.testing.assert_close(gradient, flat_gradient(model), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", concrete_classes(contextcir.losses, MeanOverPhrases))
def test_a_mean_over_phrases_is_that_of_the_values_of_any_parts(kind: type[MeanOverPhrases], model: ContextCIR) -> None:
    loss = made(kind)
    whole, parts = loss.values(read(model, ALL)), [loss.values(read(model, rows)) for rows in ([0], [1, 2], [3])]
    captions = 4 if issubclass(kind, InversionLoss) else 2  # all of them, or those of two clauses
    assert whole.shape == (6 if kind.needs_phrases else captions,)
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(loss(read(model, ALL)), mean_over_phrases(whole))


@pytest.mark.parametrize("kind", concrete_classes(contextcir.losses, MapConsistency))
def test_only_maps_in_context_get_gradients_and_only_for_patches(kind: type[MapConsistency]) -> None:
    given = maps([0, 2])
    kind().from_maps(given).backward()
    assert all(layer.grad is None for layer in given.isolated)
    for layer in given.context:
        assert (layer.grad[[0, 2], :, 1:] != 0).any()
        assert (layer.grad[:, :, 0] == 0).all() and (layer.grad[1] == 0).all()


def contrastive_rows(size: int = 6) -> tuple[list[Tensor], list[Tensor]]:
    """Embeddings and ids; two queries share a target, one reference is the target of another query."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, 8, generator=generator, dtype=torch.double)
    target_id, reference_id = torch.tensor([0, 1, 0, 3, 4, 5]), torch.tensor([10, 11, 12, 0, 13, 10])
    query = torch.randn(size, 8, generator=generator, dtype=torch.double)
    return [query, table[target_id], table[reference_id]], [target_id, reference_id]


@every_contrastive_loss
def test_a_contrastive_loss_ignores_order_and_length(kind: type[InfoNCE]) -> None:
    (embeddings, ids), loss = contrastive_rows(), kind().double()
    expected, order = loss(*embeddings, *ids), torch.tensor([3, 5, 0, 1, 4, 2])
    assert expected.shape == () and expected > 0
    torch.testing.assert_close(loss(*(x[order] for x in (*embeddings, *ids))), expected)
    scaled = [factor * x for factor, x in zip((7, 0.1, 3), embeddings, strict=True)]
    torch.testing.assert_close(loss(*scaled, *ids), expected)


@every_contrastive_loss
def test_a_contrastive_loss_has_gradients_of_finite_differences(kind: type[InfoNCE]) -> None:
    (embeddings, ids), loss = contrastive_rows(), kind(0.5).double()
    given = [x.requires_grad_() for x in embeddings]
    assert torch.autograd.gradcheck(lambda *sides: loss(*sides, *ids), given)


@every_contrastive_loss
def test_low_precision_around_a_contrastive_loss_changes_nothing(kind: type[InfoNCE]) -> None:
    (embeddings, ids), loss = contrastive_rows(), kind()
    rows = [x.float() for x in embeddings]
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(*rows, *ids)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, loss(*rows, *ids))


@every_contrastive_loss
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(kind: type[InfoNCE], temperature: float) -> None:
    with pytest.raises(ValueError, match=r"from 0\.0001 to 100\.0, got .* \(model\.contrastive\.temperature\)$"):
        kind(temperature)
