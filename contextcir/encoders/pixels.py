"""Preprocessing in two parts: pixels that can be kept on disk, and the normalisation that makes numbers of them.

CLIP's preprocessing resizes and crops an image, and then scales and shifts its colours. All that takes time happens
before, and its result is a quarter of the size. Both parts in turn give the same numbers, bit for bit on a CPU.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contextcir.devices import to_device
from contextcir.errors import InputError


class Pixels:
    """Resizes and crops: PIL image to uint8 (3, S, S).

    Args:
        steps: that lead to an RGB image.
    """

    def __init__(self, steps: Sequence[Callable[[Image.Image], Image.Image]]) -> None:
        self.steps = tuple(steps)

    def __repr__(self) -> str:
        return f"Pixels({', '.join(map(repr, self.steps))})"

    def __call__(self, image: Image.Image) -> Tensor:
        for step in self.steps:
            image = step(image)
        colours = np.array(image.convert("RGB"))  # (S, S, 3); of an RGB image, convert is a copy
        return torch.from_numpy(colours).permute(2, 0, 1).contiguous()


class Normalisation:
    """Pixels (..., 3, S, S) uint8 -> (p / 255 - mean) / std, float32, on the device of the pixels.

    The operations and their order are those of torchvision's ``ToTensor`` and ``Normalize``.

    Args:
        mean: of each colour.
        std: likewise, its standard deviation.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (mean, std))

    def __call__(self, pixels: Tensor) -> Tensor:
        values = pixels.to(torch.float32).div_(255)
        mean, std = (to_device(part, values.device) for part in (self.mean, self.std))
        return values.sub_(mean).div_(std)


def divide(preprocess: Callable[..., Tensor], setting: str | None = None) -> tuple[Pixels, Normalisation]:
    """Return the two parts of a preprocessing.

    Args:
        preprocess: PIL image to tensor (3, S, S): torchvision's ``Compose`` that ends with ``ToTensor`` and
            ``Normalize``, as all of open_clip's are.
        setting: the argument that needs it divided, for the error.

    Raises:
        InputError: if it is another one.
    """
    from torchvision.transforms import Normalize, ToTensor  # here: torchvision takes a second to import

    steps = list(getattr(preprocess, "transforms", ()))
    if len(steps) < 2 or not isinstance(steps[-2], ToTensor) or not isinstance(steps[-1], Normalize):
        named = getattr(preprocess, "__qualname__", None) or type(preprocess).__name__
        problem = f"expected a preprocessing that ends with ToTensor and Normalize, got {named}: take null"
        raise InputError(problem, setting=setting)
    return Pixels(steps[:-2]), Normalisation(steps[-1].mean, steps[-1].std)
