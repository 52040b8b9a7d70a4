"""Tiny copies of i-CIR, PinPoint and PatternCom on disk, in the layouts of their repositories."""

from pathlib import Path
from typing import Any

from tests.helpers.make_data import write_image

ICIR_DATABASE = [  # image, text, instance
    ("icir/database/bridge/0.jpg", "at night", "bridge"),
    ("icir/database/bridge/1.jpg", "at night", "bridge"),
    ("icir/database/bridge/2.jpg", "in snow", "bridge"),
    ("icir/database/bridge/3.jpg", "", "bridge"),
    ("icir/database/vase/0.jpg", "at night", "vase"),
    ("icir/database/vase/1.jpg", "with flowers", "vase"),
    ("icir/database/vase/1.jpg", "in snow", "vase"),
]
ICIR_QUERIES = [
    ("icir/query/bridge/0.jpg", "at night", "bridge"),
    ("icir/query/bridge/1.jpg", "at night", "bridge"),
    ("icir/query/bridge/0.jpg", "in snow", "bridge"),
    ("icir/query/vase/0.jpg", "with flowers", "vase"),
]


def make_icir(root: Path, annotations: str = "", images: str = "") -> Path:
    """Write an i-CIR of two instances and four queries."""
    for name, rows in (("database_files.csv", ICIR_DATABASE), ("query_files.csv", ICIR_QUERIES)):
        path = root / annotations / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(",".join(row) + "\n" for row in rows))
        for image, _, _ in rows:
            write_image(root / images / image.removeprefix("icir/"), image)
    return root


def signature(number: int) -> str:
    """Return the signature of an image."""
    return f"{number:02x}" * 16


def pinpoint_rows() -> list[dict[str, Any]]:
    """Return two wordings of a query of one image, and one of two images; lists as the published file has them."""

    def row(number: int, first: int, second: int | None, right: list[int], wrong: list[int | None]) -> dict[str, Any]:
        return {
            "query_id": f"query_{number:05d}",
            "query_image_signature": signature(first),
            "query_image_signature2": "None" if second is None else signature(second),
            "instruction": f"in words {number}",
            "positive_candidates": [signature(image) for image in right],
            "negative_candidates": [None if image is None else signature(image) for image in wrong],
            "query_category": "Context Fit",
        }

    return [row(1, 0, None, [3, 4, 3], [5, None, 99]), row(2, 0, None, [3, 4], [5]), row(3, 1, 2, [6], [0, 6])]


def make_pinpoint(root: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """Write a PinPoint of three queries and eight images."""
    import pyarrow
    import pyarrow.parquet

    root.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(pinpoint_rows() if rows is None else rows), root / "pinpoint_licensed.parquet"
    )
    (root / "index_signatures.txt").write_text("".join(f"{signature(number)}\n" for number in range(8)))
    for number in range(8):
        name = signature(number)
        write_image(root / "images" / name[:2] / name[2:4] / name[4:6] / f"{name}.jpg", name)
    return root


PATTERNS = {  # image: attribute, value
    "denseresidential001.jpg": ("density", "dense"),
    "denseresidential002.jpg": ("density", "dense"),
    "sparseresidential001.jpg": ("density", "sparse"),
    "sparseresidential002.jpg": ("density", "sparse"),
    "sparseresidential003.jpg": ("density", "very sparse"),
    "christmastreefarm001.jpg": ("density", "dense"),
    "christmastreefarm002.jpg": ("density", "sparse"),
    "harbor001.jpg": ("density", "dense"),
}


def make_patterncom(root: Path, attributes: tuple[str, ...] = ("density",)) -> Path:
    """Write a PatternNet of ten images with the rows of `PATTERNS` for every attribute."""
    names = [*PATTERNS, "beach001.jpg", "beach002.jpg"]
    (root / "PatternCom").mkdir(parents=True)
    for attribute in attributes:
        rows = (f"{image},{attribute},{value}\n" for image, (_, value) in PATTERNS.items())
        (root / "PatternCom" / f"{attribute}.csv").write_text("".join(rows))
    lines = []
    for number, name in enumerate(names):
        label = name.rstrip(".jpg0123456789")
        lines.append(f"images/{label}/{name} {number} {label}\n")
        write_image(root / "images" / label / name, name)
    (root / "patternnet.csv").write_text("".join(lines))
    return root
