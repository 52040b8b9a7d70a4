"""Gallery embeddings on disk: what is kept, what is noticed, and what belongs together."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contextcir.embeddings import GalleryFeatures, GalleryStore, file_stamps, preprocess_digest, weights_digest
from data_modules.loading.gallery import GallerySampler
from tests.helpers import tiny
from tests.helpers.make_data import preprocess

STAMPS = file_stamps(["a", "b", "c", "d", "e"], [(10, 1), (10, 2), (10, 3), None, (10, 5)])


def features(folder: Path, stamps: np.ndarray = STAMPS, precision: str = "float16") -> GalleryFeatures:
    return GalleryFeatures(folder, stamps, 4, precision)


def test_what_was_written_is_read_and_nothing_else_is_there(tmp_path: Path) -> None:
    rows, values = torch.tensor([4, 1]), torch.randn(2, 4)
    writer, reader = features(tmp_path), features(tmp_path)
    writer.write(rows, values)
    for other in (writer, reader, features(tmp_path), pickle.loads(pickle.dumps(reader))):
        assert [other.has(row) for row in range(5)] == [False, True, False, False, True] and other.count() == 2
        assert torch.equal(other.read(4), values[0].half()) and torch.equal(other.read(1), values[1].half())


def test_float32_is_kept_exactly(tmp_path: Path) -> None:
    values = torch.randn(1, 4)
    features(tmp_path, precision="float32").write(torch.tensor([2]), values)
    assert torch.equal(features(tmp_path, precision="float32").read(2), values[0])


def test_a_pickled_store_does_not_carry_the_embeddings(tmp_path: Path) -> None:
    large = GalleryFeatures(tmp_path, np.ones(1000, np.uint64), 512, "float32")
    assert len(pickle.dumps(large)) < 20_000


@pytest.mark.parametrize("change", [(11, 3), (10, 4)])
def test_an_image_of_another_size_or_time_is_not_there(tmp_path: Path, change: tuple[int, int]) -> None:
    features(tmp_path).write(torch.arange(3), torch.randn(3, 4))
    changed = file_stamps(["a", "b", "c", "d", "e"], [(10, 1), (10, 2), change, None, (10, 5)])
    again = features(tmp_path, changed)
    assert [again.has(row) for row in range(5)] == [True, True, False, False, False]
    again.write(torch.tensor([2]), torch.ones(1, 4))
    assert again.count() == 3 and again.read(2).tolist() == [1] * 4
    assert not features(tmp_path).has(2), "the old image would be taken for the new one"


def test_data_are_on_disk_before_the_mark_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the process is stopped, no mark stands at a row that is not what it says."""
    old = features(tmp_path)
    old.write(torch.tensor([0, 1]), torch.zeros(2, 4))
    new = features(tmp_path, file_stamps(list("abcde"), [(20, 1), (10, 2), (10, 3), (9, 9), (10, 5)]))
    states = []

    def synced(descriptor: int) -> None:
        states.append(([new.has(row) for row in (0, 2)], [features(tmp_path).has(0)], new.read(0).tolist()))

    monkeypatch.setattr(os, "fsync", synced)
    new.write(torch.tensor([0, 2]), torch.ones(2, 4))
    nothing, both = [False, False], [True, True]
    assert states == [(nothing, [False], [0] * 4), (nothing, [False], [1] * 4), (both, [False], [1] * 4)]


def test_numbers_that_do_not_fit_are_an_error_and_nan_is_not_kept(tmp_path: Path) -> None:
    store = features(tmp_path)
    with pytest.raises(ValueError, match="too large for float16: set StoreGallery's `precision` to float32"):
        store.write(torch.tensor([0]), torch.tensor([[1.0, 70000.0, 0.0, 0.0]]))
    store.write(torch.tensor([0, 1]), torch.tensor([[1.0, float("nan"), 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]))
    assert not store.has(0) and store.has(1)


def test_the_weights_digest_sees_every_weight_the_architecture_and_the_settings() -> None:
    tower = tiny.clip().visual
    first = weights_digest(tower, "16-mixed")
    assert first == weights_digest(tiny.clip().visual, "16-mixed") != weights_digest(tower, "32-true")
    for name, parameter in tower.named_parameters():
        saved = parameter.detach().clone()
        parameter.data.view(-1)[-1] += 1e-3  # through `.data`, no version counter counts
        assert weights_digest(tower, "16-mixed") != first, name
        parameter.data.copy_(saved)
    assert weights_digest(tower, "16-mixed") == first
    tower.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    assert weights_digest(tower, "16-mixed") != first
    assert weights_digest(tower.bfloat16(), "16-mixed") != first


def flipped(image: Image.Image) -> Tensor:
    return preprocess(image).flip(-1)


def noisy(image: Image.Image) -> Tensor:
    return preprocess(image) + torch.rand(1)


ADVICE = ("do without", "data.features")


def test_the_preprocess_digest_is_about_what_is_done() -> None:
    small, again = tiny.backbone().preprocess, tiny.backbone().preprocess
    digests = [preprocess_digest(one, *ADVICE) for one in (small, preprocess, flipped)]
    assert preprocess_digest(again, *ADVICE) == digests[0] and len(set(digests)) == 3
    with pytest.raises(ValueError, match="gives another result each time.*: do without"):
        preprocess_digest(noisy, *ADVICE)


def test_every_part_of_the_key_counts(tmp_path: Path) -> None:
    def folder(
        weights: str = "w", width: int = 4, precision: str = "float16", made: Callable = preprocess, **paths: str
    ):
        store = GalleryStore(tmp_path, width, precision, lambda: weights)
        return store.open("val", paths or {"a": "x.png", "b": "y.png"}, [(1, 1), (1, 1)], made).folder

    keys = [
        folder(),
        folder(weights="v"),
        folder(width=5),
        folder(precision="float32"),
        folder(made=flipped),
        folder(a="x.png", c="y.png"),
        folder(a="x.png", b="z.png"),
        folder(b="y.png", a="x.png"),
    ]
    assert len(set(keys)) == len(keys) and folder() == keys[0]
    assert sorted(path.name for path in keys[0].iterdir()) == ["about.json", "done.bin", "features.bin"]


@pytest.mark.parametrize(("size", "replicas"), [(11, 1), (11, 2), (12, 3), (2, 3), (7, 5)])
def test_every_image_goes_to_one_rank(size: int, replicas: int) -> None:
    shares = [GallerySampler(size, replicas, rank) for rank in range(replicas)]
    assert sorted(index for share in shares for index in share) == list(range(size))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
