"""New pictures of scenes, in memory: poses and backgrounds are drawn anew, and they went through JPEG as files do."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from contextcir.encoders.backbone import OpenCLIPBackbone
from data_modules.scenes.graph import Scene
from data_modules.scenes.render import place, render

BATCH = 128  # pictures that are encoded at a time


class Pictures:
    """Renders and embeds scenes.

    Args:
        backbone: whose image tower embeds them.
        stream: seed of poses and backgrounds; every call goes on with it.
    """

    def __init__(self, backbone: OpenCLIPBackbone, stream: Sequence[int]) -> None:
        self.backbone = backbone
        self._rng = np.random.default_rng(stream)

    def render(self, scenes: Sequence[Scene]) -> Tensor:
        """Render scenes: preprocessed images (B, 3, S, S)."""
        return torch.stack([self.backbone.preprocess(self._drawn(scene)) for scene in scenes])

    def _drawn(self, scene: Scene) -> Image.Image:
        file = io.BytesIO()
        pixels = render(scene, place(scene, self._rng), self._rng)
        Image.fromarray(pixels).save(file, "JPEG", quality=92, subsampling=0)  # as the benchmark's files
        return Image.open(file).convert("RGB")

    @torch.no_grad()
    def embed(self, scenes: Sequence[Scene]) -> Tensor:
        """Render and embed scenes: (B, E), L2-normalised."""
        return embed_images(self.backbone, len(scenes), lambda start, end: self.render(scenes[start:end]))


@torch.no_grad()
def embed_images(backbone: OpenCLIPBackbone, count: int, read: Callable[[int, int], Tensor]) -> Tensor:
    """Embed images (B, 3, S, S) that ``read`` returns from a first to before a last: (count, E), L2-normalised."""
    parts = [
        backbone.encode_image(read(start, min(start + BATCH, count))).embedding for start in range(0, count, BATCH)
    ]
    return functional.normalize(torch.cat(parts), dim=-1)
