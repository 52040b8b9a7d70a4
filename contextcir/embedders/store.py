"""Embeddings of an evaluation on disk: a killed one goes on, and another one of the same model computes nothing.

A folder for each list of items, kind of item, and everything that a source says of itself; the rows are those of
`contextcir.embeddings`: valid while the files behind them are unchanged.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.embeddings import GalleryFeatures, Precision, write_about

# What does not change embeddings: a licence that is filled in later must not cost an evaluation.
ONLY_TOLD = ("licence", "parameters")


class EmbeddingStore:
    """The embeddings of all models and benchmarks, below one folder.

    Args:
        folder: of all; it may be shared, and removed between runs.
        precision: of the numbers on disk.
    """

    def __init__(self, folder: Path, precision: Precision = "float32") -> None:
        self.folder = folder
        self.precision: Precision = precision

    def open(self, described: dict[str, Any], kind: str, items: Sequence[str], stamps: np.ndarray) -> GalleryFeatures:
        """Return the rows of a list of items.

        Args:
            described: what the source says of itself, with the ``dimension``.
            kind: of the items, such as ``gallery`` or ``query``.
            items: their names.
            stamps: (N,) uint64, which change with what is behind each of them, see `stamps_of`.

        Raises:
            InputError: if nothing can be stored there.
        """
        about = {
            "embedder": {name: value for name, value in described.items() if name not in ONLY_TOLD},
            "kind": kind,
            "items": hashlib.sha256(json.dumps(list(items)).encode()).hexdigest(),
            "count": len(items),
            "precision": self.precision,
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        rows = GalleryFeatures(self.folder / digest, stamps, int(described["dimension"]), self.precision)
        write_about(rows.folder, about)
        return rows


def stamps_of(contents: Iterable[str]) -> np.ndarray:
    """Return a stamp (N,) uint64 of each content, never 0."""
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return np.array([int.from_bytes(digest[:8], "little") or 1 for digest in digests], np.uint64)
