"""The images of `mining_cases.draw_photos` in tar files, in Parquet files, and in a store in memory."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet

from contextcir.synthesis.photos import ParquetPhotos, Photos, StorePhotos, TarPhotos

KINDS = ("tar", "tar in a store", "parquet", "store")
BUCKET = "memory://bucket"


def write_shards(photos: Path, out: Path) -> Path:
    """Write each folder of images as a tar and a Parquet file: its images have the same names in all of them."""
    out.mkdir()
    for folder in sorted(photos.iterdir()):
        files = sorted(folder.iterdir())
        with tarfile.open(out / f"{folder.name}.tar", "w") as tar:
            for path in files:
                tar.add(path, path.name)
        table = {"image": [path.read_bytes() for path in files], "file": [path.name for path in files]}
        pyarrow.parquet.write_table(pyarrow.table(table), out / f"{folder.name}.parquet", row_group_size=3)
    return out


@contextmanager
def photos_of_kind(kind: str, photos: Path, out: Path) -> Iterator[Photos]:
    """Give the images below a folder in one of the `KINDS`."""
    shards, memory = write_shards(photos, out), fsspec.filesystem("memory")
    memory.put(str(photos), "/bucket/photos", recursive=True)
    memory.put(str(shards), "/bucket/shards", recursive=True)
    made: dict[str, Photos] = {
        "tar": TarPhotos(f"{shards}/*.tar"),
        "tar in a store": TarPhotos(f"{BUCKET}/shards/*.tar"),
        "parquet": ParquetPhotos(f"{shards}/*.parquet", names="file", groups=1),
        "store": StorePhotos(f"{BUCKET}/photos"),
    }
    try:
        yield made[kind]
    finally:
        memory.rm("/bucket", recursive=True)
