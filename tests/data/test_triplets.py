"""Records to batches, independent of any benchmark."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader
from torchvision.transforms import CenterCrop, Compose, Resize

from data_modules.loading.images import ImageStore
from data_modules.loading.triplets import (
    GalleryDataset,
    QueryDataset,
    TripletDataset,
    box_in_crop,
    collate_gallery,
    collate_queries,
    collate_triplets,
)
from data_modules.records import Origin, PhraseRecord, QueryRecord
from tests.helpers.make_data import SIDE, colour_of, preprocess, write_image

NAMES = ("a", "b", "c")
ORIGINS = [Origin("cap.json", position, f"pairid {7 + position}") for position in range(3)]
PHRASES = (PhraseRecord(0, 7, (10, 5, 25, 20)), PhraseRecord(12, 15))
RECORDS = (
    QueryRecord("a", "Red dog and cat", PHRASES, "b", 7, origin=ORIGINS[0]),
    QueryRecord("b", " ", (), "c", 8, origin=ORIGINS[1]),
    QueryRecord("c", "добавь кота", (PhraseRecord(7, 11),), "a", 9, origin=ORIGINS[2]),
)


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    for name in NAMES:
        write_image(tmp_path / f"{name}.png", name)
    return ImageStore(tmp_path, {name: f"{name}.png" for name in NAMES})


def is_image(tensor: torch.Tensor, name: str) -> bool:
    return torch.equal((tensor * 255).round()[:, 0, 0], torch.tensor(colour_of(name)).float())


def test_a_triplet_batch_holds_the_right_images_and_ids(images: ImageStore) -> None:
    data = TripletDataset(RECORDS, images, preprocess)
    batch = collate_triplets([data[2], data[0]])
    assert batch.query.reference.shape == batch.target.shape == (2, 3, SIDE, SIDE)
    assert is_image(batch.query.reference[0], "c") and is_image(batch.target[0], "a")
    assert is_image(batch.query.reference[1], "a") and is_image(batch.target[1], "b")
    assert batch.query.index.tolist() == [2, 0]
    assert batch.reference_id.tolist() == [2, 0] and batch.target_id.tolist() == [0, 1]
    assert batch.query.captions == ["добавь кота", "Red dog and cat"]


def test_phrases_are_flattened_with_their_owners(images: ImageStore) -> None:
    data = QueryDataset(RECORDS, images, preprocess)
    phrases = collate_queries([data[1], data[2], data[0]]).phrases
    assert phrases.owner.tolist() == [1, 2, 2]
    assert phrases.spans.tolist() == [[7, 11], [0, 7], [12, 15]]
    assert phrases.boxes[1].tolist() == pytest.approx([5 / 30, 5 / 30, 20 / 30, 20 / 30])  # image of 40 x 30 pixels
    assert phrases.boxes[0].isnan().all() and phrases.boxes[2].isnan().all()


def test_a_batch_without_phrases_keeps_shapes_and_types(images: ImageStore) -> None:
    batch = collate_queries([QueryDataset(RECORDS, images, preprocess)[1]])
    assert batch.captions == [" "]
    assert (batch.phrases.owner.shape, batch.phrases.owner.dtype) == ((0,), torch.int64)
    assert (batch.phrases.spans.shape, batch.phrases.spans.dtype) == ((0, 2), torch.int64)
    assert (batch.phrases.boxes.shape, batch.phrases.boxes.dtype) == ((0, 4), torch.float32)


def test_the_gallery_keeps_the_order_of_its_protocol(images: ImageStore) -> None:
    data = GalleryDataset(("c", "a"), images, preprocess)
    batch = collate_gallery([data[0], data[1]])
    assert batch.index.tolist() == [0, 1]
    assert is_image(batch.image[0], "c") and is_image(batch.image[1], "a")


def test_boxes_refer_to_the_listed_image_size_where_there_is_one(images: ImageStore) -> None:
    record = RECORDS[0]._replace(image_size=(80, 60))
    item = QueryDataset([record], images, preprocess)[0]
    assert item.boxes[0] == pytest.approx((0.0, 5 / 60, 15 / 60, 20 / 60))


def test_a_bad_image_is_traced_to_its_record(images: ImageStore) -> None:
    (images.root / "a.png").unlink()
    data = TripletDataset(RECORDS, images, preprocess)
    with pytest.raises(FileNotFoundError, match=r"a\.png \(reference of record 0 \(pairid 7\) of cap\.json\)$"):
        data[0]
    (images.root / "c.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\(target of record 1 \(pairid 8\) of cap\.json\)$"):
        data[1]
    with pytest.raises(FileNotFoundError, match=r"a\.png \(image 1 of the gallery\)$"):
        GalleryDataset(("b", "a"), images, preprocess)[1]


def test_datasets_travel_to_loader_processes(images: ImageStore) -> None:
    data = pickle.loads(pickle.dumps(TripletDataset(RECORDS, images, preprocess)))
    loader = DataLoader(data, batch_size=3, num_workers=1, collate_fn=collate_triplets, multiprocessing_context="fork")
    batch = next(iter(loader))
    assert batch.query.captions == [record.caption for record in RECORDS] and batch.target_id.tolist() == [1, 2, 0]


sides = st.integers(20, 200)


@given(st.data(), sides, sides)
def test_boxes_follow_resize_and_crop(data: st.DataObject, width: int, height: int) -> None:
    """Draw the box, preprocess the picture, and look for what is left of it."""
    x0, x1 = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill=255)
    crop = 100
    white = np.asarray(Compose([Resize(crop, interpolation=Image.Resampling.NEAREST), CenterCrop(crop)])(image)) > 127
    box = box_in_crop((x0, y0, x1, y1), (width, height))
    pixel = 1 + crop / min(width, height)  # torchvision rounds the resized size and the corner of the crop
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if white.any() else (0, 0, 0, 0)
    if math.isnan(box[0]) or not white.any():
        sides = np.nan_to_num(np.array(box)) * crop
        assert min(sides[2] - sides[0], sides[3] - sides[1]) <= pixel
        assert min(found[2] - found[0], found[3] - found[1]) <= pixel
    else:
        assert np.abs(np.array(box) * crop - found).max() <= pixel


def test_square_images_keep_every_box_as_it_is() -> None:
    assert box_in_crop((16, 0, 48, 64), (64, 64)) == (0.25, 0.0, 0.75, 1.0)


def test_boxes_are_cut_at_the_crop_and_nan_outside() -> None:
    assert box_in_crop((0, 10, 60, 40), (200, 100)) == (0.0, 0.1, 0.1, 0.4)
    assert all(math.isnan(side) for side in box_in_crop((0, 10, 50, 40), (200, 100)))
    assert all(math.isnan(side) for side in box_in_crop(None, (200, 100)))
