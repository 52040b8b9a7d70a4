"""What is measured on: the device, its clock, its peak, and how often the host waits for it."""

import time
import warnings
from collections.abc import Callable

import torch

# Dense bfloat16 operations a second, in 10^12, by NVIDIA's data sheets; the first name that the card's contains counts.
PEAKS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "A100": 312.0,
    "A30": 165.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
}


class Card:
    """A device that steps are timed on.

    Args:
        device: A GPU, or the CPU, of which neither peak nor memory is known.
        teraflops: Its peak in 10^12 operations a second; None for that of `PEAKS`.
    """

    def __init__(self, device: torch.device, teraflops: float | None = None) -> None:
        self.device, self.on_gpu = device, device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if self.on_gpu else "the CPU"
        known = next((peak for name, peak in PEAKS.items() if name in self.name), None)
        self.teraflops = teraflops or known

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, function: Callable[[], object], times: int = 1) -> float:
        """Return the seconds of a call, the mean of several that follow each other without waiting."""
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            function()
        self.wait()
        return (time.perf_counter() - start) / times

    def peak_memory(self, function: Callable[[], object]) -> float | None:
        """Return the largest memory of all tensors within a call, in 2^30 bytes; None on a CPU."""
        if not self.on_gpu:
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def waits(self, function: Callable[[], object]) -> int | None:
        """Return how often a call makes the host wait for the device, as torch notices it; None on a CPU."""
        if not self.on_gpu:
            return None
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in found)

    def empty(self) -> None:
        """Give freed memory back."""
        if self.on_gpu:
            torch.cuda.empty_cache()

    def share_of_peak(self, operations: float, seconds: float) -> float | None:
        """Return operations a second over the peak; None where that is not known."""
        return None if self.teraflops is None else operations / seconds / self.teraflops / 1e12
