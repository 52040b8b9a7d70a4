"""An evaluation gives the same figures on any number of ranks, from images and from stored embeddings."""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import RecallTable, StoreGallery
from contextcir.batch import GalleryBatch
from data_modules import CIRCO, CIRR, CompositionDataModule
from tests.helpers.make_data import edited, make_circo, make_cirr
from tests.helpers.watch import new_model

pytestmark = pytest.mark.skipif(platform.system() == "Darwin", reason="forked ranks are flaky on macOS")


class Log(Callback):
    """Notes in a file per rank which gallery images go through the image tower, and which are only passed on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(batch, GalleryBatch):
            rows = range(len(batch.index)) if batch.stored is None else batch.stored.missing.tolist()
            with open(self.folder / str(trainer.global_rank), "a") as file:
                for row, index in enumerate(batch.index.tolist()):
                    file.write(f"{dataloader_idx} {index} {row in rows}\n")

    def encoded(self) -> list[tuple[int, int]]:
        return sorted((loader, index) for loader, index, fresh in self._lines() if fresh)

    def seen(self) -> list[tuple[int, int]]:
        return sorted((loader, index) for loader, index, _ in self._lines())

    def _lines(self) -> list[tuple[int, int, bool]]:
        lines = [line.split() for path in self.folder.iterdir() for line in path.read_text().splitlines()]
        return [(int(loader), int(index), fresh == "True") for loader, index, fresh in lines]


def two_splits(folder: Path) -> CompositionDataModule:
    """12 and 12 gallery images, 6 and 6 queries: a last partial batch on every number of ranks."""
    return CIRR(make_cirr(folder), val_splits=["val", "train"], eval_batch_size=5, num_workers=0)


def one_query(folder: Path) -> CompositionDataModule:
    """9 gallery images, 1 query: fewer queries than ranks."""
    root = make_circo(folder)
    with edited(root / "annotations" / "val.json") as records:
        del records[1:]
    return CIRCO(root, eval_batch_size=2, num_workers=0)


def two_images(folder: Path) -> CompositionDataModule:
    """2 gallery images, 1 query: less of everything than there are ranks."""
    data = one_query(folder)
    with edited(data.root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json") as listed:
        listed["images"] = [image for image in listed["images"] if image["id"] in (100, 104)]
    return data


class Results:
    """Evaluates on some ranks."""

    def __init__(self, folder: Path, data: CompositionDataModule) -> None:
        self.folder, self.data = folder, data

    def on(self, ranks: int, name: str, *callbacks: Callback) -> tuple[Log, dict[str, Any], dict[str, float]]:
        """Return the log, the content of metrics.json and what the module has logged."""
        folder = self.folder / name
        log = Log(folder / "log")
        trainer = Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy="ddp_fork" if ranks > 1 else "auto",
            default_root_dir=folder,
            callbacks=[log, RecallTable(), *callbacks],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        logged = trainer.validate(new_model(), self.data, verbose=False)
        figures = {key.split("/")[0]: value for one in logged for key, value in one.items()}
        return log, json.loads((folder / "metrics.json").read_text())["validate"], figures


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("benchmark", [two_splits, one_query, two_images])
def test_any_number_of_ranks_gives_the_same_figures(
    tmp_path: Path, benchmark: Callable[[Path], CompositionDataModule], ranks: int
) -> None:
    results, keep = Results(tmp_path, benchmark(tmp_path / "data")), tmp_path / "store"
    log, expected, figures = results.on(1, "alone")
    everything = log.seen()
    assert len(everything) == sum(len(protocol.gallery) for protocol in results.data.protocols("val"))
    assert all(entry["seen"]["gallery"] == entry["protocol"]["gallery"] for entry in expected.values())
    log, found, on_ranks = results.on(ranks, "ranks")
    assert found == expected and on_ranks == pytest.approx(figures)
    assert log.seen() == log.encoded() == everything, "an image was given to two ranks, or to none"
    log, found, on_ranks = results.on(ranks, "first", StoreGallery(keep))
    assert found == expected and log.encoded() == everything
    log, found, on_ranks = results.on(ranks, "second", StoreGallery(keep))
    assert found == expected and on_ranks == pytest.approx(figures)
    assert log.seen() == everything and log.encoded() == []
    log, found, _ = results.on(5 - ranks, "others", StoreGallery(keep))
    assert found == expected and log.encoded() == []


def test_ranks_go_on_with_what_others_have_left(tmp_path: Path) -> None:
    results = Results(tmp_path, two_splits(tmp_path / "data"))
    _, expected, _ = results.on(1, "alone")
    keep = StoreGallery(tmp_path / "store")
    partial = Trainer(
        accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=[keep], logger=False, limit_val_batches=1
    )
    partial.validate(new_model(), results.data, verbose=False)
    log, found, _ = results.on(3, "three", StoreGallery(tmp_path / "store"))
    assert found == expected and len(log.encoded()) == 2 * (12 - 5)


def test_two_ranks_fit_with_a_store(tmp_path: Path) -> None:
    data = CIRR(make_cirr(tmp_path / "data"), eval_batch_size=5, batch_size=2, num_workers=0)
    module = new_model()
    module.backbone.clip.visual.requires_grad_(False)
    log = Log(tmp_path / "log")
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=2,
        default_root_dir=tmp_path,
        callbacks=[log, StoreGallery(tmp_path / "store")],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)
    assert log.encoded() == [(0, index) for index in range(12)]
    assert len(log.seen()) > 24
