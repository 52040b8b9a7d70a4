"""In which order an epoch goes through the training triplets."""

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from itertools import chain

from torch.utils.data import DistributedSampler

from data_modules.triplets import QueryRecord


class TrainingOrder(ABC):
    """Chooses the order of the triplets, anew in every epoch, and the same on every rank.

    Args:
        seed: of the orders; None for the seed of the run (``seed_everything``).
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def group(self, record: QueryRecord) -> Hashable | None:
        """Return what keeps a triplet together with others that return the same; None for one that stands alone."""
        return None

    @abstractmethod
    def indices(self, groups: Sequence[Hashable | None], generator: random.Random) -> list[int]:
        """Return every index of ``groups`` (the `group` of each triplet) once."""

    def sampler(self, groups: Sequence[Hashable | None], replicas: int = 1, rank: int = 0) -> "OrderSampler":
        """Return the sampler of one of ``replicas`` ranks."""
        return OrderSampler(self, groups, replicas, rank)

    def of_epoch(self, groups: Sequence[Hashable | None], epoch: int) -> list[int]:
        """Return the order of one epoch."""
        # not seed + epoch: epoch 1 of seed 0 would be epoch 0 of seed 1
        return self.indices(groups, random.Random(f"seed {self.run_seed()}, epoch {epoch}"))

    def run_seed(self) -> int:
        """Return the own seed, or that of the run."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed


class Shuffled(TrainingOrder):
    """All triplets in random order."""

    def indices(self, groups: Sequence[Hashable | None], generator: random.Random) -> list[int]:
        order = list(range(len(groups)))
        generator.shuffle(order)
        return order


class GroupedByImageSet(TrainingOrder):
    """Image sets in random order, the triplets of each together, so that they meet in a batch as hard negatives.

    A set is split only where a (global) batch ends. Triplets without a set stand alone.
    """

    def group(self, record: QueryRecord) -> Hashable | None:
        return record.image_set

    def indices(self, groups: Sequence[Hashable | None], generator: random.Random) -> list[int]:
        members: dict[Hashable, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(("alone", index) if group is None else group, []).append(index)
        order = list(members.values())
        generator.shuffle(order)
        for group in order:
            generator.shuffle(group)
        return list(chain.from_iterable(order))


class GroupedByReference(GroupedByImageSet):
    """The triplets of one reference image together: one image, different captions, each other's hard negatives."""

    def group(self, record: QueryRecord) -> Hashable | None:
        return record.reference


class OrderSampler(DistributedSampler):
    """Deals the order of an epoch to the ranks like cards, so that together they always work on adjacent triplets.

    Triplets that do not go round evenly are left out; in the next epoch these are others. It is a `DistributedSampler`
    because Lightning leaves only those alone: it wraps any other sampler, and its wrapper shuffles the order once more.
    Lightning calls ``set_epoch``.
    """

    def __init__(self, order: TrainingOrder, groups: Sequence[Hashable | None], replicas: int, rank: int) -> None:
        super().__init__(groups, num_replicas=replicas, rank=rank, shuffle=False, drop_last=True)
        self.order = order

    def __iter__(self) -> Iterator[int]:
        order = self.order.of_epoch(self.dataset, self.epoch)
        return iter(order[: self.total_size][self.rank :: self.num_replicas])
