"""Evaluations with gallery embeddings on disk: what is encoded when, and that the figures stay the same."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks import RecallTable, StoreGallery
from contextcir.embeddings import GalleryStore
from contextcir.encoders.features import ImageFeatures
from contextcir.training.module import ContextCIR
from data_modules import CIRCO, CIRR
from tests.helpers.make_data import make_circo, make_cirr, preprocess, write_image
from tests.helpers.toy_evaluation import ToyData, ToyModule
from tests.helpers.watch import Interruption, Watch, new_model


@contextmanager
def counted_images(model: ContextCIR) -> Iterator[list[int]]:
    """The sizes of all batches that `encode_image` gets."""
    sizes: list[int] = []
    original = model.backbone.encode_image

    def counting(images: Tensor) -> ImageFeatures:
        sizes.append(len(images))
        return original(images)

    model.backbone.encode_image = counting
    try:
        yield sizes
    finally:
        del model.backbone.encode_image


class Run:
    """Evaluations of one model on a tiny CIRR, with embeddings kept in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.root = make_cirr(folder / "data", hidden=())
        self.model = new_model()

    def data(self, **options: Any) -> CIRR:
        return CIRR(self.root, **({"num_workers": 0, "eval_batch_size": 5, "batch_size": 3} | options))

    def trainer(self, *watchers: Callback, store: Callback | None = None, **options: Any) -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet["enable_checkpointing"] = False
        keep = [StoreGallery(self.store)] if store is None else [store]
        settings = {"accelerator": "cpu", "default_root_dir": self.folder, "callbacks": [*watchers, *keep]}
        return Trainer(**(quiet | settings | options))

    def validate(self, data: CIRR | None = None, **options: Any) -> tuple[Watch, list[dict[str, float]]]:
        watch = options.pop("watch", None) or Watch()
        figures = self.trainer(watch, **options).validate(self.model, data or self.data(), verbose=False)
        return watch, figures

    def validate_without_store(self, **options: Any) -> tuple[Watch, list[dict[str, float]]]:
        return self.validate(store=Watch(), **options)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_second_evaluation_of_the_same_weights_encodes_no_gallery_image(run: Run, num_workers: int) -> None:
    data = run.data(num_workers=num_workers, val_splits=["val", "train"])
    with counted_images(run.model) as sizes:
        first, figures = run.validate(data)
        assert first.encoded == [5, 5, 2] * 2 and sum(sizes) == 24 + 12  # two galleries, and the references
        sizes.clear()
        second, again = run.validate(run.data(num_workers=num_workers, val_splits=["val", "train"]))
    assert second.encoded == [0] * 6 and sum(sizes) == 12, "only the references, whose tokens are needed"
    assert figures == again and len(figures[0]) > 5
    assert first.embeddings.keys() == second.embeddings.keys()
    assert all(torch.equal(row, second.embeddings[key]) for key, row in first.embeddings.items())
    without, plain = run.validate_without_store()
    for key, row in without.embeddings.items():
        torch.testing.assert_close(first.embeddings[key], row.half(), rtol=2e-3, atol=1e-5)
    assert plain[0] == {name: value for name, value in figures[0].items() if name in plain[0]}


def test_test_and_predict_share_a_gallery_with_its_validation(run: Run) -> None:
    run.validate()
    for stage in ("test", "predict"):
        watch = Watch()
        options = {"return_predictions": False} if stage == "predict" else {"verbose": False}
        getattr(run.trainer(watch), stage)(run.model, run.data(test_splits=["val"]), **options)
        assert watch.encoded == [0, 0, 0], stage


def test_an_interrupted_encoding_goes_on_where_it_stopped(run: Run) -> None:
    with pytest.raises(Interruption):
        run.trainer(StoreGallery(run.store), store=Watch(stop_after=2)).validate(run.model, run.data(), verbose=False)
    resumed, figures = run.validate(run.data(eval_batch_size=4))
    assert resumed.encoded == [0, 0, 2]
    whole = StoreGallery(run.folder / "other")
    reference, expected = run.validate(store=whole)
    assert figures == expected and reference.encoded == [5, 5, 2]


def test_a_part_of_the_gallery_is_kept_too(run: Run) -> None:
    assert run.validate(limit_val_batches=1)[0].encoded == [5]
    assert run.validate(limit_val_batches=2)[0].encoded == [0, 5]
    assert run.validate()[0].encoded == [0, 0, 2]


def test_a_changed_image_is_encoded_again_and_no_other(run: Run) -> None:
    before, _ = run.validate()
    touched, painted = (run.root / "img_raw" / "dev" / f"val-0-0-img{member}.png" for member in (1, 3))
    status = touched.stat()
    os.utime(touched, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    write_image(painted, "another colour")
    after, _ = run.validate()
    assert after.encoded == [2, 0, 0]
    assert torch.equal(before.embeddings[0, 1], after.embeddings[0, 1])
    assert not torch.equal(before.embeddings[0, 3], after.embeddings[0, 3])


def test_other_weights_preprocessing_or_precision_have_their_own_embeddings(run: Run) -> None:
    run.validate()
    assert run.validate(precision="bf16-mixed")[0].encoded == [5, 5, 2]
    weight = run.model.backbone.clip.visual.proj.data
    before = weight.clone()
    weight[0, 0] += 0.1
    assert run.validate()[0].encoded == [5, 5, 2]
    weight.copy_(before)
    for parameter in run.model.fusion.parameters():
        parameter.data.add_(0.1)
    assert run.validate()[0].encoded == [0, 0, 0], "the gallery does not depend on the fusion"
    shutil.rmtree(run.store)
    assert run.validate()[0].encoded == [5, 5, 2]


def test_the_recall_table_is_the_same_from_images_and_from_the_store(run: Run) -> None:
    results = []
    for _ in range(2):
        (run.folder / "metrics.json").unlink(missing_ok=True)
        run.trainer(RecallTable()).validate(run.model, run.data(), verbose=False)
        results.append((run.folder / "metrics.json").read_text())
    assert results[0] == results[1] and '"image_only"' in results[0]


def freeze_images(model: ContextCIR) -> None:
    model.backbone.clip.visual.requires_grad_(False)


def fit(run: Run, watch: Watch) -> None:
    run.trainer(watch, max_epochs=2, num_sanity_val_steps=-1).fit(run.model, run.data())


def test_a_frozen_tower_encodes_its_gallery_once_in_a_whole_training(run: Run) -> None:
    freeze_images(run.model)
    watch = Watch()
    fit(run, watch)
    assert watch.encoded == [5, 5, 2, *[0] * 6]
    assert run.validate()[0].encoded == [0, 0, 0]


def test_while_the_tower_is_trained_only_the_first_evaluation_is_kept(run: Run) -> None:
    watch = Watch()
    fit(run, watch)
    assert watch.encoded == [5, 5, 2] * 3
    assert len(list(run.store.iterdir())) == 1
    run.model = new_model()
    assert run.validate()[0].encoded == [0, 0, 0], "the weights before training"


class Swap(Callback):
    """Evaluates with other weights than those of training, as weight averaging does."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.backbone.clip.visual.proj.data.mul_(-1)

    on_validation_epoch_end = on_validation_epoch_start


@pytest.mark.parametrize("num_workers", [0, 1])
def test_weights_that_are_exchanged_when_an_evaluation_begins_are_not_confused(run: Run, num_workers: int) -> None:
    freeze_images(run.model)
    plain, _ = run.validate(run.data(num_workers=num_workers))
    swapped, _ = run.validate(run.data(num_workers=num_workers), watch=SwapWatch())
    assert swapped.encoded == [5, 5, 2]
    assert all(torch.equal(row, -swapped.embeddings[key]) for key, row in plain.embeddings.items())
    assert run.validate()[0].encoded == [0, 0, 0]


class SwapWatch(Watch, Swap):
    """Both."""


def test_queries_of_circo_and_of_its_test_split_share_one_gallery(tmp_path: Path) -> None:
    root = make_circo(tmp_path / "circo")
    model = new_model()
    run = Run(tmp_path)
    counts = []
    for stage, options in (("validate", {"verbose": False}), ("predict", {"return_predictions": False})):
        watch = Watch()
        data = CIRCO(root, eval_batch_size=4, num_workers=0)
        getattr(run.trainer(watch), stage)(model, data, **options)
        counts.append(sum(watch.encoded))
    assert counts == [9, 0] and len(list(run.store.iterdir())) == 1


def test_the_store_is_off_by_default_and_goes_with_its_callback(run: Run) -> None:
    data = run.data()
    run.validate(data)
    assert data.gallery_store is None
    watch, _ = run.validate_without_store()
    assert watch.encoded == [5, 5, 2]


def test_a_loader_used_outside_of_an_evaluation_gives_images(run: Run) -> None:
    run.validate()
    data = run.data(preprocess=preprocess)
    data.gallery_store = GalleryStore(run.store, 32, "float16", lambda: None)
    batches = list(data.val_dataloader()[0])
    assert [len(batch.image) for batch in batches] == [5, 5, 2] and all(batch.stored is None for batch in batches)


def test_a_data_module_without_a_place_for_it_is_named(tmp_path: Path) -> None:
    trainer = Run(tmp_path).trainer()
    with pytest.raises(ValueError, match="StoreGallery can't be used with ToyData"):
        trainer.validate(ToyModule(), ToyData(), verbose=False)
    with pytest.raises(ValueError, match="expected one of float16, float32, got 'int8'"):
        StoreGallery(tmp_path, "int8")
