"""The images of a benchmark in tar shards, in the place of a store of files."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from contextcir.errors import InputError, MissingFileError
from data_modules.arrow.images import ImageNames, ImageTable
from data_modules.loading.images import REWRITES, ImageStore, label
from data_modules.shards.reading import SETTING, Shards

if TYPE_CHECKING:
    from PIL import Image


class ShardedImages(ImageStore):
    """Named images in tar shards, whose paths there are the listed ones, without folders or without the first ones.

    There are no files to show later: `file` returns the address of an image, ``FOLDER/SHARD/PATH``.

    Args:
        shards: where the images are.
        paths: listed path of every image by name.

    Raises:
        MissingFileError: if none of three listed images is there.
        InputError: if the shards can't be read.
    """

    def __init__(self, shards: Shards, paths: Mapping[str, str]) -> None:
        table = isinstance(paths, ImageTable)
        super().__init__("", {} if table else paths)
        if table:  # whose names are not held in memory
            self.paths, self.names = paths, ImageNames(paths)  # type: ignore[assignment,arg-type]
        self.shards = shards
        ends = (0, len(self.names) // 2, len(self.names) - 1) if self.names else ()
        probes = [PurePosixPath(self.paths[self.names[place]]) for place in ends]
        counts = [sum(shards.has(str(rewrite(path))) for path in probes) for rewrite in REWRITES]
        if probes and not max(counts):
            problem = f"no image {label(str(probes[0]))} in the shards of {shards.at} (also without its folders)"
            raise MissingFileError(problem, setting=SETTING)
        self.rewrite = REWRITES[counts.index(max(counts))]

    def index(self, name: str) -> int:
        """Return the position of ``name`` in ``names``."""
        return self.paths.place(name) if isinstance(self.paths, ImageTable) else super().index(name)

    def member(self, name: str) -> str:
        """Return the path of an image in its shard."""
        return str(self.rewrite(PurePosixPath(self.paths[name])))

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` that are in no shard."""
        return [name for name in names if not self.shards.has(self.member(name))]

    def states(self, names: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return size in bytes and checksum of each image, None where there is none."""
        return [self.shards.state(self.member(name)) for name in names]

    def file(self, name: str) -> Path:
        """Return the address of an image."""
        return self.found(name)

    def found(self, name: str) -> Path:
        """Return the same as `file`."""
        return Path(self.shards.where(self.member(name)))

    def complaint(self, name: str) -> str:
        """Return why an image is not there."""
        return f"no image {label(self.member(name))} in the shards of {self.shards.at}"

    def load(self, name: str, purpose: str = "") -> "Image.Image":
        """Return the image as `ImageStore.load` does, with the same errors."""
        from contextcir.images import decode_image  # here, so that whoever only lists images starts without it

        reason = f" ({purpose})" if purpose else ""
        try:
            return decode_image(self.shards.read(self.member(name)), upright=False)
        except MissingFileError as error:
            raise MissingFileError(f"image {label(name)}: {error.problem}{reason}") from None
        except InputError as error:
            problem = f"image {label(name)}: {self.file(name)} is {error.without_setting()}{reason}"
            raise InputError(problem) from None

    def size(self, name: str, purpose: str = "") -> tuple[int, int]:
        """Return width and height of the image, of which only the head is decoded; see `load`."""
        from contextcir.images import open_image  # as above

        try:
            with open_image(self.shards.read(self.member(name))) as image:
                return image.size
        except InputError:
            return self.load(name, purpose).size  # raises an error that names the problem
