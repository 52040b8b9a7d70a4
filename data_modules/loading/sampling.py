"""The order of training triplets, and batches that can be repeated.

Every batch is a function of the seed, the epoch and its place in the epoch. So an interrupted run resumes with the
batch after its checkpoint, and no image before that batch is read again.
"""

import os
import random
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DistributedSampler

from contextcir.files import stable_hash
from data_modules.columns import NONE, GroupColumn, LazyRecords
from data_modules.loading.ahead import AheadLoader
from data_modules.loading.triplets import TripletDataset, TripletItem
from data_modules.records import QueryRecord


class TrainingOrder(ABC):
    """Chooses the order of the triplets, a new one in every epoch, and the same on every rank.

    Class attribute ``field``: of a record, whose value keeps triplets together; None where each stands alone.

    Args:
        seed: of the orders; None for the seed of the run (``seed_everything``).
    """

    field: ClassVar[str | None] = None

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def group(self, record: QueryRecord) -> Hashable | None:
        """Return what keeps a triplet together with others that return the same; None for one that stands alone."""
        return None if self.field is None else getattr(record, self.field)

    def groups(self, records: Sequence[QueryRecord]) -> Sequence[Hashable | None]:
        """Return the `group` of each triplet, as numbers where records are not held in memory."""
        if not isinstance(records, LazyRecords) or type(self).group is not TrainingOrder.group:
            return [self.group(record) for record in records]
        if self.field is None:
            return GroupColumn(np.broadcast_to(np.int8(NONE), len(records)))
        return records.column(self.field)

    @abstractmethod
    def indices(self, groups: Sequence[Hashable | None], generator: random.Random) -> Sequence[int]:
        """Return every index of ``groups`` (the `group` of each triplet) once."""

    def sampler(self, groups: Sequence[Hashable | None], replicas: int = 1, rank: int = 0) -> "OrderSampler":
        """Return the sampler of one of ``replicas`` ranks."""
        return OrderSampler(self, groups, replicas, rank)

    def of_epoch(self, groups: Sequence[Hashable | None], epoch: int) -> Sequence[int]:
        """Return the order of one epoch."""
        # not seed + epoch: epoch 1 of seed 0 would be epoch 0 of seed 1
        return self.indices(groups, random.Random(f"seed {self.run_seed()}, epoch {epoch}"))  # noqa: S311  (draws of an experiment, no secret)

    def run_seed(self) -> int:
        """Return the own seed, or that of the run."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed


class Shuffled(TrainingOrder):
    """All triplets in random order."""

    def indices(self, groups: Sequence[Hashable | None], generator: random.Random) -> Sequence[int]:
        order = array("I", range(len(groups))) if isinstance(groups, GroupColumn) else list(range(len(groups)))
        generator.shuffle(order)
        return order


class GroupedByImageSet(TrainingOrder):
    """Image sets in random order, the triplets of each together, so that they meet in a batch as hard negatives.

    A set is split only where a (global) batch ends. Triplets without a set stand alone.
    """

    field = "image_set"

    def indices(self, groups: Sequence[Hashable | None], generator: random.Random) -> Sequence[int]:
        if isinstance(groups, GroupColumn):
            return self._indices_of_column(groups, generator)
        members: dict[Hashable, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(("alone", index) if group is None else group, []).append(index)
        order = list(members.values())
        generator.shuffle(order)
        for group in order:
            generator.shuffle(group)
        return list(chain.from_iterable(order))

    @staticmethod
    def _indices_of_column(groups: GroupColumn, generator: random.Random) -> array:
        """Return the same order as `indices`, by the same draws, at 4 bytes a triplet."""
        numbers = groups.in_order()
        members = np.argsort(numbers, kind="stable").astype(np.uint32)
        ends = np.cumsum(np.bincount(numbers))
        order = array("I", range(len(ends)))
        generator.shuffle(order)
        found = array("I")
        for group in order:
            one = array("I", members[ends[group - 1] if group else 0 : ends[group]].tobytes())
            generator.shuffle(one)
            found.extend(one)
        return found


class GroupedByReference(GroupedByImageSet):
    """The triplets of one reference image together: one image, different captions, each other's hard negatives."""

    field = "reference"


class OrderSampler(DistributedSampler):
    """Deals the order of an epoch to the ranks in turn, so that a global batch is a run of adjacent triplets.

    Triplets that do not divide evenly among the ranks are dropped; they differ from epoch to epoch. It is a
    `DistributedSampler` because Lightning wraps any other sampler, and its wrapper shuffles the order once more.
    Lightning calls ``set_epoch``.
    """

    def __init__(self, order: TrainingOrder, groups: Sequence[Hashable | None], replicas: int, rank: int) -> None:
        super().__init__(groups, num_replicas=replicas, rank=rank, shuffle=False, drop_last=True)
        self.order = order

    def __iter__(self) -> Iterator[int]:
        order = self.order.of_epoch(self.dataset, self.epoch)
        return iter(order[: self.total_size][self.rank :: self.num_replicas])


class Draw(NamedTuple):
    """A triplet by its index, and the seed of whatever is random in loading it."""

    index: int
    seed: int


class ResumableSampler(OrderSampler):
    """An `OrderSampler` of `Draw`s that can skip those that an interrupted epoch has had.

    The seeds depend on the place in the order of all ranks: augmentations are the same on any number of ranks, and a
    triplet that comes twice in an epoch has two.
    """

    start = 0  # how many of this rank's draws to skip; set before every iteration

    def __iter__(self) -> Iterator[Draw]:
        words = f"seed {self.order.run_seed()}, epoch {self.epoch}"
        for place, index in enumerate(super().__iter__()):
            if place >= self.start:
                yield Draw(index, stable_hash(f"{words}, place {place * self.num_replicas + self.rank}"))


class SeededTriplets(TripletDataset):
    """Triplets loaded under the seeds of `Draw`s, so that augmentations do not depend on the loading process."""

    def __getitem__(self, draw: Draw) -> TripletItem:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[TripletItem]:
        """Return the items of a batch; loaders prefer this method to `__getitem__`."""
        self.queries.clear_cache()  # a reference cached by the previous batch has that batch's augmentation
        items = []
        with preserve_rng_state():
            for draw in draws:
                # the CPU's generator alone: torch.manual_seed also visits accelerators, for a millisecond
                torch.default_generator.manual_seed(draw.seed)
                np.random.seed(draw.seed % 2**32)
                random.seed(draw.seed)
                items.append(self.item(draw.index, draw.seed))
        return items


class ResumableLoader(AheadLoader):
    """Loader that begins an epoch after the batches that its checkpoint has behind it.

    Nothing is loaded before the first batch is taken: a Trainer makes the first iterator before it has set the epoch
    that it resumes. A loader with ``state_dict`` is one that a Trainer treats as resumable.
    """

    sampler: ResumableSampler
    batches_done: Callable[[], int] = staticmethod(lambda: 0)  # of the epoch that begins
    digest = ""  # of the records; those in memory have none

    def __iter__(self) -> Iterator[Any]:
        self.sampler.start = self.batches_done() * self.batch_size
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int | str]:
        """Return what the order of an epoch depends on; the place in it is the Trainer's count of batches."""
        sampler = self.sampler
        records: dict[str, int | str] = {"records": self.digest} if self.digest else {}
        return records | {
            "triplets": len(self.dataset),
            "batch": self.batch_size * sampler.num_replicas,
            "seed": sampler.order.run_seed(),
        }

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Warn if the rest of an interrupted epoch will differ from that of the uninterrupted run.

        Whether records are mapped makes no difference, so a digest that only one of the two has is not compared.
        """
        pairs = [(name, state.get(name), now) for name, now in self.state_dict().items()]
        pairs = [pair for pair in pairs if pair[0] != "records" or pair[1] is not None]
        differ = [f"{name} {str(then)[:12]} -> {str(now)[:12]}" for name, then, now in pairs if then != now]
        if differ:
            rank_zero_warn(
                f"training data differ from those of the checkpoint ({', '.join(differ)}): as many batches are "
                "skipped as it had, but what follows in this epoch is not the rest of its order"
            )


def batches_done(data: LightningDataModule) -> int:
    """Return how many batches of this epoch the resumed checkpoint has behind it; 0 outside of training."""
    if data.trainer is None or not getattr(data.trainer, "training", False):
        return 0
    return data.trainer.fit_loop.epoch_loop.batch_progress.current.ready


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the global generators of torch (CPU), numpy and Python at the end of the block."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
