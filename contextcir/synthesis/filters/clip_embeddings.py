"""Embeddings of a synthesis' images and texts by one CLIP; those of images are made once, and kept in its folder."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contextcir.synthesis.store import read_stage

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from contextcir.embeddings import GalleryFeatures
    from contextcir.encoders.backbone import OpenCLIPBackbone

FOLDER = "filter-images"
Vectors = NDArray[np.float32]


class ClipEmbeddings:
    """An open_clip model, and the images of a synthesis' pairs.

    All batches of images are of one size, so that an embedding does not depend on what else is embedded with it; what
    is on the disk is what is used, also by the process that made it. So a run that was killed gives what an
    undisturbed one gives. Shards share the embeddings; what two of them need at the same moment is made twice.

    Args:
        model: name that open_clip knows, ``local-dir:FOLDER``, or ``scenes-vit``.
        pretrained: tag or file of its weights; None where the model brings its own.
        device: "cuda", "cuda:1", "cpu"; None for a GPU where there is one.
        batch_size: images, and texts, at a time.
        workers: threads that read images.
        folder: of the synthesis.
        images: that image paths are below.
    """

    def __init__(
        self, model: str, pretrained: str | None, device: str | None, batch_size: int, workers: int,
        folder: Path, images: Path,
    ) -> None:  # fmt: skip
        self.model = model
        self.pretrained = pretrained
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.folder = folder
        self.root = images

    @cached_property
    def digest(self) -> str:
        """Names the weights."""
        from contextcir.embeddings import weights_digest

        return weights_digest(self._backbone.clip)

    def texts(self, captions: Sequence[str]) -> Vectors:
        """Return the embeddings (N, E) of texts, at length 1."""
        import torch

        backbone, found = self._backbone, []
        for start in range(0, len(captions), self.batch_size):
            with torch.inference_mode():
                found.append(
                    backbone.encode_text(backbone.tokenizer(captions[start : start + self.batch_size])).embedding
                )
        return self._normalised(torch.cat(found))

    def of_images(self, paths: Sequence[str]) -> dict[str, Vectors]:
        """Return the embeddings (E,) of images by path, at length 1; those that can't be read are not in it.

        Raises:
            KeyError: if a path is none of the synthesis' pairs.
        """
        rows = {path: self._rows[path] for path in dict.fromkeys(paths)}
        wanted = [path for path, row in rows.items() if not self._kept.has(row)]
        with ThreadPoolExecutor(self.workers) as pool:
            loaded = pool.map(self._load, wanted)
            readable = ((path, pixels) for path, pixels in zip(wanted, loaded, strict=True) if pixels is not None)
            while batch := list(islice(readable, self.batch_size)):
                self._embed(batch)
        return {path: self._kept.read(row).float().numpy() for path, row in rows.items() if self._kept.has(row)}

    def _embed(self, batch: Sequence[tuple[str, "Tensor"]]) -> None:
        import torch

        missing = self.batch_size - len(batch)
        pixels = torch.stack([pixels for _, pixels in batch] + [batch[0][1]] * missing)  # (batch_size, 3, S, S)
        with torch.inference_mode(), torch.autocast(self._place.type, torch.float16, self._place.type == "cuda"):
            embeddings = self._backbone.encode_image(pixels.to(self._place)).embedding[: len(batch)]  # (B, E)
        rows = torch.tensor([self._rows[path] for path, _ in batch])  # (B,)
        self._kept.write(rows, torch.from_numpy(self._normalised(embeddings)))

    def _load(self, path: str) -> "Tensor | None":
        from PIL import Image

        try:
            with Image.open(self.root / path) as image:
                return self._backbone.preprocess(_rgb(image))
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            return None

    def _normalised(self, embeddings: "Tensor") -> Vectors:
        vectors = embeddings.float().cpu().numpy()  # (B, E)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (B, 1)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise ValueError(f"{self.model} gives embeddings that are not finite or zero: change --filters")
        return vectors / lengths

    @cached_property
    def _place(self) -> "torch.device":  # noqa: F821
        import torch

        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def _backbone(self) -> "OpenCLIPBackbone":
        from contextcir.encoders.backbone import OpenCLIPBackbone  # imports torch, which takes seconds

        try:
            return OpenCLIPBackbone(self.model, self.pretrained, 0, 0).eval().to(self._place)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(str(error).replace("--model.backbone", "--filters.consistency")) from None

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The images of all pairs, by path, and their places in the store."""
        return {path: row for row, path in enumerate(sorted(set(_images(self.folder))))}

    @cached_property
    def _kept(self) -> "GalleryFeatures":
        from contextcir.embeddings import GalleryStore

        store = GalleryStore(self.folder / FOLDER, self._backbone.widths.embed, "float16", lambda: self.digest)
        states = [_state(self.root / path) for path in self._rows]
        kept = store.open(FOLDER, {path: path for path in self._rows}, states, self._backbone.preprocess)
        assert kept is not None  # as there is a digest
        return kept


def _images(folder: Path) -> Iterator[str]:
    for record in read_stage(folder, "pairs"):
        yield from (record["reference"], record["target"], *record["image_set"])


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _rgb(image: "Image.Image") -> "Image.Image":
    # Pillow warns about the direct way from a palette with a transparent colour
    return (image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image).convert("RGB")
