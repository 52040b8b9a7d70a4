"""A loader that begins in the middle of an epoch gives the rest of it, and loads nothing of what was before."""

import random
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contextcir.batch import TripletBatch
from data_modules import CIRR, GroupedByReference, Shuffled
from data_modules.base import CompositionDataModule
from data_modules.loading.images import ImageStore
from data_modules.loading.sampling import Draw, GroupedByImageSet
from tests.helpers.make_data import make_cirr, preprocess
from tests.helpers.make_mixture import make_sets, mixture


def noise(image: Image.Image) -> Tensor:
    """Numbers of all three generators that an augmentation may use."""
    return torch.stack([torch.rand(()), torch.tensor(np.random.rand()).float(), torch.tensor(random.random())])


def flat(batches: Iterable[TripletBatch]) -> list[list[float]]:
    return [
        [*batch.query.index.tolist(), *batch.query.reference.flatten().tolist(), *batch.target.flatten().tolist()]
        for batch in batches
    ]


def epoch_of(data: CompositionDataModule, epoch: int, done: int = 0, replicas: int = 1, rank: int = 0) -> list:
    data.trainer = None
    data.setup("fit")
    data.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"num_replicas": replicas, "rank": rank}, limit_val_batches=0, training=False
    )
    loader = data.train_dataloader()
    loader.batches_done = lambda: done
    loader.sampler.set_epoch(epoch)
    return flat(loader)


def cirr(root: Path, **options: object) -> CIRR:
    return CIRR(root, batch_size=1, num_workers=options.pop("num_workers", 0), preprocess=noise, **options)


@pytest.mark.parametrize("order", [Shuffled(), GroupedByReference(), GroupedByImageSet(seed=3)])
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_rest_of_an_epoch_is_that_of_the_whole_one(order: object, replicas: int, tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    for epoch in (0, 3):
        for rank in range(replicas):
            whole = epoch_of(cirr(root, order=order), epoch, 0, replicas, rank)
            assert len(whole) >= 2
            for done in range(len(whole) + 1):
                assert epoch_of(cirr(root, order=order), epoch, done, replicas, rank) == whole[done:]
    assert epoch_of(cirr(root), 0) != epoch_of(cirr(root), 1)


def test_random_numbers_do_not_depend_on_processes_ranks_or_what_was_drawn_before(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    one = epoch_of(cirr(root), 2)
    random.seed(7)  # nothing of this is seen
    np.random.seed(7)
    torch.manual_seed(7)
    assert epoch_of(cirr(root), 2) == one
    assert epoch_of(cirr(root, num_workers=2), 2) == one
    parts = [epoch_of(cirr(root), 2, 0, 2, rank) for rank in range(2)]
    assert [batch for pair in zip(*parts, strict=True) for batch in pair] == one[: 2 * len(parts[0])]
    draws = [number for batch in one for number in batch[1:]]
    assert len(set(draws)) == len(draws)


def test_a_reference_kept_from_the_batch_before_is_not_used(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    data = CIRR(root, batch_size=2, num_workers=0, preprocess=noise, order=GroupedByReference())
    whole = epoch_of(data, 0)
    assert epoch_of(data, 0, 1) == whole[1:]


def test_loading_leaves_the_generators_as_they_were(tmp_path: Path) -> None:
    dataset = cirr(make_cirr(tmp_path)).train_dataloader().dataset
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = dataset[Draw(0, 5)]
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(dataset[Draw(0, 5)].target, first.target)
    assert not torch.equal(dataset[Draw(0, 6)].target, first.target)


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 2.0]])
def test_mixtures_go_on_too(weights: list[float] | None, tmp_path: Path) -> None:
    folders = make_sets(tmp_path)
    whole = epoch_of(mixture(folders, batch_size=2, weights=weights), 1)
    for done in (1, len(whole) - 1):
        assert epoch_of(mixture(folders, batch_size=2, weights=weights), 1, done) == whole[done:]


def test_no_image_is_loaded_for_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, loaded = make_cirr(tmp_path), []
    load = ImageStore.load

    def counted(store: ImageStore, name: str, purpose: str = "") -> Image.Image:
        loaded.append(name)
        return load(store, name, purpose)

    monkeypatch.setattr(ImageStore, "load", counted)
    length = len(epoch_of(cirr(root), 0))
    assert len(loaded) == 2 * length
    loaded.clear()
    epoch_of(cirr(root), 0, length - 1)
    assert len(loaded) == 2


def test_other_data_than_those_of_the_checkpoint_are_told(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    data = CIRR(root, batch_size=2, num_workers=0, preprocess=preprocess)
    loader = data.train_dataloader()
    state = loader.state_dict()
    loader.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"differ from those of the checkpoint \(batch 8 -> 2\)"):
        loader.load_state_dict(state | {"batch": 8})
