"""Embeddings of the images and texts of a synthesis by one CLIP; those of images are computed once and stored."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from contextcir.errors import InputError
from contextcir.images import read_image
from contextcir.synthesis.clip import Floats, half_on_gpu, load_clip, unit_vectors
from contextcir.synthesis.photos import Photos
from contextcir.synthesis.store import read_stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from contextcir.embeddings import GalleryFeatures
    from contextcir.encoders.backbone import OpenCLIPBackbone

FOLDER = "filter-images"
READING = "upright"  # a part of the names of images in the store: embeddings of another reading are not taken
SETTING = "filters.consistency"


class ClipEmbeddings:
    """An open_clip model, and the images of a synthesis' pairs.

    All batches of images have one size, so that an embedding does not depend on the other images of its batch, and
    embeddings are always read from the disk, also by the process that computed them: a run that was killed gives the
    same result as an undisturbed one. Shards share the embeddings; two that need one at the same moment both compute
    it.

    Args:
        model: name that open_clip knows, ``local-dir:FOLDER``, or ``scenes-vit``.
        pretrained: tag or file of its weights; None where the model brings its own.
        device: "cuda", "cuda:1", "cpu"; None for a GPU where there is one.
        batch_size: images, and texts, at a time.
        workers: threads that read images.
        folder: of the synthesis.
        images: those of the pairs, by name.
    """

    def __init__(
        self, model: str, pretrained: str | None, device: str | None, batch_size: int, workers: int,
        folder: Path, images: Photos,
    ) -> None:  # fmt: skip
        self.model = model
        self.pretrained = pretrained
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.folder = folder
        self.images = images

    @cached_property
    def digest(self) -> str:
        """The hash of the weights."""
        from contextcir.embeddings import weights_digest  # imports torch

        return weights_digest(self._backbone.clip)

    def texts(self, captions: Sequence[str]) -> Floats:
        """Return the embeddings (N, E) of texts, at length 1."""
        import torch

        embeddings = []
        for start in range(0, len(captions), self.batch_size):
            tokens = self._backbone.tokenizer(captions[start : start + self.batch_size])
            with torch.inference_mode():
                embeddings.append(self._backbone.encode_text(tokens).embedding)
        return self._unit(torch.cat(embeddings))

    def of_images(self, paths: Sequence[str]) -> dict[str, Floats]:
        """Return the embeddings (E,) of images by path, at length 1, without images that can't be read.

        Raises:
            KeyError: if a path is in no pair of the synthesis.
        """
        rows = {path: self._rows[path] for path in dict.fromkeys(paths)}
        missing = [path for path, row in rows.items() if not self._stored.has(row)]
        with ThreadPoolExecutor(self.workers) as pool:
            loaded = pool.map(self._load, missing)
            readable = ((path, pixels) for path, pixels in zip(missing, loaded, strict=True) if pixels is not None)
            while batch := list(islice(readable, self.batch_size)):
                self._embed(batch)
        return {path: self._stored.read(row).float().numpy() for path, row in rows.items() if self._stored.has(row)}

    def _embed(self, batch: Sequence[tuple[str, "Tensor"]]) -> None:
        import torch

        backbone, device = self._clip
        padding = [batch[0][1]] * (self.batch_size - len(batch))
        pixels = torch.stack([pixels for _, pixels in batch] + padding)  # (batch_size, 3, S, S)
        with torch.inference_mode(), half_on_gpu(device):
            embeddings = backbone.encode_image(pixels.to(device)).embedding[: len(batch)]  # (B, E)
        rows = torch.tensor([self._rows[path] for path, _ in batch])  # (B,)
        self._stored.write(rows, torch.from_numpy(self._unit(embeddings)))

    def _load(self, path: str) -> "Tensor | None":
        try:
            return self._backbone.preprocess(read_image(self.images.image(path), upright=True))
        except InputError:
            return None

    def _unit(self, embeddings: "Tensor") -> Floats:
        return unit_vectors(embeddings.float().cpu().numpy(), self.model, SETTING)

    @property
    def _backbone(self) -> "OpenCLIPBackbone":
        return self._clip[0]

    @cached_property
    def _clip(self) -> tuple["OpenCLIPBackbone", "torch.device"]:
        return load_clip(self.model, self.pretrained, self.device, SETTING)

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The images of all pairs by path, and their rows in the store."""
        return {path: row for row, path in enumerate(sorted(set(_images(self.folder))))}

    @cached_property
    def _stored(self) -> "GalleryFeatures":
        from contextcir.embeddings import GalleryStore  # imports torch

        store = GalleryStore(self.folder / FOLDER, self._backbone.widths.embed, "float16", lambda: self.digest)
        states = [self.images.state(path) for path in self._rows]
        features = store.open(
            FOLDER, {f"{READING} {path}": path for path in self._rows}, states, self._backbone.preprocess
        )
        if features is None:
            raise RuntimeError("a store with a digest has features")
        return features


def _images(folder: Path) -> Iterator[str]:
    for record in read_stage(folder, "pairs"):
        yield from (record["reference"], record["target"], *record["image_set"])
