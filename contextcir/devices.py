"""Between the host and the device: what is known on the host is moved ahead of time, and nothing is waited for.

A copy from the host into a GPU's memory that is not asked to be asynchronous, like every read of a GPU's number, makes
the host wait until the GPU has done all that it was given. It then has nothing to do until the host has caught up.
"""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device without waiting for it: from the host by pinned memory.

    The pinned copy is kept by torch's allocator until the device has read it.
    """
    if values.device == device or device.type == "cpu":
        return values.to(device)
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
