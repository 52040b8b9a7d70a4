"""DistilledSum: trained by clauses, used on whole captions, and a student that learns the one from the other."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from contextcir.batch import Clauses, QueryBatch, TripletBatch, phrases_of
from contextcir.errors import InputError
from contextcir.fusion import ClauseSum, DistilledSum, Fusion, RawSum, Sum
from contextcir.losses import ClauseConsistency, ClauseDistillation, ConceptLoss, ConceptReading
from contextcir.losses.composed import JOINTS
from contextcir.training.module import ContextCIR
from tests.helpers import tiny

PARTS = [["make the dog red", "add a ball"], ["remove the hat"], ["no cat", "two birds"], ["a tree"]]
CAPTIONS = [" and ".join(parts) for parts in PARTS]
IMAGES = torch.tensor([7, 7, 5, 3])


def model_of(fusion: type[Fusion] = DistilledSum, concept: ConceptLoss | None = None) -> ContextCIR:
    torch.manual_seed(0)
    given = ClauseDistillation() if fusion is DistilledSum and concept is None else concept
    return ContextCIR(tiny.backbone(), fusion, concept=given).double()


def query() -> QueryBatch:
    pixels = torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in IMAGES.tolist()])
    spans = [
        [(CAPTIONS[row].index(part), CAPTIONS[row].index(part) + len(part)) for part in PARTS[row]] for row in range(4)
    ]
    places = phrases_of([one if len(one) > 1 else [] for one in spans])
    return QueryBatch(
        torch.arange(4), pixels.double(), CAPTIONS, phrases_of([[]] * 4), Clauses(places.owner, places.spans)
    )


def shake(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def test_it_is_the_clause_sum_in_training_and_reads_whole_captions_in_use() -> None:
    model, clauses, whole = model_of(), model_of(ClauseSum), model_of(RawSum)
    torch.testing.assert_close(
        model.train().encode_query(query()).fused.embedding, clauses.encode_query(query()).fused.embedding
    )
    torch.testing.assert_close(
        model.eval().encode_query(query()).fused.embedding, whole.encode_query(query()).fused.embedding
    )
    assert model.train().fusion.reads_clauses and not model.eval().fusion.reads_clauses


def test_in_use_the_student_reads_and_in_training_the_teacher() -> None:
    model = model_of()
    used, trained = (model.train(mode).encode_query(query()).fused.embedding for mode in (False, True))
    shake(model.fusion.differences, 1)
    assert (model.eval().encode_query(query()).fused.embedding - used).abs().min() > 1e-6
    torch.testing.assert_close(model.train().encode_query(query()).fused.embedding, trained)


def by_hand(model: ContextCIR) -> set[float]:
    """What the loss may be, text by text, for r = 0.5: those of image 7 are a pair, joined in one of six ways."""

    def student(text: str) -> Tensor:
        tower = copy.deepcopy(model.backbone)
        names = sorted(tower.parameter_groups()["text_tower"] - {"clip.logit_scale", "clip.logit_bias"})
        for name, difference in zip(names, model.fusion.differences, strict=True):
            tower.get_parameter(name).add_(difference)
        return tower.encode_text(tiny.tokenizer()([text])).embedding[0]

    def teacher(parts: list[str]) -> Tensor:
        return torch.stack([model.backbone.encode_text(tiny.tokenizer()([part])).embedding[0] for part in parts]).sum(0)

    images = model.backbone.encode_image(query().reference).embedding
    scale = model.fusion.log_scale.exp()

    def shares(row: int, text: Tensor) -> list[float]:
        composed = images[row] / images[row].norm() + scale * text
        ways = [torch.cosine_similarity(composed, images[other], 0).item() / 0.03 for other in (0, 2, 3)]
        return [math.exp(way) / sum(map(math.exp, ways)) for way in ways]

    def apart(row: int, text: str, parts: list[str]) -> float:
        given, taught = student(text), teacher(parts)
        ranking = sum(p * math.log(p / q) for p, q in zip(shares(row, taught), shares(row, given), strict=True))
        return ((given - taught).square().sum() / taught.square().sum()).item() + 0.5 * ranking

    with torch.no_grad():
        own = [apart(row, caption, PARTS[row]) for row, caption in enumerate(CAPTIONS)]
        pairs = [a + joint + b for a, b in (CAPTIONS[:2], CAPTIONS[1::-1]) for joint in JOINTS]
        joined = [apart(0, text, [*PARTS[0], *PARTS[1]]) for text in pairs]
    return {round((sum(own) + one) / 5, 9) for one in joined}


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_relative_error_of_captions_and_of_a_pair_of_one_image(training: bool) -> None:
    model = model_of()
    shake(model.fusion.differences, 1)
    model.train(training)
    value = ClauseDistillation(ranking=0.5)(ConceptReading(model.fusion, model.encode_query(query()), IMAGES))
    assert round(value.item(), 9) in by_hand(model)


def test_only_the_student_learns_from_it_and_the_student_from_nothing_else() -> None:
    model = model_of()
    shake(model.fusion.differences, 1)
    row = torch.arange(4)
    losses = model.train().losses(TripletBatch(query(), query().reference.flip(0), row, row + 4))
    student = {name for name, _ in model.named_parameters() if "differences" in name}
    for part in ("concept", "contrastive"):
        model.zero_grad()
        losses[part].backward(retain_graph=True)
        learns = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert learns == student if part == "concept" else learns and not learns & student


def test_a_student_that_is_trained_gives_for_longer_captions_what_their_clauses_give() -> None:
    model = model_of().train()
    shake(model.fusion.differences, 1)
    teacher = copy.deepcopy(model.backbone.state_dict())
    reading = ConceptReading(model.fusion, model.encode_query(query()), IMAGES)
    optimizer = torch.optim.Adam(model.fusion.differences.parameters(), 3e-3)
    before = ClauseDistillation()(reading).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = ClauseDistillation()(reading)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * before
    assert all(torch.equal(value, teacher[name]) for name, value in model.backbone.state_dict().items())


def test_the_student_follows_the_teacher() -> None:
    model = model_of().eval()
    shake(model.backbone.clip.transformer, 1)
    whole = RawSum(model.backbone.widths).double()
    expected = whole(*model.encode_query(query())[:1], model.backbone.encode_text(tiny.tokenizer()(CAPTIONS)))
    torch.testing.assert_close(model.encode_query(query()).fused.embedding, expected.embedding)


def test_a_frozen_text_tower_is_refused() -> None:
    backbone = tiny.backbone()
    backbone.requires_grad_(False)
    with pytest.raises(InputError, match="DistilledSum trains the text tower, and it is frozen") as refused:
        ContextCIR(backbone, DistilledSum, concept=ClauseDistillation())
    assert refused.value.setting == "model.backbone.trainable_text_blocks"


@pytest.mark.parametrize("concept", [None, ClauseConsistency()])
def test_without_its_loss_it_is_refused(concept: ConceptLoss | None) -> None:
    with pytest.raises(InputError, match="DistilledSum is trained by ClauseDistillation|teaches what clauses give"):
        ContextCIR(tiny.backbone(), DistilledSum, concept=concept)


@pytest.mark.parametrize("fusion", [Sum, ClauseSum, RawSum])
def test_the_loss_is_refused_for_fusions_without_a_student(fusion: type[Fusion]) -> None:
    with pytest.raises(InputError, match=f"{fusion.__name__} has none") as refused:
        model_of(fusion, ClauseDistillation())
    assert refused.value.setting == "model.concept"
