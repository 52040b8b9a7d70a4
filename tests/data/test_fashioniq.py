"""FashionIQ on disk: every common layout, queries once per view, both orders in training, and configs."""

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from data_modules import (
    BothOrders,
    FashionIQ,
    FirstAndSecond,
    Shuffled,
    VALGallery,
)
from tests.helpers.make_data import preprocess
from tests.helpers.make_fashioniq import VAL, make_fashioniq


@pytest.mark.parametrize("place", ["", "fashionIQ_dataset", "fashion-iq"])
@pytest.mark.parametrize(
    "image",
    [
        "images/{1}.jpg",
        "images/{1}.png",
        "images/{0}/{1}.jpg",
        "images/{0}/{1}.png",
        "image_data/{0}/{1}.jpg",
        "{1}.png",
    ],
)
def test_every_common_layout_is_found(tmp_path: Path, place: str, image: str) -> None:
    root = make_fashioniq(tmp_path, place, image.format, queries=2, size=3)
    data = FashionIQ(root, num_workers=0, batch_size=6, preprocess=preprocess, order=Shuffled(0))
    for loader, size in zip(data.val_dataloader(), [3, 2] * 3, strict=True):
        assert sum(len(batch.index) for batch in loader) == size
    (batch,) = data.train_dataloader()
    assert len(set(batch.target_id.tolist())) == 6
    assert data.target_image("val", 1, 1).size == (40, 30) and data.target_image("predict", 0, 0) is None


def test_queries_come_once_per_view(tmp_path: Path) -> None:
    data = FashionIQ(
        make_fashioniq(tmp_path), query_text=BothOrders(), num_workers=0, eval_batch_size=4, preprocess=preprocess
    )
    batches = list(data.val_dataloader()[1])
    assert [index for batch in batches for index in batch.index.tolist()] == list(range(6))
    captions = [caption for batch in batches for caption in batch.captions]
    assert captions[1] == "Is 1 shades darker and has 1 buttons"
    assert captions[3 + 1] == "Has 1 buttons and is 1 Shades darker"
    images = torch.cat([batch.reference for batch in batches])
    assert torch.equal(images[:3], images[3:])


def test_both_orders_of_a_triplet_are_no_negatives_of_each_other(tmp_path: Path) -> None:
    data = FashionIQ(
        make_fashioniq(tmp_path), train_text=BothOrders(), num_workers=0, batch_size=18, preprocess=preprocess
    )
    (batch,) = data.train_dataloader()
    assert sorted(batch.target_id.tolist().count(target) for target in set(batch.target_id.tolist())) == [2] * 9
    assert len(set(batch.query.captions)) == 3 * 2  # the categories have the same texts here


def test_configs_name_the_choices(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    flags = ["--data=FashionIQ", f"--data.root={tmp_path}", "--data.query_text=BothOrders", "--data.gallery=VALGallery"]
    data = parser.instantiate(parser.parse_args(flags)).data
    assert isinstance(data.reader.query_text, BothOrders) and isinstance(data.reader.gallery, VALGallery)
    assert isinstance(data.reader.train_text, FirstAndSecond) and data.splits["val"] == tuple(VAL)
