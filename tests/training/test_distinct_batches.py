"""Batches that hold each image once: the losses and mean gradients of a batch that has every row's images."""

import pytest
import torch
from torch import Tensor

from contextcir.batch import DistinctImages, HardNegatives, TripletBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.pixels import divide
from contextcir.losses.maps import ConceptReading
from contextcir.training.encoding import Encoded, WholeBatch
from contextcir.training.gradient_cache import GradientCache
from tests.helpers.distributed import run_ranks
from tests.helpers.gradient_cases import assert_same, gradients, new_batch, new_model

SIZE = 9


class EveryRow(WholeBatch):
    """Encodes the image of each row for itself, one after the other."""

    def __call__(self, model, batch: TripletBatch) -> Encoded:
        def encoded(images: Tensor) -> ImageFeatures:
            parts = [model.backbone.encode_image(image[None]) for image in images]
            return ImageFeatures(*(torch.cat(side) for side in zip(*parts, strict=True)))

        query, hard = batch.query, batch.negatives
        reference, target = encoded(query.reference), encoded(batch.target).embedding
        features = model.compose(reference, query.captions, query.phrases, query.clauses)
        concept = model.concept and model.concept(ConceptReading(model.fusion, features, batch.reference_id, None))
        return Encoded(features.fused.embedding, target, reference.embedding, concept, encoded(hard.image).embedding)


def both(seed: int = 0) -> tuple[TripletBatch, TripletBatch]:
    """A batch with every row's images, and the same one with each image once."""
    drawn = new_batch(SIZE, torch.float64, seed=seed)
    pixels = torch.randint(0, 256, (2 * SIZE, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(seed))
    reference, target = drawn.reference_id, drawn.target_id
    negative = torch.cat([target[:3], torch.tensor([2 * SIZE - 1])])
    _, normalise = divide(new_model("no concept loss", WholeBatch(), torch.float64).preprocess)
    images = normalise(pixels).double()
    rows = drawn._replace(
        query=drawn.query._replace(reference=images[reference]),
        target=images[target],
        negatives=HardNegatives(images[negative], negative),
    )
    ids = torch.cat([reference, target, negative]).unique()
    place = {number: row for row, number in enumerate(ids.tolist())}
    row_of = [torch.tensor([place[number] for number in part.tolist()]) for part in (reference, target, negative)]
    query = drawn.query._replace(reference=row_of[0], images=DistinctImages(pixels[ids], ids))
    return rows, rows._replace(query=query, target=row_of[1], negatives=HardNegatives(row_of[2], negative))


@pytest.mark.parametrize("name", ["Text-CC", "sum of embeddings"])
def test_mean_gradients_are_those_of_every_row(name: str) -> None:
    rows, once = both()
    assert len(once.query.images.pixels) < 2 * SIZE
    expected = gradients(new_model(name, EveryRow(), torch.float64), rows)
    for encoding in (WholeBatch(), GradientCache(1), GradientCache(4), GradientCache(50)):
        assert_same(gradients(new_model(name, encoding, torch.float64), once), expected, 1e-9)


def test_each_image_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, once = both()
    model, seen = new_model("Text-CC", WholeBatch(), torch.float64), []
    encode = model.backbone.encode_image
    monkeypatch.setattr(model.backbone, "encode_image", lambda images: seen.append(len(images)) or encode(images))
    model.losses(once)
    assert seen == [len(once.query.images.pixels)]


def test_a_query_is_the_same_from_an_image_that_others_share() -> None:
    rows, once = both()
    model = new_model("Text-CC", WholeBatch(), torch.float64)
    found, expected = (model.encode_query(batch.query).fused.embedding for batch in (once, rows))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("encoding", [WholeBatch(), GradientCache(2)])
def test_what_is_moved_is_the_whole_batch_or_all_but_its_images(encoding: WholeBatch) -> None:
    _, once = both()
    moved = encoding.move(once, torch.device("meta"))
    left = isinstance(encoding, GradientCache)
    parts = [moved.target, moved.query.reference, moved.negatives.image, *moved.query.images]
    assert {part.device.type for part in parts} == {"cpu" if left else "meta"}
    others = [moved.reference_id, moved.target_id, moved.query.index, moved.negatives.image_id, *moved.query.phrases]
    assert {part.device.type for part in others} == {"meta"}
    if left:
        assert moved.query.images is once.query.images and moved.target is once.target


def of_rank(rank: int, cached: bool) -> dict[str, Tensor]:
    model = new_model("Text-CC", GradientCache(2) if cached else EveryRow(), torch.float64)
    return gradients(model, both(rank)[cached])


def test_ranks_gather_what_they_gathered() -> None:
    for found, expected in zip(run_ranks(of_rank, 2, True), run_ranks(of_rank, 2, False), strict=True):
        assert_same(found, expected, 1e-9)
