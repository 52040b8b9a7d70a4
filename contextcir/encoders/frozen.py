"""The features of a frozen image tower, computed once for all epochs and runs.

Batches then hold rows of tables in the place of images: (B, 2) int64, the number of a list of images and a position in
it. One folder on disk per list, weights and arithmetic, as `contextcir.embeddings` keeps embeddings: readable while it
is being filled, by several processes at once.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from contextcir.embeddings import ABOUT, FileState, GalleryFeatures, file_stamps, weights_digest
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.features import ImageFeatures

BATCH = 128  # images encoded at a time


class ImageList(NamedTuple):
    """Images that can be encoded. ``files``: their paths. ``states``: size and mtime of each, None for no such file.

    ``read``: the preprocessed image (3, S, S) at a position. ``preprocess``: a digest of how it is made.
    """

    files: Sequence[str]
    states: Sequence[FileState | None]
    read: Callable[[int], Tensor]
    preprocess: str


class FeatureTable(GalleryFeatures):
    """Everything that the image tower says of a list of images, a row each."""

    def __init__(self, folder: Path, stamps: np.ndarray, width: int) -> None:
        super().__init__(folder, stamps, width, "float32")

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.folder, self.stamps, self.width)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows (B, width) at ``index`` (B,)."""
        return torch.from_numpy(self._features[index.numpy()])

    def lacking(self, rows: Sequence[int]) -> list[int]:
        """Return those of ``rows`` whose image is there, but not its features."""
        return [row for row in rows if self.stamps[row] and not self.has(row)]


class FrozenImageBackbone(OpenCLIPBackbone):
    """An `OpenCLIPBackbone` with a frozen image tower that encodes listed images once, and takes pixels as well.

    What it returns for a row is what it would return for the image, up to the rounding of batches of another size, in
    whatever arithmetic (autocast, device) the row is first asked for. Weights are those of an `OpenCLIPBackbone`.

    Args:
        features: folder of all tables; float32, V x D + E numbers for each image.
        trainable_image_blocks: must be 0.
        options: see OpenCLIPBackbone.

    Raises ValueError if any part of the image tower is trained.
    """

    def __init__(self, features: str | Path = "runs/features", trainable_image_blocks: int = 0, **options: Any) -> None:
        if trainable_image_blocks != 0:
            raise ValueError(
                f"features of images can be kept only if the image tower is frozen, but "
                f"--model.backbone.trainable_image_blocks is {trainable_image_blocks}: set it to 0, or use "
                "OpenCLIPBackbone"
            )
        super().__init__(trainable_image_blocks=trainable_image_blocks, **options)
        self.features = Path(features)
        self._lists: list[ImageList] = []
        self._tables: dict[tuple[int, str], FeatureTable] = {}
        self._weights: str | None = None
        self.register_load_state_dict_post_hook(_forget)

    def add_images(self, images: ImageList) -> int:
        """Return the number under which batches name a list of images."""
        self._lists.append(images)
        return len(self._lists) - 1

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Images (B, 3, S, S), or rows (B, 2) -> tokens (B, V, D) before the final norm; embeddings (B, E)."""
        if images.is_floating_point():
            return super().encode_image(images)
        number, row = images.cpu().unbind(1)  # (B,) each
        flat = torch.empty(len(images), self._width)
        for found in number.unique().tolist():
            flat[number == found] = self._table(found).rows(row[number == found])
        tokens, embedding = flat.to(self._device, self._dtype).split(
            [self._width - self.widths.embed, self.widths.embed], 1
        )
        return ImageFeatures(tokens.unflatten(1, (-1, self.widths.vision)), embedding)

    @property
    def _width(self) -> int:
        rows, columns = self.grid
        return (1 + rows * columns) * self.widths.vision + self.widths.embed

    def _table(self, number: int) -> FeatureTable:
        arithmetic = self._arithmetic()
        if (number, arithmetic) not in self._tables:
            self._tables[number, arithmetic] = self._open(self._lists[number], arithmetic)
        return self._tables[number, arithmetic]

    def _arithmetic(self) -> str:
        """What decides how numbers are rounded."""
        kind = self._device.type
        cast = (
            torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.clip.visual.conv1.weight.dtype
        )
        return f"{kind} {cast} {torch.get_float32_matmul_precision()}"

    @torch.no_grad()
    def _open(self, images: ImageList, arithmetic: str) -> FeatureTable:
        if self._weights is None:
            self._weights = weights_digest(self.clip.visual)
        about = {
            "weights": self._weights,
            "arithmetic": arithmetic,
            "preprocess": images.preprocess,
            "images": hashlib.sha256(json.dumps(list(images.files)).encode()).hexdigest(),
            "count": len(images.files),
            "width": self._width,
        }
        folder = self.features / hashlib.sha256(json.dumps(about).encode()).hexdigest()
        table = FeatureTable(folder, file_stamps(images.files, images.states), self._width)
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        lacking = table.lacking(range(len(table)))
        if lacking:
            rank_zero_info(f"encoding {len(lacking):,} images, once for all runs: {folder}")
        pieces = [lacking[start : start + BATCH] for start in range(0, len(lacking), BATCH)]
        random.Random(os.getpid()).shuffle(pieces)  # processes that fill one table together share the work
        for piece in pieces:
            rows = table.lacking(piece)
            if rows:
                encoded = super().encode_image(torch.stack([images.read(row) for row in rows]).to(self._device))
                table.write(
                    torch.tensor(rows), torch.cat([encoded.tokens.flatten(1), encoded.embedding], 1)
                )  # (R, width)
        left = table.lacking(range(len(table)))
        if left:
            raise ValueError(f"the features of {images.files[left[0]]} are not finite: the image tower is broken")
        return table


def _forget(backbone: nn.Module, incompatible: Any) -> None:
    """Weights have come from a file: look again which tables are theirs."""
    backbone._tables, backbone._weights = {}, None
