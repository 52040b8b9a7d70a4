"""The CLIP that mining and filters embed images with; torch is imported when one is loaded, which takes seconds."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contextcir.errors import InputError

if TYPE_CHECKING:
    import torch

    from contextcir.encoders.backbone import OpenCLIPBackbone

Floats = NDArray[np.float32]


def load_clip(
    model: str, pretrained: str | None, device: str | None, setting: str
) -> tuple["OpenCLIPBackbone", "torch.device"]:
    """Return an open_clip model in evaluation mode, and its device.

    Args:
        model: name that open_clip knows, ``local-dir:FOLDER``, or ``scenes-vit`` for the embedded model.
        pretrained: tag or file of its weights; None where the model brings its own.
        device: "cuda", "cuda:1", "cpu"; None for a GPU where there is one.
        setting: the argument that holds ``model`` and ``pretrained``, for errors.

    Raises:
        InputError: if it can't be loaded.
    """
    import torch

    from contextcir.encoders.backbone import OpenCLIPBackbone

    try:
        backbone = OpenCLIPBackbone(model, pretrained, 0, 0)
    except InputError as error:
        raise error.relocate("model.backbone", setting) from None
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return backbone.eval().to(place), place


def half_on_gpu(device: "torch.device") -> Any:
    """Return a context in which a GPU computes in half precision."""
    import torch

    return torch.autocast(device.type, torch.float16, device.type == "cuda")


def unit_vectors(vectors: Floats, name: str, setting: str) -> Floats:
    """Return vectors (B, D) at length 1.

    Raises:
        InputError: if one is zero or not finite; it names the model and the ``setting`` to change.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (B, 1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InputError(f"{name} gives embeddings that are not finite or zero", setting=setting)
    return vectors / lengths
