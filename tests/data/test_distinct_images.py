"""Batches of kept pixels: each image is read once for a batch; loaders pass batches on to the copies ahead."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.utilities.data import _replace_dunder_methods, _update_dataloader
from torch.utils.data import DataLoader, SequentialSampler

from contextcir.batch import TripletBatch
from contextcir.encoders.pixels import divide
from contextcir.errors import InputError
from contextcir.files import write_json
from data_modules import Manifest, Mixture, Shuffled
from data_modules.loading import ahead as ahead_module
from data_modules.loading.ahead import AheadLoader, new_loader
from data_modules.loading.cache import CachedPixels
from tests.data.test_pixel_cache import clip_preprocess, noise

IMAGES = 6


def manifest(folder: Path, triplets: int, **options: object) -> Manifest:
    """Triplets of few images, each with up to three hard negatives."""
    folder.mkdir(exist_ok=True)
    for number in range(IMAGES):
        noise(number, (40 + number, 50)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(IMAGES)]
    records = []
    for row in range(triplets):
        reference, target, *others = (names[(row * step + 1) % IMAGES] for step in (1, 5, 3, 2))
        negatives = [name for name in dict.fromkeys(others) if name not in (reference, target)]
        target = target if target != reference else names[(names.index(reference) + 1) % IMAGES]
        negatives = [name for name in negatives if name != target]
        records.append({"reference": reference, "target": target, "caption": f"row {row}", "negatives": negatives})
    write_json(folder / "train.json", records)
    return Manifest(folder, val_splits=(), preprocess=clip_preprocess(), num_workers=0, **options)


def assert_same_batch(once: TripletBatch, rows: TripletBatch) -> None:
    """Whatever the batch of rows holds, the other has, each image once."""
    _, normalise = divide(clip_preprocess())
    images = normalise(once.query.images.pixels)
    ids = torch.cat([rows.reference_id, rows.target_id, rows.negatives.image_id])
    assert torch.equal(once.query.images.image_id, ids.unique())
    for row, image in ((once.query.reference, rows.query.reference), (once.target, rows.target)):
        assert torch.equal(images[row], image)
    assert torch.equal(images[once.negatives.image], rows.negatives.image)
    assert torch.equal(once.negatives.image_id, rows.negatives.image_id)
    assert torch.equal(once.query.images.image_id[once.target], rows.target_id)
    assert once.query.captions == rows.query.captions


def test_each_image_of_a_batch_is_read_once(tmp_path, monkeypatch):
    options = {"batch_size": 7, "order": Shuffled(3), "negatives": 2}
    plain = manifest(tmp_path / "set", 21, **options)
    kept = manifest(tmp_path / "set", 21, cache=str(tmp_path / "kept"), **options)
    read, tensor = [], CachedPixels.tensor
    monkeypatch.setattr(
        CachedPixels, "tensor", lambda self, name, *rest, **into: read.append(name) or tensor(self, name, *rest, **into)
    )
    batches = 0
    for once, rows in zip(kept.train_dataloader(), plain.train_dataloader(), strict=True):
        assert_same_batch(once, rows)
        assert len(once.query.images.pixels) <= IMAGES < 2 * len(once.target)
        assert max(Counter(read).values()) == 1 and len(read) == len(once.query.images.pixels)
        read.clear()
        batches += 1
    assert batches == 3


def test_a_mixture_shares_the_images_that_its_sets_share(tmp_path):
    options = {"batch_size": 6, "order": Shuffled(1), "negatives": 3, "num_workers": 0, "preprocess": clip_preprocess()}

    def mixture(**further: object) -> Mixture:
        sets = [manifest(tmp_path / "set", 12, name=name) for name in ("one", "other")]
        mixed = Mixture(sets, **options, **further)
        mixed.setup("fit")
        return mixed

    plain, kept = mixture().train_dataloader(), mixture(cache=str(tmp_path / "kept")).train_dataloader()
    for once, rows in zip(kept, plain, strict=True):
        assert_same_batch(once, rows)
        assert len(once.query.images.pixels) <= IMAGES, "a file of two sets is one image"


def test_a_resumed_epoch_goes_on_with_the_batch_that_follows(tmp_path):
    data = manifest(tmp_path / "set", 20, batch_size=4, order=Shuffled(0), cache=str(tmp_path / "kept"))
    whole = [batch.query.captions for batch in data.train_dataloader()]
    rest = data.train_dataloader()
    rest.batches_done = lambda: 3
    assert [batch.query.captions for batch in rest] == whole[3:]


def test_an_image_that_is_damaged_is_told_with_the_record_that_needs_it(tmp_path):
    data = manifest(tmp_path / "set", 8, batch_size=4, cache=str(tmp_path / "kept"))
    (tmp_path / "set" / "2.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2\.png.*(reference|target|negative) of record"):
        list(data.train_dataloader())


def trainer_on(device: str) -> SimpleNamespace:
    module = SimpleNamespace(
        transfer_batch_to_device=lambda batch, device, loader: (device.type, batch.tolist(), loader)
    )
    return SimpleNamespace(lightning_module=module, strategy=SimpleNamespace(root_device=torch.device(device)))


@pytest.fixture
def copies(monkeypatch):
    """The devices that copies ahead were asked for; they are made at once."""
    asked = []

    class Recorded:
        def __init__(self, device: torch.device) -> None:
            asked.append(device.type)

        def ahead(self, items, copy):
            return map(copy, items)

    monkeypatch.setattr(ahead_module, "CopyStream", Recorded)
    return asked


def test_a_loader_has_its_batches_moved_as_the_model_says_if_there_is_a_gpu(copies):
    for trainer in (None, SimpleNamespace(lightning_module=None), trainer_on("cpu")):
        assert [batch.tolist() for batch in new_loader(AheadLoader, range(3), trainer, 0)] == [[0], [1], [2]]
    assert copies == []
    found = list(new_loader(AheadLoader, range(3), trainer_on("cuda"), 0))
    assert found == [("cuda", [number], 0) for number in range(3)] and copies == ["cuda"]


def test_a_loader_that_lightning_makes_anew_for_a_rank_copies_ahead_too(copies):
    with _replace_dunder_methods(DataLoader, "dataset"):
        loader = new_loader(AheadLoader, range(3), trainer_on("cuda"), 0)
    anew = _update_dataloader(loader, SequentialSampler(range(2)))
    assert type(anew) is AheadLoader and [batch[1] for batch in anew] == [[0], [1]] and copies == ["cuda"]


def test_all_loaders_of_a_data_module_copy_ahead(tmp_path):
    data = manifest(tmp_path / "set", 8, batch_size=4)
    write_json(tmp_path / "set" / "val.json", [{"reference": "0.png", "target": "1.png", "caption": "a"}])
    data = Manifest(tmp_path / "set", preprocess=clip_preprocess(), batch_size=4, num_workers=0)
    for loader in (data.train_dataloader(), *data.val_dataloader()):
        assert isinstance(loader, AheadLoader) and loader.ahead.func is ahead_module.ahead_under
