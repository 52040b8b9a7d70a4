"""Augmentation from copies of limited size: the same as from files where these are small, each image decoded once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contextcir.errors import InputError
from contextcir.files import write_json
from data_modules import Manifest, Shuffled
from data_modules.loading.images import ImageStore
from data_modules.loading.reduced import ReducedImages, reduced_size
from tests.data.test_pixel_cache import clip_preprocess, noise
from tests.helpers.resuming import CROP

SIZES = [(40, 50), (90, 30), (64, 64), (65, 64)]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 200))
def test_a_copy_has_at_most_as_many_pixels_and_keeps_its_proportions(width, height, side):
    found = reduced_size((width, height), side)
    assert 0 < found[0] * found[1] <= side**2
    if width * height <= side**2:
        assert found == (width, height)
    else:
        scale = side / (width * height) ** 0.5
        for before, after in zip((width, height), found, strict=True):
            assert after <= max(1, before * scale + 1e-6) and (after > before * scale - 1 - 1e-6 or min(found) == 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set"
    place.mkdir()
    for number, size in enumerate(SIZES):
        noise(number, size).save(place / f"{number}.png")
    box = {"start": 0, "end": 3, "box": [10, 5, 20, 25]}
    records = [
        {"reference": f"{row % 4}.png", "target": f"{(row + 1) % 4}.png", "caption": "one red dog", "phrases": [box]}
        for row in range(8)
    ]
    write_json(place / "train.json", records)
    return place


def manifest(folder: Path, **options: object) -> Manifest:
    options = {"augmentation": CROP, "num_workers": 0} | options
    return Manifest(folder, val_splits=(), preprocess=clip_preprocess(), batch_size=4, order=Shuffled(5), **options)


def batches(folder: Path, **options: object) -> list:
    return list(manifest(folder, **options).train_dataloader())


def test_small_images_are_augmented_as_from_their_files(folder, tmp_path):
    plain = batches(folder)
    for _ in range(2):
        copies = batches(folder, cache=str(tmp_path / "kept"), reduced=70)
        for one, other in zip(plain, copies, strict=True):
            assert one.target.is_floating_point() and torch.equal(one.target, other.target)
            assert torch.equal(one.query.reference, other.query.reference)
            torch.testing.assert_close(one.query.phrases.boxes, other.query.phrases.boxes, equal_nan=True)


def test_large_images_are_resized_once_and_boxes_stay_those_of_the_file(folder, tmp_path, monkeypatch):
    store = ImageStore(folder, {str(number): f"{number}.png" for number in range(4)})
    kept = ReducedImages(store, 32, tmp_path / "kept")
    for number, size in enumerate(SIZES):
        expected = noise(number, size).resize(reduced_size(size, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(kept.load(str(number))), np.asarray(expected))
        assert kept.size_of(str(number), expected) == size
    plain, found = batches(folder), batches(folder, cache=str(tmp_path / "kept"), reduced=32)
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one.query.phrases.boxes, other.query.phrases.boxes, equal_nan=True)
        assert not torch.equal(one.target, other.target)
    again = manifest(folder, cache=str(tmp_path / "kept"), reduced=32).train_dataloader()
    monkeypatch.setattr(ImageStore, "load", lambda *_: pytest.fail("decoded again"))
    assert all(torch.equal(one.target, other.target) for one, other in zip(found, again, strict=True))


def test_a_copy_of_another_file_or_a_damaged_one_is_made_again(folder, tmp_path):
    store = ImageStore(folder, {"a": "0.png", "b": "1.png"})
    kept = ReducedImages(store, 64, tmp_path / "kept")
    before = [np.asarray(kept.load(name)) for name in "ab"]
    path = kept.table.folder / "features.bin"
    content = bytearray(path.read_bytes())
    content[kept.table.size + 100] ^= 1
    path.write_bytes(content)
    noise(77, (33, 22)).save(folder / "0.png")
    again = ReducedImages(ImageStore(folder, store.paths), 64, tmp_path / "kept")
    assert np.array_equal(np.asarray(again.load("a")), np.asarray(noise(77, (33, 22))))
    assert np.array_equal(np.asarray(again.load("b")), before[1])


def test_evaluation_reads_pixels_and_training_is_augmented(folder, tmp_path):
    write_json(folder / "val.json", [{"reference": "0.png", "target": "1.png", "caption": "a"}])
    options = {"preprocess": clip_preprocess(), "batch_size": 4, "num_workers": 0, "augmentation": CROP}
    data = Manifest(folder, cache=str(tmp_path / "kept"), **options)
    gallery, queries = data.val_dataloader()
    assert next(iter(gallery)).image.dtype == next(iter(queries)).images.pixels.dtype == torch.uint8
    assert next(iter(data.train_dataloader())).target.is_floating_point()


@pytest.mark.parametrize(
    "options", [{"cache": None}, {"cache": "auto", "augmentation": None}, {"cache": "auto", "reduced": 0}]
)
def test_copies_without_a_use_are_refused(folder, options):
    with pytest.raises(InputError, match=r"\(data\.reduced\)"):
        manifest(folder, **{"reduced": 64} | options)
