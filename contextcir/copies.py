"""Copies to a GPU that begin before they are needed, on a stream of their own.

PyTorch and Lightning copy a batch when its step begins, on the stream that computes: the step waits for it. Neither has
a loader that copies ahead (Lightning's fetchers prefetch in the host's memory only).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from contextcir.devices import to_device

Item = TypeVar("Item")
Copied = TypeVar("Copied")


class CopyStream:
    """Copies the next item to a GPU while the present one is computed with; elsewhere nothing is done ahead.

    Args:
        device: that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def ahead(self, items: Iterable[Item], copy: Callable[[Item], Copied]) -> Iterator[Copied]:
        """Yield the copy of every item, in order; that of the next one has begun by then.

        Two copies are on the device at a time. ``copy`` has to leave out what would wait for the device: its host
        memory should be pinned, and the copy non-blocking.
        """
        if self.stream is None:
            yield from map(copy, items)
            return
        begun: tuple[Copied, torch.cuda.Event] | None = None
        for item in items:
            following = self._begin(copy, item, self.stream)
            if begun is not None:
                yield self._ready(*begun)
            begun = following
        if begun is not None:
            yield self._ready(*begun)

    @staticmethod
    def _begin(
        copy: Callable[[Item], Copied], item: Item, stream: torch.cuda.Stream
    ) -> tuple[Copied, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return copy(item), stream.record_event()

    def _ready(self, copied: Copied, ended: torch.cuda.Event) -> Copied:
        """Let the stream that computes wait for a copy; the host waits for nothing."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(ended)

        def keep(tensor: Tensor) -> None:
            if tensor.device.type == self.device.type:  # else its memory would be given to the next copy too early
                tensor.record_stream(computing)

        apply_to_collection(copied, Tensor, keep)
        return copied


def rows_on(device: torch.device, images: Tensor, rows: Tensor) -> Tensor:
    """Return rows (n,) of images (N, ...) on a device; from a host to a GPU through pinned memory, without waiting."""
    if images.device.type != "cpu" or device.type != "cuda":
        return to_device(images[rows.to(images.device)], device)
    chosen = torch.empty((len(rows), *images.shape[1:]), dtype=images.dtype, pin_memory=True)
    torch.index_select(images, 0, rows, out=chosen)
    return chosen.to(device, non_blocking=True)
