"""The losses of textual inversion, against formulas written anew, one image or text at a time."""

from string import ascii_lowercase

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contextcir.batch import Phrases, QueryBatch, TripletBatch, phrases_of
from contextcir.encoders.pseudo_words import prompt_of
from contextcir.errors import InputError
from contextcir.files import stable_hash
from contextcir.fusion import SEARLE, LinCIR, Pic2Word, Sum
from contextcir.fusion.inversion import TextualInversion
from contextcir.losses import (
    Additivity,
    ClauseConsistency,
    ImageReconstruction,
    JoinedConsistency,
    PseudoWordDistillation,
    SelfMaskingProjection,
    WithoutTriplets,
)
from contextcir.losses.composed import ComposedLoss
from contextcir.losses.inversion import InversionLoss, without
from contextcir.losses.optimised_words import TEMPLATES, OptimisedWords
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from tests.helpers import tiny

CAPTIONS = ["make the dog bigger and add a red ball", "without the cat", "the dog, the dog on a sofa", "a sofa"]
SPANS = [[(5, 12), (28, 38)], [(8, 15)], [(0, 7), (9, 16), (20, 26)], [(0, 6)]]
REFERENCES, TARGETS = [10, 11, 10, 12], [20, 21, 22, 11]  # 6 different images


def model_of(kind: type[TextualInversion], loss: InversionLoss, encoding: GradientCache | None = None) -> ContextCIR:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone(), kind, WithoutTriplets(), loss, encoding=encoding).double()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    return model.eval()  # without dropout


def batch(phrases: Phrases | None = None) -> TripletBatch:
    generator = torch.Generator().manual_seed(3)
    pictures = {n: torch.randn(3, 32, 32, generator=generator).double() for n in sorted({*REFERENCES, *TARGETS})}
    references, targets = (torch.stack([pictures[n] for n in ids]) for ids in (REFERENCES, TARGETS))
    query = QueryBatch(torch.arange(4), references, CAPTIONS, phrases_of(SPANS) if phrases is None else phrases)
    return TripletBatch(query, targets, torch.tensor(REFERENCES), torch.tensor(TARGETS))


def text_of(model: ContextCIR, pieces: list[str], word: Tensor) -> Tensor:
    """The embedding of one text with one pseudo-word; how words are inserted is tested with the fusions."""
    return model.fusion.fill_gaps(prompt_of(tiny.tokenizer(), [pieces]), word[None])[0]


def images_of(model: ContextCIR) -> dict[int, Tensor]:
    given = batch()
    pixels = torch.cat([given.query.reference, given.target])
    return {n: model.backbone.encode_image(pixels[i : i + 1]).embedding[0] for i, n in enumerate(REFERENCES + TARGETS)}


def test_each_image_is_told_by_its_photo_of_a_word() -> None:
    model = model_of(Pic2Word, ImageReconstruction(temperature=0.1))
    images = list(images_of(model).values())
    assert len(images) == 6
    texts = [text_of(model, ["a photo of", ""], model.fusion.phi(image)) for image in images]
    scores = [[float(functional.cosine_similarity(i, t, dim=0).detach()) / 0.1 for t in texts] for i in images]
    loss = 0.0
    for one in range(6):
        row, column = torch.tensor(scores[one]), torch.tensor([scores[other][one] for other in range(6)])
        loss -= float(row.log_softmax(0)[one] + column.log_softmax(0)[one]) / 12
    assert model.losses(batch())["loss"].item() == pytest.approx(loss, rel=1e-5)


def test_distillation_tells_a_word_from_all_others() -> None:
    loss = PseudoWordDistillation(temperature=0.5)
    torch.manual_seed(0)
    optimised, mapped = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    words = [*optimised, *mapped]
    total = 0.0
    for one in range(10):
        partner = (one + 5) % 10
        near = [float((functional.cosine_similarity(words[one], word, dim=0) / 0.5).exp()) for word in words]
        total -= torch.log(torch.tensor(near[partner] / (sum(near) - near[one]))).item() / 10
    assert loss.compare(optimised, mapped, torch.arange(5)).item() == pytest.approx(total, rel=1e-6)


def test_an_optimised_word_is_near_its_image_and_the_same_in_any_company() -> None:
    model = model_of(SEARLE, PseudoWordDistillation())
    images = torch.stack(list(images_of(model).values()))
    ids = torch.arange(len(images))

    def apart(words: Tensor) -> float:
        texts = [text_of(model, ["a photo of", ""], word) for word in words.double()]
        return float(1 - functional.cosine_similarity(torch.stack(texts), images).mean())

    long, short = OptimisedWords(60), OptimisedWords(1)
    found = long.of(model.fusion, tiny.tokenizer(), images, ids)
    assert apart(found) < apart(short.of(model.fusion, tiny.tokenizer(), images, ids)) - 0.05
    alone = OptimisedWords(60).of(model.fusion, tiny.tokenizer(), images[[4, 2]], ids[[4, 2]])
    torch.testing.assert_close(alone, found[[4, 2]], rtol=1e-3, atol=1e-4)
    again = long.of(model.fusion, tiny.tokenizer(), 0 * images[[2]], ids[[2]])  # kept by id: nothing is optimised
    assert torch.equal(again, found[[2]])


@pytest.mark.parametrize("steps", [2, 7])
def test_a_word_is_optimised_by_adam_and_averaged(steps: int) -> None:
    """AdamW written anew: rate 0.02, decay 0.01, betas 0.9 and 0.999; a mean that keeps 1 - 3.5 / steps."""
    model = model_of(SEARLE, PseudoWordDistillation())
    image = next(iter(images_of(model).values()))
    start = stable_hash("pseudo-word of image 5")
    word = (0.02 * torch.randn(32, generator=torch.Generator().manual_seed(start))).double()
    mean, first, second = word.clone(), torch.zeros(32).double(), torch.zeros(32).double()
    for step in range(1, steps + 1):
        leaf = word.clone().requires_grad_()
        text = text_of(model, list(TEMPLATES[(start + step - 1) % len(TEMPLATES)]), leaf)
        (gradient,) = torch.autograd.grad(1 - functional.cosine_similarity(text, image, dim=0), [leaf])
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        word = word * (1 - 0.02 * 0.01)
        word = word - 0.02 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        kept = max(0.0, 1 - 3.5 / steps)
        mean = kept * mean + (1 - kept) * word
    found = OptimisedWords(steps).of(model.fusion, tiny.tokenizer(), image[None], torch.tensor([5]))
    torch.testing.assert_close(found[0].double(), mean, rtol=1e-3, atol=1e-5)


def test_masked_captions_give_back_the_whole_ones() -> None:
    model = model_of(LinCIR, SelfMaskingProjection(noise=0))
    expected = []
    pieces = [["make ", " bigger and add ", ""], ["without ", ""], ["", ", ", " on ", ""], ["", ""]]
    for caption, parts in zip(CAPTIONS, pieces, strict=True):
        whole = model.backbone.encode_text(tiny.tokenizer()([caption])).embedding[0]
        masked = text_of(model, parts, model.fusion.phi(whole))
        expected.append(((masked - whole) ** 2).mean().item())
    assert model.losses(batch())["loss"].item() == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_the_noise_is_normal_times_a_uniform_number_for_each_caption() -> None:
    model, seen = model_of(LinCIR, SelfMaskingProjection(noise=2.0)), []

    class Recording(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, embedding: Tensor) -> Tensor:
            seen.append(embedding)
            return self.inner(embedding)

    model.fusion.phi = Recording(model.fusion.phi)
    torch.manual_seed(7)
    model.losses(batch())
    torch.manual_seed(7)
    text = model.backbone.encode_text(tiny.tokenizer()(CAPTIONS)).embedding
    expected = text + 2 * (torch.rand(4, 1) * torch.randn(text.shape)).double()
    assert any(torch.allclose(found, expected) for found in seen)


def test_keywords_that_overlap_are_one_and_a_caption_without_any_loses_a_word() -> None:
    assert without("a red ball here", [(2, 10), (0, 5)]) == ["", " here"]
    taken = {tuple(without(f"one two {word}", [])) for word in ascii_lowercase}
    assert all(sum(len(piece.split()) for piece in pieces) == 2 and len(pieces) == 2 for pieces in taken)
    assert {pieces[0] for pieces in taken} == {"", "one", "one two"}
    assert without(" ", []) == ["a photo of", ""]


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (Pic2Word, ImageReconstruction()),
        (SEARLE, PseudoWordDistillation(steps=2)),
        (LinCIR, SelfMaskingProjection()),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_phi_alone_gets_gradients_and_no_triplet_counts(kind: type[TextualInversion], loss: InversionLoss) -> None:
    model = model_of(kind, loss)
    parts = model.losses(batch())
    assert parts["contrastive"] == 0 and parts["loss"] == parts["concept"] and parts["loss"] > 0
    parts["loss"].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.fusion.phi.parameters())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_self_masking_has_the_same_gradients_in_chunks() -> None:
    gradients = []
    for encoding in (None, GradientCache(chunk=2)):
        model = model_of(LinCIR, SelfMaskingProjection(noise=0), encoding)
        model.losses(batch())["loss"].backward()
        gradients.append([parameter.grad for parameter in model.fusion.phi.parameters()])
    for whole, chunked in zip(*gradients, strict=True):
        torch.testing.assert_close(chunked, whole)


@pytest.mark.parametrize("loss", [ImageReconstruction(), PseudoWordDistillation()])
def test_losses_over_all_images_are_refused_in_chunks(loss: InversionLoss) -> None:
    with pytest.raises(InputError, match="GradientCache"):
        model_of(SEARLE, loss, GradientCache())


def test_a_fusion_without_phi_and_a_model_without_any_loss_are_refused() -> None:
    with pytest.raises(InputError, match="Sum has none") as refused:
        ContextCIR(tiny.backbone(), Sum, WithoutTriplets(), ImageReconstruction())
    assert refused.value.setting == "model.concept"
    with pytest.raises(InputError, match="give one of both") as refused:
        ContextCIR(tiny.backbone(), Pic2Word, WithoutTriplets())
    assert refused.value.setting == "model.contrastive"


@pytest.mark.parametrize("loss", [Additivity, ClauseConsistency, JoinedConsistency])
def test_losses_that_add_clauses_are_refused_with_a_template(loss: type[ComposedLoss]) -> None:
    with pytest.raises(InputError, match="whole caption into a template"):
        ContextCIR(tiny.backbone(), Pic2Word, concept=loss())
