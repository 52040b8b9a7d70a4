"""The features of a frozen image tower, computed once for all epochs and runs.

Batches then hold rows in place of images: (B, 2) int64, the number of a list of images and a position in it. There is
one folder on disk for each list, weights and arithmetic, in the format of `contextcir.embeddings`: several processes
may read it and fill it at once.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from contextcir.batch import first_of_each
from contextcir.devices import to_device
from contextcir.embeddings import FEATURES, FileState, StoredRows, file_stamps, weights_digest, write_about
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.features import ImageFeatures
from contextcir.errors import InputError

BATCH = 128  # images encoded at a time
SETTING = "data.features"
FORMAT = "float32 embedding, float16 tokens"
EVERY = 10.0  # seconds between two lines about the progress


class ImageList(NamedTuple):
    """Images that can be encoded. ``files``: their paths. ``states``: size and mtime of each, None for no such file.

    ``read``: the preprocessed image (3, S, S) at a position. ``preprocess``: a digest of how it is made. ``ids`` (N,)
    int64: the ids that batches give to the images; two positions of one id are the same image. ``sets``: by position,
    the positions of each set of similar images that an image belongs to; empty if there are no sets.
    """

    files: Sequence[str]
    states: Sequence[FileState | None]
    read: Callable[[int], Tensor]
    preprocess: str
    ids: Tensor
    sets: Mapping[int, Sequence[Sequence[int]]] = MappingProxyType({})


class FeatureTable(StoredRows):
    """The features of a list of images: of each the embedding in float32, then all tokens in float16.

    The embedding is what scores are made of, and is small; tokens are many, and half precision has more digits than
    the mixed precision of training. Rows are read, not mapped, which takes 0.5 ms a batch: a file that shrinks would
    end a process that maps it. A row is compared with its checksum when a process reads it for the first time.

    Args:
        folder: see StoredRows.
        stamps: of the images.
        tokens: numbers of all tokens of an image, V x D.
        embed: numbers of an embedding.
    """

    def __init__(self, folder: Path, stamps: np.ndarray, tokens: int, embed: int) -> None:
        self.tokens, self.embed = tokens, embed
        super().__init__(folder, stamps, -(-(4 * embed + 2 * tokens) // 8) * 8)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.folder, self.stamps, self.tokens, self.embed)

    def lacking(self) -> list[int]:
        """Return the rows whose image exists, but whose features are not stored; no row is read."""
        marks = np.fromfile(self._done.name, np.uint64, len(self))
        # A mark is the stamp xor a checksum of 32 bits: the upper half is that of the stamp.
        stored = (marks != 0) & (marks >> np.uint64(32) == self.stamps >> np.uint64(32))
        return np.flatnonzero((self.stamps != 0) & ~stored).tolist()

    def damaged(self, rows: np.ndarray) -> list[int]:
        """Return those of ``rows`` (B,) that are not as they were written, or not there; each is compared once."""
        return [row for row in np.unique(rows[self._sound[rows] == 0]).tolist() if not self.has(row)]

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, V x D) float16 and the embeddings (B, E) float32 of ``rows`` (B,).

        Raises:
            InputError: if the file was cut off since.
        """
        content, end = self._content(rows, self.size), 4 * self.embed
        embedding = torch.from_numpy(content[:, :end].view(np.float32))
        return torch.from_numpy(content[:, end : end + 2 * self.tokens].view(np.float16)), embedding

    def embeddings(self, rows: np.ndarray) -> Tensor:
        """Return the embeddings (B, E) float32 of ``rows`` (B,); errors as in `read`."""
        return torch.from_numpy(self._content(rows, 4 * self.embed).view(np.float32))

    def _content(self, rows: np.ndarray, length: int) -> np.ndarray:
        """Return the first bytes (B, length) of ``rows`` (B,)."""
        content = np.empty((len(rows), length), np.uint8)
        view, file = content.reshape(-1).data, self._features.fileno()
        for place, row in enumerate(rows.tolist()):
            if os.preadv(file, [view[place * length : (place + 1) * length]], row * self.size) < length:
                raise InputError("was cut off while it was read", file=self.folder / FEATURES)
        return content

    def write(self, rows: Sequence[int], tokens: Tensor, embedding: Tensor) -> None:
        """Store tokens (B, V, D) and embeddings (B, E) of ``rows``; rows that are stored already are left alone."""
        content = np.zeros((len(rows), self.size), np.uint8)
        end = 4 * self.embed
        content[:, :end] = embedding.float().cpu().contiguous().numpy().view(np.uint8)
        content[:, end : end + 2 * self.tokens] = tokens.flatten(1).half().cpu().contiguous().numpy().view(np.uint8)
        self._store(np.array(rows, np.int64), content)


class StoredImages:
    """Features of listed images for a backbone whose image tower is frozen; it is the backbone's ``stored``.

    The features of a row equal those of its image, up to half precision of the tokens and to rounding in batches of
    another size. There are tables of their own for each arithmetic (autocast, device).

    Args:
        folder: of all tables.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.lists: list[ImageList] = []
        self._tables: dict[tuple[int, str], FeatureTable] = {}
        self._weights: str | None = None

    def add(self, images: ImageList) -> int:
        """Return the number under which batches name a list of images."""
        self.lists.append(images)
        return len(self.lists) - 1

    def close(self) -> None:
        """Close all tables: the weights are others now."""
        self._tables, self._weights = {}, None

    @torch.no_grad()
    def encode(self, backbone: OpenCLIPBackbone, rows: Tensor) -> ImageFeatures:
        """Rows (B, 2) -> tokens (B, V, D) before the final norm; embeddings (B, E)."""
        number, position = (side.numpy() for side in rows.cpu().unbind(1))  # (B,) each
        numbers = np.unique(number).tolist()
        if len(numbers) == 1:
            tokens, embedding = self._read(backbone, numbers[0], position)
        else:
            count, embed = _numbers(backbone)
            tokens = torch.empty(len(rows), count, dtype=torch.float16)
            embedding = torch.empty(len(rows), embed)
            for listed in numbers:
                here = torch.from_numpy(number == listed)
                tokens[here], embedding[here] = self._read(backbone, listed, position[number == listed])
        place, dtype = backbone._device, backbone._dtype
        shaped = to_device(tokens, place).to(dtype).unflatten(1, (-1, backbone.widths.vision))
        return ImageFeatures(shaped, to_device(embedding, place).to(dtype))

    def distinct(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the positions (U,) of the different images of a list that exist, and their ids (U,)."""
        listed = self.lists[number]
        there = torch.tensor([state is not None for state in listed.states]).nonzero().flatten()
        ids, _, first = first_of_each(listed.ids[there])
        return there[first], ids

    def alike(self, number: int, positions: Tensor) -> Tensor:
        """Return the ids (M,) of all images in the sets of similar images that hold those at ``positions`` (B,).

        Raises:
            InputError: if the annotations of these images tell no sets.
        """
        listed = self.lists[number]
        if not listed.sets:
            problem = "the training annotations tell no image sets: take StoredNegatives, or leave it out (null)"
            raise InputError(problem, setting="model.contrastive.negatives")
        held = {member for position in positions.tolist() for one in listed.sets.get(position, ()) for member in one}
        return listed.ids[sorted(held)].unique()

    @torch.no_grad()
    def embeddings(self, backbone: OpenCLIPBackbone, number: int, positions: Tensor) -> Tensor:
        """Return the embeddings (M, E) of images of a list."""
        table, rows = self.table(backbone, number), positions.numpy()
        self._repair(backbone, number, rows)
        return to_device(table.embeddings(rows), backbone._device).to(backbone._dtype)

    def table(self, backbone: OpenCLIPBackbone, number: int) -> FeatureTable:
        """Return the table of a list of images for the weights of the backbone and the present arithmetic, filled."""
        arithmetic = _arithmetic(backbone)
        if (number, arithmetic) not in self._tables:
            self._tables[number, arithmetic] = self._open(backbone, self.lists[number], arithmetic)
        return self._tables[number, arithmetic]

    def _read(self, backbone: OpenCLIPBackbone, number: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        self._repair(backbone, number, rows)
        return self.table(backbone, number).read(rows)

    def _repair(self, backbone: OpenCLIPBackbone, number: int, rows: np.ndarray) -> None:
        table = self.table(backbone, number)
        if damaged := table.damaged(rows):
            _encode(backbone, self.lists[number], table, damaged)

    @torch.no_grad()
    def _open(self, backbone: OpenCLIPBackbone, images: ImageList, arithmetic: str) -> FeatureTable:
        backbone.load_weights()  # if they were postponed: the tables belong to them
        if self._weights is None:
            self._weights = weights_digest(backbone.clip.visual)
        tokens, embed = _numbers(backbone)
        about = {
            "weights": self._weights,
            "arithmetic": arithmetic,
            "preprocess": images.preprocess,
            "images": hashlib.sha256(json.dumps(list(images.files)).encode()).hexdigest(),
            "count": len(images.files),
            "format": FORMAT,
            "tokens": tokens,
            "embed": embed,
        }
        folder = self.folder / hashlib.sha256(json.dumps(about).encode()).hexdigest()
        table = FeatureTable(folder, file_stamps(images.files, images.states), tokens, embed)
        write_about(folder, about)
        lacking = table.lacking()
        pieces = [lacking[start : start + BATCH] for start in range(0, len(lacking), BATCH)]
        random.Random(os.getpid()).shuffle(pieces)  # noqa: S311  (so that processes share the work)
        for piece in told(pieces, len(lacking), folder):
            if rows := table.damaged(np.array(piece)):  # another process may have stored some
                _encode(backbone, images, table, rows)
        return table


def told(pieces: Sequence[list[int]], total: int, folder: Path) -> Iterator[list[int]]:
    """Yield pieces of ``total`` images, and tell how fast they are encoded and how long that will take."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_info  # here: encoders work without lightning

    if total:
        rank_zero_info(f"encoding {total:,} images, once for all runs: {folder}")
    start = shown = time.monotonic()
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        now = time.monotonic()
        if now - shown > EVERY and done < total:
            rate, shown = done / (now - start), now
            rank_zero_info(f"encoded {done:,} of {total:,} images, {rate:,.0f}/s, {(total - done) / rate:,.0f} s left")
    if total:
        rank_zero_info(f"encoded {total:,} images in {time.monotonic() - start:,.1f} s")


def _encode(backbone: OpenCLIPBackbone, images: ImageList, table: FeatureTable, rows: list[int]) -> None:
    """Encode and store some images.

    Raises:
        InputError: if their features are no numbers, or too large for half precision.
    """
    pixels = torch.stack([images.read(row) for row in rows])
    tokens, embedding = backbone.encode_image(pixels.to(backbone._device))
    finite = tokens.isfinite().flatten(1).all(1) & embedding.isfinite().all(1)
    fits = tokens.half().isfinite().flatten(1).all(1)
    for good, problem, setting in (
        (finite, "are not finite: the image tower has broken weights", "model.backbone.pretrained"),
        (fits, "are too large for the half precision that they are stored in: take null, to encode pixels", SETTING),
    ):
        if not good.all():  # seen here: a missing mark could also be one that another process is about to set again
            file = images.files[rows[int((~good).nonzero()[0])]]
            raise InputError(f"the features of this image {problem}", file=file, setting=setting)
    table.write(rows, tokens, embedding)


def _numbers(backbone: OpenCLIPBackbone) -> tuple[int, int]:
    """Return how many numbers the tokens and the embedding of an image are."""
    rows, columns = backbone.grid
    return (1 + rows * columns) * backbone.widths.vision, backbone.widths.embed


def _arithmetic(backbone: OpenCLIPBackbone) -> str:
    """Return what determines how numbers are rounded."""
    kind, dtype = backbone._device.type, backbone.clip.visual.conv1.weight.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return f"{kind} {dtype} {torch.get_float32_matmul_precision()}"


class FrozenImageBackbone(OpenCLIPBackbone):
    """An `OpenCLIPBackbone` with a frozen image tower; deprecated: any backbone reads stored features.

    Args:
        features: folder of the features, where ``data.features`` is ``auto``.
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
