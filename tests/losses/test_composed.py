"""Losses that teach a whole caption what its clauses give alone, against queries composed one by one."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contextcir.batch import Clauses, QueryBatch, TripletBatch, phrases_of
from contextcir.encoders.features import ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.errors import InputError
from contextcir.fusion import (
    ClauseSum,
    ConceptAttentionFusion,
    ConceptComposer,
    CrossAttentionFusion,
    EditedImageFusion,
    Fusion,
    Sum,
)
from contextcir.losses import Additivity, ClauseConsistency, ConceptLoss, ConceptReading, JoinedConsistency
from contextcir.losses.composed import JOINTS, join_pairs
from contextcir.losses.excerpts import captions_by_clause, compose_as_teacher
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from tests.helpers import tiny

PARTS = [  # captions by their clauses; the first three are about one image
    ["make the dog red", "add a ball", "remove the hat"],
    ["a dog on the sofa"],
    ["no cat", "two birds"],
    ["the ball is bigger", "it is green"],
    ["a tree"],
]
CAPTIONS = [" and ".join(parts) for parts in PARTS]
IMAGES = torch.tensor([7, 7, 7, 5, 3])
PHRASES = [[(5, 12), (21, 31)], [(0, 5)], [], [(0, 8)], []]
WHOLE_READERS = [CrossAttentionFusion, EditedImageFusion, ConceptAttentionFusion, Sum]
COMPOSED = [ClauseConsistency, JoinedConsistency, Additivity]


def spans_of(parts: list[str]) -> list[tuple[int, int]]:
    ends = [len(" and ".join(parts[: number + 1])) for number in range(len(parts))]
    return [(end - len(part), end) for end, part in zip(ends, parts, strict=True)]


def model_of(fusion: type[Fusion], concept: ConceptLoss | None = None, **settings: float) -> ContextCIR:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone(), lambda widths: fusion(widths, **settings), concept=concept)
    with torch.no_grad():  # at its zero initialisation, the fusion ignores the text
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def query(clauses: bool = True) -> QueryBatch:
    pixels = torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in IMAGES.tolist()])
    places = phrases_of([spans_of(parts) if len(parts) > 1 else [] for parts in PARTS])
    given = Clauses(places.owner, places.spans) if clauses else None
    return QueryBatch(torch.arange(5), pixels.double(), CAPTIONS, phrases_of(PHRASES), given)


def read(model: ContextCIR, batch: QueryBatch | None = None) -> ConceptReading:
    return ConceptReading(model.fusion, model.encode_query(batch or query()), IMAGES)


def clause_by_clause(model: ContextCIR, row: int, clauses: list[str], named: list[str]) -> Tensor:
    """One query (E,), from the tokens of each clause written one after another; ``named``: its noun phrases."""
    first, inner, ends, embeddings = None, [], [], []
    for clause in clauses:
        text = model.backbone.encode_text(tiny.tokenizer()([clause]))
        first = text.tokens[:, :1] if first is None else first
        inner.append(text.tokens[:, 1:-1])
        ends.append(text.tokens[:, -1:])
        embeddings.append(text.embedding)
    tokens = torch.cat([first, *inner, torch.stack(ends).mean(dim=0)], dim=1)
    text = TextFeatures(tokens, torch.ones(tokens.shape[:2]).bool(), torch.stack(embeddings).sum(dim=0))
    image = model.backbone.encode_image(query().reference[row : row + 1])
    words = " ".join(named)
    places = [(match.start(), match.end()) for name in named for match in [re.search(re.escape(name), words)]]
    phrases = PhraseTexts(model.backbone, [words], phrases_of([places]))
    return model.fusion(ImageFeatures(*image), text, phrases).embedding[0]


def named_in(row: int) -> list[str]:
    return [CAPTIONS[row][start:end] for start, end in PHRASES[row]]


def one_less_cosine(a: Tensor, b: Tensor) -> float:
    return 1 - functional.cosine_similarity(a, b, dim=0).item()


@pytest.mark.parametrize("fusion", WHOLE_READERS)
@torch.no_grad()
def test_clause_consistency_compares_the_caption_with_its_clauses_encoded_alone(fusion: type[Fusion]) -> None:
    model = model_of(fusion)
    expected = [
        one_less_cosine(
            model.encode_query(query()).fused.embedding[row], clause_by_clause(model, row, PARTS[row], named_in(row))
        )
        for row in (0, 2, 3)
    ]
    found = ClauseConsistency().values(read(model))
    torch.testing.assert_close(found, torch.tensor(expected).double())
    assert found.min() > 1e-4
    torch.testing.assert_close(ClauseConsistency()(read(model)), found.mean())


def sum_of_changes(model: ContextCIR, row: int) -> Tensor:
    """The target of additivity (E,): a blank caption's query, plus the change that each clause makes to it."""
    image = query().reference[row : row + 1]
    blank = model.embed_query(image, [""])[0]
    target = blank.clone()
    for clause, (start, end) in zip(PARTS[row], spans_of(PARTS[row]), strict=True):
        inside = [(a - start, b - start) for a, b in PHRASES[row] if start <= a and b <= end]
        target += model.embed_query(image, [clause], phrases_of([inside]))[0] - blank
    return target


@pytest.mark.parametrize("fusion", [*WHOLE_READERS, ConceptComposer, ClauseSum])
@torch.no_grad()
def test_additivity_compares_the_change_of_a_caption_with_those_of_its_clauses(fusion: type[Fusion]) -> None:
    model = model_of(fusion)
    whole = model.encode_query(query()).fused.embedding
    expected = [one_less_cosine(whole[row], sum_of_changes(model, row)) for row in (0, 2, 3)]
    found = Additivity().values(read(model))
    torch.testing.assert_close(found, torch.tensor(expected).double())
    assert found.min() > 1e-6


@pytest.mark.parametrize("fusion", WHOLE_READERS)
@torch.no_grad()
def test_joined_captions_count_like_those_of_the_batch(fusion: type[Fusion]) -> None:
    model = model_of(fusion)
    reading = read(model)
    [(pair, other)] = join_pairs(captions_by_clause(reading), IMAGES.tolist(), tiny.tokenizer())
    rows = [row for row in (0, 1, 2) if CAPTIONS[row] in pair.caption]
    rows.sort(key=lambda row: pair.caption.index(CAPTIONS[row]))
    assert rows == [pair.row, other]
    assert pair.caption in [joint.join(CAPTIONS[row] for row in rows) for joint in JOINTS]
    spans = [span for row in rows for span in PHRASES[row]]
    shift = len(pair.caption) - len(CAPTIONS[rows[1]])
    moved = [*PHRASES[rows[0]], *((a + shift, b + shift) for a, b in PHRASES[rows[1]])]
    assert len(moved) == len(spans)
    whole = model.embed_query(query().reference[:1], [pair.caption], phrases_of([moved]))[0]
    named = [name for row in rows for name in named_in(row)]
    joined = one_less_cosine(whole, clause_by_clause(model, 0, [x for row in rows for x in PARTS[row]], named))
    values = [*ClauseConsistency().values(reading).tolist(), joined]
    assert JoinedConsistency()(reading).item() == pytest.approx(sum(values) / 4, rel=1e-9)


def test_captions_without_clauses_are_joined_as_one_clause_each() -> None:
    model = model_of(EditedImageFusion)
    reading = read(model, query(clauses=False))
    assert ClauseConsistency().values(reading).shape == Additivity().values(reading).shape == (0,)
    [(pair, _)] = join_pairs(captions_by_clause(reading), IMAGES.tolist(), tiny.tokenizer())
    assert [pair.caption[start:end] in CAPTIONS for start, end in pair.clauses] == [True, True]
    assert JoinedConsistency()(reading) > 1e-4


@pytest.mark.parametrize("kind", COMPOSED)
def test_the_teacher_gets_no_gradient_and_the_student_does(kind: type[ConceptLoss]) -> None:
    model = model_of(EditedImageFusion)
    captions = captions_by_clause(read(model))
    teacher = compose_as_teacher(read(model), captions)
    assert not teacher.requires_grad
    kind()(read(model)).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert all(found[f"fusion.{name}"].abs().max() > 0 for name, _ in model.fusion.named_parameters())
    if kind is JoinedConsistency:
        return
    model.zero_grad()
    rows = [0, 2, 3]
    constant = teacher[rows]
    if kind is Additivity:
        constant = torch.stack([functional.normalize(sum_of_changes(model, row), dim=0) for row in rows])
    student = functional.normalize(model.encode_query(query()).fused.embedding[rows], dim=1)
    (1 - (student * constant).sum(dim=1)).mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad)


def test_the_teacher_has_no_dropout_and_leaves_the_fusion_in_training() -> None:
    model = model_of(EditedImageFusion, dropout=0.5).train()
    reading = read(model)
    captions = captions_by_clause(reading)
    before = torch.get_rng_state()
    first = compose_as_teacher(reading, captions)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, compose_as_teacher(reading, captions))
    assert model.fusion.training and all(module.training for module in model.fusion.modules())


@pytest.mark.parametrize("kind", COMPOSED)
def test_in_low_precision_all_weights_keep_their_gradients(kind: type[ConceptLoss]) -> None:
    model = model_of(EditedImageFusion).float()
    batch = query()._replace(reference=query().reference.float())
    full = torch.autograd.grad(kind()(read(model, batch)), list(model.fusion.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        low = torch.autograd.grad(kind()(read(model, batch)), list(model.fusion.parameters()))
    flat = [torch.cat([part.flatten() for part in parts]) for parts in (full, low)]
    assert functional.cosine_similarity(*flat, dim=0) > 0.9
    assert all(gradient.abs().max() > 0 for gradient in low)


@pytest.mark.parametrize("kind", [ClauseConsistency, JoinedConsistency])
@pytest.mark.parametrize("fusion", [ConceptComposer, ClauseSum])
def test_a_fusion_that_reads_clauses_alone_is_refused(kind: type[ConceptLoss], fusion: type[Fusion]) -> None:
    with pytest.raises(InputError, match=rf"^{kind.__name__} .*{fusion.__name__} .*model\.fusion.*model\.concept"):
        model_of(fusion, kind())


def test_additivity_trains_a_fusion_that_reads_clauses_alone() -> None:
    model = model_of(ConceptComposer, Additivity())
    row = torch.arange(5)
    batch = TripletBatch(query(), query().reference.flip(0), IMAGES, row + 20)
    losses = model.losses(batch)
    losses["concept"].backward()
    assert losses["concept"] > 0 and all(p.grad.abs().max() > 0 for p in model.fusion.parameters())


def test_joined_captions_need_the_whole_batch() -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="JoinedConsistency compares"):
        ContextCIR(tiny.backbone(), concept=JoinedConsistency(), encoding=GradientCache(2))


@pytest.mark.parametrize("kind", COMPOSED)
def test_a_batch_that_has_nothing_to_compare_is_told(kind: type[ConceptLoss]) -> None:
    missing = kind().missing(query(clauses=False))
    assert missing == (None if kind is JoinedConsistency else "clauses")
    assert kind().missing(query()) is None
    assert isinstance(kind(), nn.Module) and not kind().needs_maps
