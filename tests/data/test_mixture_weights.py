"""Weights of a mixture: the share of every set in an epoch, drawn alike on all ranks."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn, optim

from contextcir.batch import TripletBatch
from data_modules import CIRR, GroupedByImageSet, GroupedByReference, Manifest, Mixture, Shuffled
from data_modules.mixture import WeightedOrder, shares
from data_modules.records import QueryRecord
from tests.helpers.make_data import preprocess, write_json
from tests.helpers.make_mixture import make_sets, mixture


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return make_sets(tmp_path)


def draw(data: Mixture, epoch: int = 0, replicas: int = 1, rank: int = 0) -> list[int]:
    records = data.read_training().records
    sampler = data.order.sampler([data.order.group(record) for record in records], replicas, rank)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_weights_decide_the_shares_of_an_epoch(folders: dict[str, Path]) -> None:
    data = mixture(folders, weights=[2, 10, 1], order=Shuffled(4))
    epochs = [draw(data, epoch) for epoch in range(6)]
    for drawn in epochs:
        assert len(drawn) == 13
        assert Counter("cirr" if i < 6 else "again" if i < 8 else "own" for i in drawn) == {
            "again": 10,
            "cirr": 2,
            "own": 1,
        }
        assert drawn.count(6) == drawn.count(7) == 5  # evenly
    assert {i for drawn in epochs for i in drawn if i < 6} > {i for i in epochs[0] if i < 6}  # others in every epoch
    assert draw(data, 3) == epochs[3] == draw(mixture(folders, weights=[4, 20, 2], order=Shuffled(4)), 3)
    assert draw(mixture(folders, weights=[2, 10, 1], order=Shuffled(5)), 3) != epochs[3]


def test_ranks_share_out_one_draw(folders: dict[str, Path]) -> None:
    data = mixture(folders, weights=[1, 1, 1], order=Shuffled(0))
    first, second = (draw(data, 2, replicas=2, rank=rank) for rank in (0, 1))
    whole = draw(data, 2)
    assert [index for pair in zip(first, second, strict=True) for index in pair] == whole[:12]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 50), min_size=4, max_size=4),
    st.integers(0, 3),
    st.sampled_from([Shuffled, GroupedByReference, GroupedByImageSet]),
)
def test_every_draw_has_its_shares(sizes: list[int], weights: list[float], seed: int, order: type[Shuffled]) -> None:
    records = [
        QueryRecord(f"set{part}:{n // 2}", "", image_set=part) for part, size in enumerate(sizes) for n in range(size)
    ]
    named = {f"set{part}": weights[part] for part in range(len(sizes))}
    mixed = WeightedOrder(order(seed), named)
    drawn = mixed.indices([mixed.group(record) for record in records], random.Random(seed))
    assert len(drawn) == sum(sizes)
    for part, size in enumerate(sizes):
        rows = [n for n, record in enumerate(records) if record.image_set == part]
        often = [drawn.count(row) for row in rows]
        share = sum(sizes) * weights[part] / sum(named.values())
        assert abs(sum(often) - share) < 1 and max(often) - min(often) <= 1 and len(rows) == size


@given(st.dictionaries(st.text(max_size=2), st.floats(0.001, 1000), min_size=1), st.integers(0, 500))
def test_shares_add_up_and_are_near_their_weights(weights: dict[str, float], total: int) -> None:
    given_out = shares(weights, total)
    assert sum(given_out.values()) == total and list(given_out) == list(weights)
    for name, weight in weights.items():
        assert abs(given_out[name] - total * weight / sum(weights.values())) < 1 + 1e-6


def test_drawn_triplets_are_grouped_as_the_order_says(folders: dict[str, Path]) -> None:
    data = mixture(folders, weights=[3, 0, 1], order=GroupedByImageSet(1))
    records = data.read_training().records
    assert {record.reference.split(":")[0] for record in records} == {"cirr", "own"}
    drawn = [records[index].image_set for index in draw(data)]
    runs = [image_set for n, image_set in enumerate(drawn) if n == 0 or drawn[n - 1] != image_set]
    assert len(runs) == len(set(runs)) > 1


def test_a_set_without_weight_can_be_evaluated(folders: dict[str, Path], tmp_path: Path) -> None:
    class OnlyScored(Manifest):
        def read_training(self) -> None:
            raise AssertionError

    write_json(folders["own"] / "val.json", [{"reference": "0.png", "target": "1.png", "caption": "x"}])
    sets = [CIRR(folders["cirr"]), OnlyScored(folders["own"], name="own")]
    data = Mixture(sets, weights=[1, 0], evaluate="own", batch_size=2, num_workers=0, preprocess=preprocess)
    assert len(list(data.train_dataloader())) == 3
    assert data.protocols("val")[0].benchmark == "own" and len(data.val_dataloader()) == 2


class Recorder(LightningModule):
    """Writes down the captions that every rank sees in every epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.layer = nn.Linear(1, 1)
        self.preprocess = preprocess

    def training_step(self, batch: TripletBatch, batch_idx: int) -> Tensor:
        with open(self.folder / f"{self.current_epoch}.{self.global_rank}.{batch_idx}", "w") as file:
            file.write(" ".join(map(str, batch.query.index.tolist())))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: object, batch_idx: int, dataloader_idx: int = 0) -> None:
        pass

    def configure_optimizers(self) -> optim.Optimizer:
        return optim.SGD(self.parameters(), lr=0.0)


def test_two_ranks_train_on_one_draw(folders: dict[str, Path], tmp_path: Path) -> None:
    data = mixture(folders, weights=[1, 1, 2], batch_size=3, order=Shuffled(0))
    data.preprocess, data._follow_model = None, True
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", strategy="ddp_fork", devices=2, max_epochs=2, enable_checkpointing=False, **quiet
    )
    trainer.fit(Recorder(tmp_path), data)
    for epoch in range(2):
        steps = [[(tmp_path / f"{epoch}.{rank}.{n}").read_text().split() for rank in (0, 1)] for n in range(2)]
        seen = [int(index) for ranks in steps for pair in zip(*ranks, strict=True) for index in pair]
        assert seen == draw(mixture(folders, weights=[1, 1, 2], order=Shuffled(0)), epoch)[:12]
