"""What all data modules share: training orders, loaders, single queries for callbacks, command line."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DistributedSampler

from contextcir.batch import GalleryBatch, QueryBatch, TripletBatch
from data_modules import CIRCO, CIRR, CompositionDataModule, GroupedByImageSet, RelativeCaption, Shuffled
from tests.helpers.make_data import colour_of, edited, make_circo, make_cirr, preprocess

SETS = [0, 0, 0, 1, 1, None, 2, 2, 2, None, 3, 3]


@pytest.mark.parametrize("order", [Shuffled(3), GroupedByImageSet(3)])
def test_every_epoch_has_another_order_of_all_triplets(order: Shuffled) -> None:
    sampler = order.sampler(SETS)
    epochs = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler)
        epochs.append(tuple(sampler))
        assert sorted(epochs[-1]) == list(range(len(SETS)))
    assert len(set(epochs)) == 4


def test_orders_of_neighbouring_seeds_share_nothing() -> None:
    first, second = Shuffled(0), Shuffled(1)
    orders = [order.of_epoch(SETS, epoch) for order in (first, second) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_without_a_seed_the_run_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert Shuffled().of_epoch(SETS, 2) == Shuffled(5).of_epoch(SETS, 2)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert Shuffled().of_epoch(SETS, 2) == Shuffled(0).of_epoch(SETS, 2)


image_sets = st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=30)


@given(image_sets, st.integers(0, 9))
def test_grouping_keeps_image_sets_together(sets: list[int | None], seed: int) -> None:
    order = GroupedByImageSet().indices(sets, random.Random(seed))
    assert sorted(order) == list(range(len(sets)))
    places: dict[int, list[int]] = {}
    for place, index in enumerate(order):
        if sets[index] is not None:
            places.setdefault(sets[index], []).append(place)
    for found in places.values():
        assert found == list(range(found[0], found[0] + len(found)))


@given(image_sets, st.integers(1, 4), st.integers(0, 3))
def test_ranks_share_out_one_order(sets: list[int | None], replicas: int, epoch: int) -> None:
    order = GroupedByImageSet(1)
    whole = order.of_epoch(sets, epoch)
    shares = []
    for rank in range(replicas):
        sampler = order.sampler(sets, replicas, rank)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == len(sets) // replicas
    dealt = [index for round_ in zip(*shares, strict=True) for index in round_]
    assert dealt == whole[: len(dealt)] and len(whole) - len(dealt) < replicas


class Recorder(LightningModule):
    """Writes down which training triplets every rank sees in every epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.layer = torch.nn.Linear(1, 1)
        self.preprocess = preprocess

    def training_step(self, batch: TripletBatch, batch_idx: int) -> Tensor:
        with open(self.folder / f"{self.current_epoch}.{self.global_rank}.{batch_idx}", "w") as file:
            file.write(" ".join(str(index) for index in batch.query.index.tolist()))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: QueryBatch | GalleryBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert type(batch) is (QueryBatch if dataloader_idx % 2 else GalleryBatch)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **options: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet["enable_checkpointing"] = False
    return Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **options)


def test_two_ranks_keep_image_sets_in_one_global_batch(tmp_path: Path) -> None:
    """Lightning would wrap other samplers and shuffle once more; and `set_epoch` has to arrive."""
    data = CIRR(make_cirr(tmp_path / "data", sets=6), batch_size=3, num_workers=0, order=GroupedByImageSet(0))
    trainer(tmp_path, strategy="ddp_fork", devices=2, max_epochs=3, limit_val_batches=0).fit(Recorder(tmp_path), data)
    order_of = CIRR(data.root, order=GroupedByImageSet(0))
    order_of.setup("fit")
    sets = [record.image_set for record in order_of._training.records]
    for epoch in range(3):
        seen = []
        for step in range(3):
            ranks = [(tmp_path / f"{epoch}.{rank}.{step}").read_text().split() for rank in (0, 1)]
            batch = [int(index) for pair in zip(*ranks, strict=True) for index in pair]
            assert sorted(Counter(sets[index] for index in batch).values()) == [3, 3]
            seen += batch
        assert seen == GroupedByImageSet(0).of_epoch(sets, epoch)


def test_one_process_fits_validates_and_predicts(tmp_path: Path) -> None:
    data = CIRR(make_cirr(tmp_path / "data"), batch_size=4, eval_batch_size=5, num_workers=0, order=Shuffled(1))
    model = Recorder(tmp_path)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(model, data)
    for epoch in range(2):  # 6 triplets, batches of 4, last one dropped
        assert [path.name for path in tmp_path.glob(f"{epoch}.0.*")] == [f"{epoch}.0.0"]
        seen = [int(index) for index in (tmp_path / f"{epoch}.0.0").read_text().split()]
        assert seen == Shuffled(1).of_epoch([None] * 6, epoch)[:4]
    run.validate(model, data, verbose=False)
    run.predict(model, data, return_predictions=False)
    assert data.preprocess is preprocess


def test_evaluation_loaders_come_in_pairs_and_miss_nothing(tmp_path: Path) -> None:
    data = CIRR(
        make_cirr(tmp_path), val_splits=["val", "train"], eval_batch_size=5, num_workers=0, preprocess=preprocess
    )
    loaders = data.val_dataloader()
    protocols = data.protocols("val")
    assert [protocol.split for protocol in protocols] == ["val", "train"] and len(loaders) == 4
    for number, protocol in enumerate(protocols):
        gallery, queries = list(loaders[2 * number]), list(loaders[2 * number + 1])
        assert [len(batch.index) for batch in gallery] == [5, 5, 2]
        assert torch.cat([batch.index for batch in gallery]).tolist() == list(range(12))
        assert torch.cat([batch.index for batch in queries]).tolist() == list(range(6))
        for index, name in enumerate(protocol.gallery):
            pixel = gallery[index // 5].image[index % 5, :, 0, 0] * 255
            assert pixel.round().tolist() == list(colour_of(name))


def test_the_training_loader_is_ready_for_gpus_and_workers(tmp_path: Path) -> None:
    data = CIRR(make_cirr(tmp_path), batch_size=2, num_workers=1, preprocess=preprocess)
    loader = data.train_dataloader()
    assert loader.drop_last and loader.persistent_workers and loader.pin_memory == torch.cuda.is_available()
    assert isinstance(loader.sampler, DistributedSampler)
    assert len(list(loader)) == 3


def test_callbacks_get_single_queries_and_images(tmp_path: Path) -> None:
    data = CIRR(make_cirr(tmp_path), num_workers=0, preprocess=preprocess)
    batch = data.query_batch("val", 0, [4, 1])
    assert batch.index.tolist() == [4, 1] and batch.captions == ["Show 3 bottles instead"] * 2
    assert data.reference_image("val", 0, 4).getpixel((0, 0)) == colour_of("val-1-0-img1")
    assert data.target_image("val", 0, 4).getpixel((0, 0)) == colour_of("val-1-0-img2")
    assert data.reference_image("val", 0, 4).size == (40, 30)
    assert data.target_image("predict", 0, 4) is None


def test_protocols_are_read_once(tmp_path: Path) -> None:
    data = CIRR(make_cirr(tmp_path))
    assert data.protocols("test")[0] is data.protocols("predict")[0]
    assert data.protocols("val")[0] is data.protocols("val")[0]


def test_a_given_preprocess_wins_over_that_of_the_model(tmp_path: Path) -> None:
    def own(image: object) -> Tensor:
        return preprocess(image)

    data = CIRR(make_cirr(tmp_path / "data"), num_workers=0, preprocess=own)
    trainer(tmp_path).validate(Recorder(tmp_path), data, verbose=False)
    assert data.preprocess is own


def instantiate(*args: str) -> LightningDataModule:
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_subclass_arguments(LightningDataModule, "data")
    return parser.instantiate(parser.parse_args(args)).data


def test_configs_name_every_option(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "class_path: CIRR\n"
        f"init_args: {{root: {tmp_path}, batch_size: 7, val_splits: [val, train], "
        "order: {class_path: GroupedByImageSet, init_args: {seed: 4}}}\n"
    )
    data = instantiate(f"--data={config}", "--data.num_workers=1")
    assert isinstance(data, CIRR) and data.root == tmp_path and data.batch_size == 7 and data.num_workers == 1
    assert isinstance(data.order, GroupedByImageSet) and data.order.seed == 4
    assert data.splits["val"] == ("val", "train")
    data = instantiate("--data=CIRCO", f"--data.root={tmp_path}", "--data.query_text=RelativeCaption")
    assert isinstance(data, CIRCO) and isinstance(data.reader.query_text, RelativeCaption)
    assert isinstance(data.order, Shuffled) and data.preprocess is None


def test_a_reader_is_all_that_a_benchmark_needs(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    data = instantiate("--data=CompositionDataModule", "--data.reader=CIRRReader", f"--data.reader.root={root}")
    assert type(data) is CompositionDataModule and data.root == root and data.benchmark == "cirr"
    assert data.protocols("val") == CIRR(root).protocols("val") and data.read_training() == CIRR(root).read_training()


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        instantiate("--data.help=CIRCO")
    text = capsys.readouterr().out
    for option in ("root", "batch_size", "eval_batch_size", "num_workers", "order", "preprocess", "query_text"):
        explained = [part.split("(type:")[0] for part in text.split(f"  --data.{option} ")[1:]]
        assert explained and len(explained[0].split()) > 4, option
    assert "data_modules.SharedConceptSentence" in text


def test_the_saved_config_spells_out_the_training_order(tmp_path: Path) -> None:
    parser = ArgumentParser(parser_mode="omegaconf+")
    parser.add_subclass_arguments(LightningDataModule, "data")
    dumped = parser.dump(parser.parse_args(["--data=CIRR", f"--data.root={tmp_path}"]))
    assert (
        "class_path: data_modules.Shuffled" in dumped or "class_path: data_modules.loading.sampling.Shuffled" in dumped
    )


def test_a_whole_circo_goes_through_the_trainer(tmp_path: Path) -> None:
    data = CIRCO(make_circo(tmp_path / "data"), eval_batch_size=4, num_workers=0)
    run = trainer(tmp_path)
    run.validate(Recorder(tmp_path), data, verbose=False)
    run.predict(Recorder(tmp_path), data, return_predictions=False)
    with edited(data.root / "annotations" / "val.json") as records:
        del records[1:]
    assert len(CIRCO(data.root).protocols("val")[0].query_ids) == 1
