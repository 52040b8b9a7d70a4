"""Further negatives: the loss is that of loops over images, on one rank or several; draws depend on seed and step."""

import math
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

import contextcir.losses
from contextcir.batch import QueryBatch, TripletBatch, phrases_of
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.frozen import ImageList, StoredImages
from contextcir.errors import InputError
from contextcir.losses import ImageSetNegatives, InfoNCE, StoredNegatives
from contextcir.losses.negatives import FurtherImages
from contextcir.training import GradientCache, WholeBatch
from contextcir.training.module import ContextCIR
from tests.helpers import tiny
from tests.helpers.classes import concrete_classes
from tests.helpers.distributed import run_ranks
from tests.losses.test_contrastive import CASES, batch

IMAGES = 12


def further_images(*ids: int) -> FurtherImages:
    """Images of the table of `batch`, by their ids."""
    table = torch.randn(100, 6, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    return FurtherImages(table[list(ids)], torch.tensor(ids))


def loops(rows: tuple[Tensor, ...], further: FurtherImages, temperature: float) -> float:
    """The loss, one similarity at a time: every query against all images by id, every target against the queries."""
    query, target, reference, target_id, reference_id = rows

    def similarity(a: Tensor, b: Tensor) -> float:
        return math.exp(float(a @ b / (a.norm() * b.norm())) / temperature)

    images = dict(zip(further.image_id.tolist(), further.embedding, strict=True))
    images |= dict(zip(reference_id.tolist(), reference, strict=True))
    images |= dict(zip(target_id.tolist(), target, strict=True))
    total = 0.0
    for i in range(len(query)):
        own, name = similarity(query[i], target[i]), int(target_id[i])
        total -= math.log(own / (own + sum(similarity(query[i], e) for n, e in images.items() if n != name)))
        queries = [similarity(target[i], query[j]) for j in range(len(query)) if target_id[j] != name]
        total -= math.log(own / (own + sum(queries)))
    return total / len(query) / 2


@pytest.mark.parametrize("kind", concrete_classes(contextcir.losses, InfoNCE))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [None, 1, 3])
def test_the_loss_equals_loops_over_images(kind: type, case: str, rows: int | None) -> None:
    given = batch(*CASES[case])
    # Some of them are in the batch, as target or as reference; 90 and 91 are not.
    further = further_images(90, 0, 1, 51, 91, 7)
    sides = [side.clone().requires_grad_() for side in given[:3]]
    loss = kind(0.2, rows).double()
    found = loss(*sides, *given[3:], further)
    assert found.item() == pytest.approx(loops(given, further, 0.2), rel=1e-6)
    assert found > kind(0.2, rows).double()(*given)
    whole = kind(0.2).double()(*sides, *given[3:], further)
    for mine, other in zip(torch.autograd.grad(found, sides), torch.autograd.grad(whole, sides), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_images_of_the_batch_are_not_counted_again() -> None:
    given = batch(5)
    expected = InfoNCE()(*given)
    torch.testing.assert_close(InfoNCE()(*given, further_images(0, 3, 50, 54)), expected, rtol=0, atol=0)


def of_a_rank(rank: int, sizes: list[int]) -> list[Tensor]:
    start = sum(sizes[:rank])
    sides = [side[start : start + sizes[rank]].clone() for side in batch(*CASES["all at once"])]
    sides[0].requires_grad_()
    loss = InfoNCE()(*sides, further_images(90, 1, 61, 91))
    loss.backward()
    return [loss.detach(), sides[0].grad]


@pytest.mark.parametrize("sizes", [[4, 4], [1, 7]])
def test_two_ranks_have_the_loss_of_the_joint_batch(sizes: list[int]) -> None:
    ranks = run_ranks(of_a_rank, 2, sizes)
    [loss, gradient] = of_a_rank(0, [8])
    torch.testing.assert_close(sum(rank[0] for rank in ranks) / 2, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([rank[1] for rank in ranks]) / 2, gradient, rtol=1e-10, atol=1e-12)


@pytest.fixture
def backbone(tmp_path: Path) -> OpenCLIPBackbone:
    """A small frozen image tower with the features of 12 images, of which the last two are one and the first is not."""
    made = tiny.backbone()
    made.clip.visual.requires_grad_(False)
    pixels = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    made.stored = StoredImages(tmp_path)
    states = [None, *[(1, 1)] * (IMAGES - 1)]
    ids = torch.tensor([*range(IMAGES - 1), IMAGES - 2])
    made.stored.add(ImageList([f"{n}.png" for n in range(IMAGES)], states, pixels.__getitem__, "none", ids))
    made.pixels = pixels
    return made


def rows_of(*positions: int) -> Tensor:
    return torch.tensor([[0, position] for position in positions])


def test_draws_depend_on_seed_and_step_alone(backbone: OpenCLIPBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(negatives: StoredNegatives, step: int, *rows: int) -> list[int]:
        return negatives.draw(backbone, rows_of(*rows), step).image_id.tolist()

    first = ids(StoredNegatives(4, seed=1), 7, 1, 2)
    torch.manual_seed(5)
    assert ids(StoredNegatives(4, seed=1), 7, 3) == first
    assert ids(StoredNegatives(4, seed=1), 8, 1, 2) != first != ids(StoredNegatives(4, seed=2), 7, 1, 2)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert ids(StoredNegatives(4), 7, 1, 2) == first


def test_every_image_that_exists_is_drawn_once_with_its_embedding(backbone: OpenCLIPBackbone) -> None:
    further = StoredNegatives(2000).draw(backbone, rows_of(1), 0)
    assert sorted(further.image_id.tolist()) == list(range(1, IMAGES - 1))
    with torch.no_grad():
        expected = backbone.encode_image(backbone.pixels[further.image_id]).embedding
    torch.testing.assert_close(further.embedding, expected, rtol=1e-5, atol=1e-5)
    counts = torch.zeros(IMAGES)
    for step in range(600):
        counts[StoredNegatives(3, seed=0).draw(backbone, rows_of(1), step).image_id] += 1
    assert counts[1:-1].min() > 130 and counts[1:-1].max() < 230  # 180 expected, with a deviation of 11


def model_of(backbone: OpenCLIPBackbone, encoding: WholeBatch) -> ContextCIR:
    torch.manual_seed(0)
    return ContextCIR(backbone, contrastive=InfoNCE(0.1, 2, StoredNegatives(5, seed=0)), encoding=encoding)


def triplets(reference: Tensor, target: Tensor) -> TripletBatch:
    captions = ["make the dog red", "add a ball", "without the cat", "the same in blue"]
    query = QueryBatch(torch.arange(4), reference, captions, phrases_of([[]] * 4))
    return TripletBatch(query, target, torch.tensor([1, 1, 2, 3]), torch.tensor([4, 5, 6, 2]))


def test_a_model_adds_them_with_and_without_gradient_caching(backbone: OpenCLIPBackbone) -> None:
    given = triplets(rows_of(1, 1, 2, 3), rows_of(4, 5, 6, 2))
    whole, cached = (model_of(backbone, encoding) for encoding in (WholeBatch(), GradientCache(2)))
    expected = whole.losses(given)["loss"]
    torch.testing.assert_close(cached.losses(given)["loss"], expected, rtol=1e-5, atol=1e-6)
    encoded = whole.encoding(whole, given)
    further = whole.contrastive.negatives.draw(backbone, given.target, 0)
    rows = encoded.query, encoded.target, encoded.reference, given.target_id, given.reference_id
    assert expected.item() == pytest.approx(loops([side.detach() for side in rows], further, 0.1), rel=1e-4)
    assert expected > InfoNCE(0.1)(*rows)


def with_sets(backbone: OpenCLIPBackbone, *sets: list[int]) -> OpenCLIPBackbone:
    stored = cast(StoredImages, backbone.stored)
    by_image = {image: [one for one in sets if image in one] for one in sets for image in one}
    stored.lists[0] = stored.lists[0]._replace(sets=by_image)
    return backbone


def ids_of_sets(rank: int, backbone: OpenCLIPBackbone, targets: list[list[int]]) -> list[int]:
    return ImageSetNegatives(1, seed=0).draw(backbone, rows_of(*targets[rank]), 0).image_id.tolist()


def test_all_images_of_the_sets_of_the_targets_are_negatives(backbone: OpenCLIPBackbone) -> None:
    # Image 0 does not exist, 10 and 11 are one image; 3 is in two sets, and 5 in none.
    with_sets(backbone, [0, 1, 2, 3], [3, 4, 11], [6, 7])
    [drawn] = StoredNegatives(1, seed=0).draw(backbone, rows_of(5), 0).image_id.tolist()
    for targets, alike in (((1,), {1, 2, 3}), ((3, 5), {1, 2, 3, 4, 10}), ((5,), set()), ((7, 4), {6, 7, 3, 4, 10})):
        further = ImageSetNegatives(1, seed=0).draw(backbone, rows_of(*targets), 0)
        assert sorted(further.image_id.tolist()) == sorted(alike | {drawn})
        with torch.no_grad():
            expected = backbone.encode_image(backbone.pixels[further.image_id]).embedding
        torch.testing.assert_close(further.embedding, expected, rtol=1e-5, atol=1e-5)


def test_every_rank_has_the_sets_of_all_batches(backbone: OpenCLIPBackbone) -> None:
    with_sets(backbone, [1, 2], [3, 4], [6, 7])
    expected = ids_of_sets(0, backbone, [[1, 3, 5]])
    assert run_ranks(ids_of_sets, 2, backbone, [[1], [3, 5]]) == [expected, expected]


def test_annotations_without_sets_are_told(backbone: OpenCLIPBackbone) -> None:
    with pytest.raises(InputError, match="the training annotations tell no image sets: take StoredNegatives"):
        ImageSetNegatives().draw(backbone, rows_of(1), 0)


def test_without_features_or_with_a_trained_tower_the_setting_is_named(backbone: OpenCLIPBackbone) -> None:
    model = model_of(backbone, WholeBatch())
    with pytest.raises(InputError, match="set data.features to auto") as refused:
        model.losses(triplets(backbone.pixels[:4], backbone.pixels[4:8]))
    assert refused.value.setting == "model.contrastive.negatives"
    with pytest.raises(InputError, match="needs a frozen image tower") as refused:
        model_of(tiny.backbone(), WholeBatch())
    assert refused.value.setting == "model.contrastive.negatives"
