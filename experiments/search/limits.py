"""What the search page's server takes from a client, at most."""

from dataclasses import dataclass

from contextcir.checks import not_negative, whole


@dataclass(frozen=True)
class Limits:
    """Limits of a request and of all requests together.

    Args:
        image_bytes: of an uploaded file.
        images: references of a query, uploads and images of the index together.
        text: characters of a text.
        count: results of a query.
        without: images of the index that a query does not want.
        export: images of an exported list.
        side: pixels of the longer side of an image that is sent, or that waits for the model.
        decoders: images that are decoded at a time; one of `MOST_PIXELS` of contextcir/images.py takes about 0.5 GB.
        batch: queries that the model answers at a time.
        waiting: queries that wait for the model; further ones are turned away.
        gather: seconds that a query waits for others while the model is idle.
    """

    image_bytes: int = 20_000_000
    images: int = 4
    text: int = 1000
    count: int = 200
    without: int = 100
    export: int = 10_000
    side: int = 1600
    decoders: int = 2
    batch: int = 16
    waiting: int = 64
    gather: float = 0.005

    def __post_init__(self) -> None:
        for name in ("image_bytes", "images", "text", "count", "without", "export", "side", "decoders", "batch"):
            whole(getattr(self, name), 1, f"limits.{name}")
        whole(self.waiting, 1, "limits.waiting")
        not_negative(self.gather, "limits.gather")

    @property
    def body(self) -> int:
        """Bytes of the body of a request: all images, and a megabyte for everything else."""
        return self.images * self.image_bytes + 1_000_000
