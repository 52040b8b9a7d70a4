"""What a computation depends on beside its inputs, so that it can be done again with the same result."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Surroundings:
    """Mixed precision, as it is where this is made, and random numbers, as they are when told to `remember` them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._precision = torch.get_autocast_dtype(device.type)
        self._mixed = torch.is_autocast_enabled(device.type)
        self._states = self._now()

    def _now(self) -> tuple[Tensor, ...]:
        here = (torch.cuda.get_rng_state(self.device),) if self.device.type == "cuda" else ()
        return torch.get_rng_state(), *here

    def remember(self) -> None:
        """Keep the state of the generators: in its old place, for not to lie between what is freed soon."""
        for kept, state in zip(self._states, self._now(), strict=True):
            kept.copy_(state)

    def autocast(self) -> torch.autocast:
        """The mixed precision. Weights cast in a pass without gradients are not kept for one with: they have none."""
        return torch.autocast(self.device.type, self._precision, enabled=self._mixed, cache_enabled=False)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Mixed precision and random numbers as they were; afterwards the latter go on as if nothing had happened."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), self.autocast():
            torch.set_rng_state(self._states[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self._states[1], self.device)
            yield
