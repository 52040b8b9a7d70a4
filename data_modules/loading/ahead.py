"""Loaders whose next batch is on its way to the GPU while the present one is computed with."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from contextcir.copies import CopyStream
from data_modules.loading.workers import outlast_sigterm

Ahead = Callable[[Iterator[Any]], Iterator[Any]]


class AheadLoader(DataLoader):
    """A loader that passes its batches through ``ahead``, which is set after it was made."""

    ahead: Ahead = staticmethod(iter)

    def __iter__(self) -> Iterator[Any]:
        yield from self.ahead(super().__iter__())


def new_loader(kind: type[AheadLoader], dataset: Dataset, trainer: Any, workers: int, **options: Any) -> AheadLoader:
    """Return a loader, for a Trainer or none, that pins its batches where there is a GPU.

    ``workers``: processes that load; none where rows of stored features are all there is to load.
    """
    rows = getattr(dataset, "rows", None)
    options["num_workers"] = workers if rows is None or rows.decodes else 0
    loader = kind(dataset, pin_memory=torch.cuda.is_available(), worker_init_fn=outlast_sigterm, **options)
    loader.ahead = partial(ahead_under, trainer)
    return loader


def ahead_under(trainer: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches as the model of a Trainer has them moved, one ahead; as they are without a Trainer or a GPU.

    The Trainer's own move, when the step begins, then finds them moved.
    """
    module = getattr(trainer, "lightning_module", None)
    if module is None or trainer.strategy.root_device.type != "cuda":
        return batches
    device = trainer.strategy.root_device
    moved = partial(_moved, module, device)
    return CopyStream(device).ahead(batches, moved)


def _moved(module: Any, device: Any, batch: Any) -> Any:
    return module.transfer_batch_to_device(batch, device, 0)
