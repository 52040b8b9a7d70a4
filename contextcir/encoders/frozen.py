"""The features of a frozen image tower, computed once for all epochs and runs.

Batches then hold rows of tables in place of images: (B, 2) int64, the number of a list of images and a position in it.
There is one folder on disk for each list, weights and arithmetic, in the format of `contextcir.embeddings`: several
processes may read it and fill it at once.
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
from torch import Tensor

from contextcir.embeddings import FileState, GalleryFeatures, file_stamps, weights_digest, write_about
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.features import ImageFeatures
from contextcir.errors import InputError

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
    """The features of a list of images, one row each: all tokens, then the embedding."""

    def __init__(self, folder: Path, stamps: np.ndarray, width: int) -> None:
        super().__init__(folder, stamps, width, "float32")

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.folder, self.stamps, self.width)

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows (B, width) at ``index`` (B,)."""
        return torch.stack([self.read(row) for row in index.tolist()]) if len(index) else torch.empty(0, self.width)

    def lacking(self, rows: Sequence[int]) -> list[int]:
        """Return those of ``rows`` whose image exists, but whose features are not stored."""
        return [row for row in rows if self.stamps[row] and not self.has(row)]


class FrozenImageBackbone(OpenCLIPBackbone):
    """An `OpenCLIPBackbone` with a frozen image tower that encodes listed images once, and takes pixels as well.

    The features of a row equal those of its image, up to rounding in batches of another size. There are tables of their
    own for each arithmetic (autocast, device). Weights have the names of an `OpenCLIPBackbone`.

    Args:
        features: folder of all tables; float32, V x D + E numbers for each image.
        trainable_image_blocks: must be 0.
        options: see OpenCLIPBackbone.

    Raises:
        InputError: if any part of the image tower is trained.
    """

    def __init__(self, features: str | Path = "runs/features", trainable_image_blocks: int = 0, **options: Any) -> None:
        if trainable_image_blocks != 0:
            raise InputError(
                "features of images can be stored only if the image tower is frozen, but trainable_image_blocks is "
                f"{trainable_image_blocks}: set it to 0, or use OpenCLIPBackbone",
                setting="model.backbone.trainable_image_blocks",
            )
        super().__init__(trainable_image_blocks=trainable_image_blocks, **options)
        self.features = Path(features)
        self._lists: list[ImageList] = []
        self._tables: dict[tuple[int, str], FeatureTable] = {}
        self._weights: str | None = None
        self.register_load_state_dict_post_hook(_close_tables)

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
        for listed in number.unique().tolist():
            flat[number == listed] = self._table(listed).rows(row[number == listed])
        embed = self.widths.embed
        tokens, embedding = flat.to(self._device, self._dtype).split([self._width - embed, embed], dim=1)
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
        """Return what determines how numbers are rounded."""
        kind, dtype = self._device.type, self.clip.visual.conv1.weight.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        return f"{kind} {dtype} {torch.get_float32_matmul_precision()}"

    @torch.no_grad()
    def _open(self, images: ImageList, arithmetic: str) -> FeatureTable:
        from lightning.pytorch.utilities.rank_zero import rank_zero_info  # here: encoders work without lightning

        self.load_weights()  # if they were postponed: the tables belong to them
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
        write_about(folder, about)
        lacking = table.lacking(range(len(table)))
        if lacking:
            rank_zero_info(f"encoding {len(lacking):,} images, once for all runs: {folder}")
        pieces = [lacking[start : start + BATCH] for start in range(0, len(lacking), BATCH)]
        random.Random(os.getpid()).shuffle(pieces)  # noqa: S311  (so that processes share the work)
        for piece in pieces:
            rows = table.lacking(piece)
            if rows:
                encoded = super().encode_image(torch.stack([images.read(row) for row in rows]).to(self._device))
                features = torch.cat([encoded.tokens.flatten(1), encoded.embedding], dim=1)  # (R, width)
                broken = (~features.isfinite().all(1)).nonzero().flatten().tolist()
                if broken:  # seen here: a missing mark could also be one that another process is about to set again
                    raise InputError(
                        "the features of this image are not finite: the image tower has broken weights",
                        file=images.files[rows[broken[0]]],
                        setting="model.backbone.pretrained",
                    )
                table.write(torch.tensor(rows), features)
        return table


def _close_tables(backbone: Any, incompatible: Any) -> None:
    """Close all tables after weights were loaded: they belong to the old weights."""
    backbone._tables, backbone._weights = {}, None
