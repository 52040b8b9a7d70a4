"""Pixels kept on disk: the same numbers as without, each image decoded once, and nothing wrong after a kill."""

import multiprocessing
import os
import pickle
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contextcir.embeddings import DONE, FEATURES
from contextcir.encoders.pixels import divide
from contextcir.errors import InputError
from contextcir.training.encoding import WholeBatch
from contextcir.training.gradient_cache import GradientCache
from contextcir.training.module import ContextCIR
from data_modules import CIRR, CompositionDataModule, Shuffled
from data_modules.loading import cache as cache_module
from data_modules.loading.cache import CachedPixels
from data_modules.loading.images import ImageStore
from tests.helpers import tiny
from tests.helpers.make_data import make_cirr

SIDE = 32


def clip_preprocess(**settings: object):
    """Return the preprocessing of an open_clip model."""
    cfg = open_clip.transform.PreprocessCfg(size=SIDE, **settings)
    return open_clip.transform.image_transform_v2(cfg, is_train=False)


def noise(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Twelve images of noise, of several sizes."""
    for number in range(12):
        noise(number, (40 + 3 * number, 50 - 2 * number)).save(tmp_path / f"{number}.png")
    return ImageStore(tmp_path, {f"n{number}": f"{number}.png" for number in range(12)})


def opened(store: ImageStore, folder: Path) -> CachedPixels:
    return CachedPixels(store, clip_preprocess(), folder)


@given(
    st.integers(0, 99),
    st.tuples(st.integers(3, 90), st.integers(3, 90)),  # open_clip can't make 32 x 0 pixels of 90 x 1
    st.sampled_from(["RGB", "L", "RGBA", "P"]),
    st.sampled_from(["shortest", "longest", "squash"]),
    st.sampled_from(["bicubic", "bilinear"]),
)
@settings(deadline=None)
def test_both_parts_of_a_preprocessing_give_what_it_gives(seed, size, mode, resize_mode, interpolation):
    preprocess = clip_preprocess(resize_mode=resize_mode, interpolation=interpolation)
    pixels, normalise = divide(preprocess)
    image = noise(seed, size, mode)
    kept = pixels(image)
    assert kept.dtype == torch.uint8 and kept.shape == (3, SIDE, SIDE)
    assert torch.equal(normalise(torch.stack([kept, kept]))[1], preprocess(image))


@pytest.mark.parametrize("preprocess", [lambda image: image, clip_preprocess().transforms[0]])
def test_another_preprocessing_can_not_be_divided(preprocess):
    with pytest.raises(InputError, match=r"ends with ToTensor and Normalize, got .*take null \(data.cache\)"):
        divide(preprocess, "data.cache")


def test_an_image_is_decoded_once_also_by_another_process(store, tmp_path, monkeypatch):
    first = opened(store, tmp_path / "kept")
    before = {name: first.tensor(name, "") for name in store.names}
    monkeypatch.setattr(ImageStore, "load", lambda *_: pytest.fail("decoded again"))
    for again in (first, opened(store, tmp_path / "kept"), pickle.loads(pickle.dumps(first))):
        assert all(torch.equal(again.tensor(name, ""), before[name]) for name in store.names)


def test_a_file_that_has_changed_is_decoded_again(store, tmp_path):
    opened(store, tmp_path / "kept").tensor("n3", "")
    noise(99, (33, 44)).save(tmp_path / "3.png")
    found = opened(store, tmp_path / "kept").tensor("n3", "")
    assert torch.equal(found, divide(clip_preprocess())[0](noise(99, (33, 44))))


@pytest.mark.parametrize("damage", ["bit", "zeros", "short", "mark"])
def test_what_was_damaged_is_decoded_again(store, tmp_path, damage):
    kept = opened(store, tmp_path / "kept")
    before = {name: kept.tensor(name, "") for name in store.names}
    path = kept.table.folder / (DONE if damage == "mark" else FEATURES)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[5 * kept.table.size + 17] ^= 4
    elif damage == "zeros":
        content[: 2 * kept.table.size] = bytes(2 * kept.table.size)
    elif damage == "short":
        del content[-kept.table.size - 5 :]
    else:
        content[8:24] = b"\x01" * 16
    path.write_bytes(content)
    again = opened(store, tmp_path / "kept")
    assert all(torch.equal(again.tensor(name, ""), before[name]) for name in store.names)
    assert all(torch.equal(again.table.read(row), before[name]) for row, name in enumerate(store.names))


def fill(store: ImageStore, folder: Path) -> None:
    kept = opened(store, folder)
    for name in store.names:
        kept.tensor(name, "")


def fill_and_tell(store: ImageStore, folder: Path, told: Connection) -> None:
    """Keep all images that are not kept yet, each told when it is, and then write the last one again and again."""
    kept = opened(store, folder)
    for row, name in enumerate(store.names):
        if kept.table.read(row) is None:
            kept.tensor(name, "")
            told.send(name)
    told.send("")
    while True:
        kept.table.write(row, kept.table.read(row))


def test_ten_kills_lose_nothing_and_leave_nothing_wrong(store, tmp_path, monkeypatch):
    context, whole = multiprocessing.get_context("fork"), set()
    for attempt in range(10):
        heard, told = context.Pipe(duplex=False)
        process = context.Process(target=fill_and_tell, args=(store, tmp_path / "kept", told))
        process.start()
        assert heard.poll(60), "it has begun to write"
        time.sleep(0.0007 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was killed at work, not after it"
        while heard.poll():
            whole.add(heard.recv())
    whole.discard("")
    assert whole
    pixels, load = divide(clip_preprocess())[0], ImageStore.load
    kept, expected = opened(store, tmp_path / "kept"), {name: pixels(store.load(name)) for name in store.names}
    for row, name in enumerate(store.names):
        found = kept.table.read(row)
        assert torch.equal(found, expected[name]) if found is not None else name not in whole
    decoded: list[str] = []
    monkeypatch.setattr(ImageStore, "load", lambda self, name, purpose="": decoded.append(name) or load(self, name))
    assert all(torch.equal(kept.tensor(name, ""), expected[name]) for name in store.names)
    assert not whole.intersection(decoded)


def test_processes_fill_it_together(store, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(store, tmp_path / "kept")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    kept = opened(store, tmp_path / "kept")
    assert kept.table.count() == len(store)


@pytest.fixture
def cirr(tmp_path: Path) -> Path:
    return make_cirr(tmp_path / "cirr", hidden=())


def loaded(root: Path, cache: str | None, workers: int = 0) -> CompositionDataModule:
    options = {"batch_size": 2, "eval_batch_size": 4, "num_workers": workers, "order": Shuffled(0)}
    data = CIRR(root, test_splits=(), preprocess=clip_preprocess(), cache=cache, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_pixels_of_what_they_held(cirr, tmp_path, workers):
    plain = loaded(cirr, None)
    for _ in range(2):
        kept = loaded(cirr, str(tmp_path / "kept"), workers)
        _, normalise = divide(clip_preprocess())
        for old, new in zip(plain.train_dataloader(), kept.train_dataloader(), strict=True):
            pixels, ids = new.query.images
            assert pixels.dtype == torch.uint8
            assert ids.tolist() == torch.cat([old.reference_id, old.target_id]).unique().tolist()
            assert torch.equal(normalise(pixels)[new.query.reference], old.query.reference)
            assert torch.equal(normalise(pixels)[new.target], old.target)
            assert new.query.captions == old.query.captions and torch.equal(new.target_id, old.target_id)
            assert torch.equal(new.query.phrases.boxes, old.query.phrases.boxes)
        for before, after in zip(plain.val_dataloader(), kept.val_dataloader(), strict=True):
            for old, new in zip(before, after, strict=True):
                if hasattr(old, "image"):
                    assert torch.equal(normalise(new.image), old.image)
                else:
                    assert torch.equal(normalise(new.images.pixels)[new.reference], old.reference)
                assert torch.equal(new.index, old.index)


@pytest.mark.parametrize("encoding", [WholeBatch(), GradientCache(chunk=1)])
def test_the_model_has_the_same_losses_from_pixels(cirr, tmp_path, encoding):
    model = ContextCIR(tiny.backbone(), encoding=encoding)
    plain, kept = loaded(cirr, None), loaded(cirr, str(tmp_path / "kept"))
    for old, new in zip(plain.train_dataloader(), kept.train_dataloader(), strict=True):
        assert torch.equal(model.losses(old)["loss"], model.losses(new)["loss"])


def test_auto_is_beside_the_images_and_off_where_the_disk_is_full(cirr, monkeypatch, capsys, caplog):
    batch = next(iter(loaded(cirr, "auto").train_dataloader()))
    assert batch.query.images.pixels.dtype == torch.uint8 and (cirr / cache_module.FOLDER).is_dir()
    other = make_cirr(cirr.parent / "other", hidden=())
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with caplog.at_level("INFO"):
        batch = next(iter(loaded(other, "auto").train_dataloader()))
    assert batch.target.is_floating_point() and not (other / cache_module.FOLDER).exists()
    assert "are needed and 0.0 GB are free" in capsys.readouterr().err + caplog.text


@pytest.mark.parametrize("given", ["", "  ", 3, False])
def test_a_setting_that_is_no_folder_is_refused(cirr, given):
    with pytest.raises(InputError, match="expected null, auto or a folder"):
        CIRR(cirr, cache=given)


def test_an_image_that_can_not_be_read_is_told_with_its_record(cirr, tmp_path):
    data = loaded(cirr, str(tmp_path / "kept"))
    broken = next(iter(cirr.glob("img_raw/train/*/*.png")))
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=rf"{broken.name}.*(reference|target) of record"):
        list(data.train_dataloader())
