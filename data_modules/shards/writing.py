"""Packs the images of a folder into tar shards, and indexes shards that are there, whoever made them."""

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from contextcir.errors import MissingFileError
from contextcir.files import ordinary_file, whole_file, writing
from contextcir.images import MOST_BYTES, SUFFIXES
from contextcir.shards.places import StoredFile
from contextcir.shards.tar import members
from data_modules.shards.index import ABOUT, FORMAT, TABLE, Member, sorted_entries

SETTING = "shards"


def pack_images(images: Path, folder: Path, size: int) -> list[Path]:
    """Write the image files below a folder into shards of about ``size`` bytes, and return these.

    The order is that of the paths, and nothing but paths and contents is kept, so the same images make the same shards.
    A shard that is there is not written again: an interrupted run goes on.

    Raises:
        MissingFileError: if there are no images.
        InputError: if an image can't be read, or a shard can't be written.
    """
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise MissingFileError(f"no images below {images}", setting="images")
    made = []
    for number, chosen in enumerate(_divided(files, size)):
        path = folder / f"images-{number:05}.tar"
        made.append(path)
        if path.exists():
            continue
        with writing(path, SETTING), whole_file(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for image in chosen:
                content = ordinary_file(image, most=MOST_BYTES).read_bytes()
                head = tarfile.TarInfo(image.relative_to(images).as_posix())
                head.size = len(content)
                tar.addfile(head, io.BytesIO(content))
    return made


def _divided(files: Iterable[Path], size: int) -> Iterator[list[Path]]:
    chosen, total = list[Path](), 0
    for file in files:
        chosen.append(file)
        total += file.stat().st_size
        if total >= size:
            yield chosen
            chosen, total = [], 0
    if chosen:
        yield chosen


def index_shards(folder: Path) -> int:
    """Write the index of the tar files of a folder, each of which is read once, and return the number of images.

    Files that are no images by their ending (the captions of WebDataset's shards) are left out.

    Raises:
        MissingFileError: if there are no tar files, or none has an image.
        InputError: if one is compressed, damaged or no tar file.
    """
    shards = sorted(folder.glob("*.tar"))
    images = [member for number, path in enumerate(shards) for member in _members(path, number)]
    if not images:
        raise MissingFileError(f"no images in tar files in {folder}", setting=SETTING)
    entries = sorted_entries(images)
    with writing(folder / TABLE, SETTING), whole_file(folder / TABLE) as file:
        np.save(file, entries)
    about = {
        "format": FORMAT,
        "images": len(entries),
        "shards": [[path.name, path.stat().st_size] for path in shards],
    }
    with writing(folder / ABOUT, SETTING), whole_file(folder / ABOUT) as file:
        file.write(json.dumps(about).encode())
    return len(entries)


def _members(path: Path, number: int) -> Iterator[Member]:
    shard = StoredFile(str(path), SETTING)
    for name, start, size, refusal in members(shard):
        if not refusal and Path(name).suffix.lower() in SUFFIXES:
            yield Member(name, number, start, size, zlib.crc32(shard.read(start, size)))
