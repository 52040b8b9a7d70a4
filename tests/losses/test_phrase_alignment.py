"""Phrase alignment against loops, on one rank and on two, where images and wordings recur across ranks."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from contextcir.losses.grounded import PhraseAlignment, centre, wording_id
from contextcir.losses.maps import ConceptEmbeddings
from tests.helpers.distributed import run_ranks

PATCHES, WIDTH = 4, 5
TEXTS = ["the dog", "a red ball", "the sofa"]
# Phrases of the joint batch: image and wording. Rank 0 holds images 10 and 20, rank 1 images 20 and 30.
PHRASES = [[(10, 0), (10, 1), (20, 0)], [(20, 2), (30, 2), (30, 1), (30, 1)]]


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.double), dim=-1)


def embeddings(phrases: list[tuple[int, int]], images: list[int], known: bool = True) -> ConceptEmbeddings:
    """Phrases as (image, wording); what an image or a wording looks like follows from its number."""
    used = sorted({wording for _, wording in phrases})
    return ConceptEmbeddings(
        torch.stack([unit(PATCHES, WIDTH, seed=i) for i in images]).requires_grad_(),
        torch.stack([unit(WIDTH, seed=1000 + n) for n in used]).requires_grad_()
        if used
        else torch.zeros(0, WIDTH).double(),
        torch.tensor([images.index(image) for image, _ in phrases], dtype=torch.long),
        torch.tensor([used.index(wording) for _, wording in phrases], dtype=torch.long),
        torch.tensor(images) if known else None,
        [TEXTS[n] for n in used],
    )


def loop_loss(phrases: list[tuple[int, int]], images: list[int], temperature: float) -> float:
    def score(image: int, wording: int) -> float:
        cosines = unit(PATCHES, WIDTH, seed=image) @ unit(WIDTH, seed=1000 + wording)
        return sum(cosines.tolist()) / PATCHES / temperature

    losses = []
    for image, wording in phrases:
        others = [other for other in images if other != image and (other, wording) not in phrases]
        total = sum(math.exp(score(candidate, wording)) for candidate in [image, *others])
        losses.append(math.log(total) - score(image, wording))
    return sum(losses) / len(losses)


def test_it_equals_loops_over_phrases_and_images() -> None:
    phrases, images = PHRASES[0] + PHRASES[1], [10, 20, 30, 40]  # nobody says anything about 40
    loss = PhraseAlignment(temperature=0.3).from_embeddings(embeddings(phrases, images))
    assert loss.item() == pytest.approx(loop_loss(phrases, images, 0.3), rel=1e-10)


def test_images_whose_ids_are_not_known_all_differ() -> None:
    phrases = PHRASES[0]
    known, unknown = (
        PhraseAlignment().from_embeddings(embeddings(phrases, [10, 20], known)) for known in (True, False)
    )
    assert known.item() == unknown.item() > 0


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = embeddings(PHRASES[1], [10, 20, 30])
    loss = PhraseAlignment(temperature=0.5)
    assert torch.autograd.gradcheck(
        lambda patches, wordings: loss.from_embeddings(given._replace(patches=patches, wordings=wordings)),
        (given.patches, given.wordings),
    )


@pytest.mark.parametrize(("phrases", "images"), [([], [10, 20]), ([(10, 0), (10, 2)], [10])])
def test_without_phrases_or_other_images_it_is_zero(phrases: list[tuple[int, int]], images: list[int]) -> None:
    given = embeddings(phrases, images)
    loss = PhraseAlignment().from_embeddings(given)
    loss.backward()
    assert loss.item() == 0.0 and (given.patches.grad == 0).all()


class Model(torch.nn.Module):
    """A weight for each dimension, so that there is a gradient to compare."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 1.5, WIDTH, dtype=torch.double))

    def forward(self, given: ConceptEmbeddings) -> Tensor:
        patches, wordings = given.patches.detach() * self.scale, given.wordings.detach() * self.scale
        return PhraseAlignment().from_embeddings(given._replace(patches=patches, wordings=wordings))


def train_step(rank: int, phrases: list[list[tuple[int, int]]]) -> list:
    given = embeddings(phrases[rank], [[10, 20], [20, 30, 40]][rank])
    model = DistributedDataParallel(Model())
    loss = model(given)
    loss.backward()
    return [loss, model.module.scale.grad, centre(given)]


@pytest.mark.parametrize("phrases", [PHRASES, [PHRASES[0], []], [[], PHRASES[1]]], ids=["both", "first", "second"])
def test_two_ranks_equal_the_joint_batch(phrases: list[list[tuple[int, int]]]) -> None:
    ranks = run_ranks(train_step, 2, phrases)
    model, given = Model(), embeddings(phrases[0] + phrases[1], [10, 20, 30, 40])
    joint = model(given)
    joint.backward()
    torch.testing.assert_close((sum(rank[0] for rank in ranks) / 2).item(), joint.item(), rtol=1e-10, atol=0)
    for _, gradient, mean in ranks:
        torch.testing.assert_close(gradient, model.scale.grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(mean, given.wordings[given.row].mean(dim=0).detach())


def test_texts_have_numbers_of_their_own() -> None:
    numbers = {wording_id(text) for text in (*TEXTS, "", "the dogs", "ß")}
    assert len(numbers) == 6 and all(-(2**63) <= number < 2**63 for number in numbers)


def test_a_temperature_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^temperature of PhraseAlignment: .*, got 0 \(model\.concept\)$"):
        PhraseAlignment(temperature=0)
