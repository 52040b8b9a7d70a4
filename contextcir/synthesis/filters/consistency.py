"""Consistency by a CLIP: a text must lead from the reference to the target, and not to something else."""

from collections.abc import Sequence
from functools import cached_property
from heapq import nsmallest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contextcir.checks import between, not_negative, whole
from contextcir.errors import InputError
from contextcir.files import stable_hash, whole_file
from contextcir.synthesis.filters.base import Consistency
from contextcir.synthesis.filters.clip_embeddings import ClipEmbeddings
from contextcir.synthesis.photos import Photos, photos_of
from contextcir.synthesis.records import Pair
from contextcir.synthesis.store import read_stage

Vector = NDArray[np.floating]
SAMPLE = 1024  # texts whose mean is subtracted
FEWEST = 32  # a mean of so few separates texts about as well


class ClipConsistency(Consistency):
    """Compares the direction of a text with that from the reference to the target, in the space of a CLIP.

    ``direction`` is cos(x - m, t - r): x, r and t are the embeddings of text, reference and target, all of length 1,
    and m is the mean of x over texts of the same synthesis. It is the directional similarity of StyleGAN-NADA (Gal et
    al., 2022), by which InstructPix2Pix (Brooks et al., CVPR 2023) keeps examples; as there is no text of the
    reference here, m takes its place. Without m the scores separate less, because all texts lie in one cone.
    Below 0 a text fits the reference better than the target, compared with other texts; between 0 and ``margin`` it
    hardly moves. ``lead`` is ``direction`` less the highest cos(x - m, n - r) of the other images n of the pair's
    image set; where it is below -``slack``, the text fits one of these better. Pairs without a set have no ``lead``.

    Args:
        model: Name that open_clip knows, ``local-dir:FOLDER``, or ``scenes-vit`` for the embedded one.
        pretrained: Tag or file of its weights; null for a folder and for the embedded model.
        margin: The least direction.
        slack: How far an image of the set may be ahead of the target.
        device: "cuda", "cuda:1", "cpu"; null for a GPU where there is one.
        batch_size: Images, and texts, that the model sees at a time.
        workers: Threads that read images.

    Raises (when it first scores):
        ValueError: if the model can't be loaded, or there are fewer than 32 texts in the synthesis.
    """

    def __init__(
        self,
        model: str = "ViT-B-32-quickgelu",
        pretrained: str | None = "openai",
        margin: float = 0.05,
        slack: float = 0.4,
        device: str | None = None,
        batch_size: int = 64,
        workers: int = 8,
    ) -> None:
        whole(batch_size, 1, "filters.consistency.batch_size")
        whole(workers, 1, "filters.consistency.workers")
        not_negative(slack, "filters.consistency.slack")
        if between(margin, -1, 1, "filters.consistency.margin") == 1:
            raise InputError("expected a margin below 1: no text reaches it", setting="filters.consistency.margin")
        self.model = model
        self.pretrained = pretrained
        self.margin = margin
        self.slack = slack
        self.device = device
        self.batch_size = batch_size
        self.workers = workers

    def begin(self, folder: Path, images: Path | Photos, links: bool = False) -> None:
        self.clip = ClipEmbeddings(
            self.model, self.pretrained, self.device, self.batch_size, self.workers, folder, photos_of(images, links)
        )
        self.__dict__.pop("origin", None)

    def score(self, pairs: Sequence[Pair], captions: Sequence[str]) -> list[dict[str, float]]:
        texts = self.clip.texts(captions) - self.origin  # (B, E)
        images = self.clip.of_images([path for pair in pairs for path in _paths(pair)])
        return [
            measure(text, *([images[path] for path in _paths(pair)]))
            if all(map(images.__contains__, _paths(pair)))
            else {}
            for pair, text in zip(pairs, texts, strict=True)
        ]

    def reason(self, scores: dict[str, float]) -> str | None:
        if not scores:
            return "unreadable image"
        if scores["direction"] < self.margin:
            return "fits the reference" if scores["direction"] < 0 else "does not move"
        return "fits a neighbour" if scores.get("lead", 0.0) < -self.slack else None

    @cached_property
    def origin(self) -> Vector:
        """The mean of texts of the synthesis, (E,): the same for all its shards, and after a restart."""
        path = self.clip.folder / "filter-images" / f"texts-{self.clip.digest[:16]}.npy"
        if not path.is_file():
            records = ((record["key"], record["caption"]) for record in read_stage(self.clip.folder, "instruct"))
            chosen = nsmallest(SAMPLE, records, key=lambda record: (stable_hash(record[0]), record[0]))
            if len(chosen) < FEWEST:
                raise InputError(
                    f"{len(chosen)} texts are too few for the mean that ClipConsistency subtracts: it needs {FEWEST}; "
                    "remove the filter",
                    file=self.clip.folder / "instruct",
                    setting="filters",
                )
            mean = self.clip.texts([caption for _, caption in chosen]).mean(axis=0)  # (E,)
            with whole_file(path) as file:
                np.save(file, mean)
        return np.load(path)


def measure(text: Vector, reference: Vector, target: Vector, *neighbours: Vector) -> dict[str, float]:
    """Return ``direction`` and ``lead`` of a text (E,) minus the mean of texts; images (E,) have length 1.

    Scores are rounded to the four decimals that the verdicts store, and decide as stored.
    """
    direction = cosine(text, target - reference)
    scores = {"direction": round(direction, 4)}
    if neighbours:
        best = max(cosine(text, neighbour - reference) for neighbour in neighbours)
        scores["lead"] = round(direction - best, 4)
    return scores


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of two vectors (E,), 0 where one of them is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 0 else 0.0


def _paths(pair: Pair) -> list[str]:
    """Return reference, target, and the others of the image set."""
    own = [pair.reference, pair.target]
    return own + [path for path in pair.image_set if path not in own]
