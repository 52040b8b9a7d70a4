"""The image files of a table: their names stay in the table, and one folder at a time is compared with the disk."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from contextcir.files import Inside
from data_modules.arrow.images import ImageNames, ImageTable
from data_modules.loading.images import ImageStore, as_listed, find_place


class TableImages(ImageStore):
    """An `ImageStore` that holds no name of an image.

    Args:
        root: the folder.
        table: of the images.
        inside: what paths and links must not leave.
    """

    def __init__(self, root: Path, table: ImageTable, inside: Inside) -> None:
        super().__init__(root, {}, inside)
        self.paths: ImageTable = table  # type: ignore[assignment]
        self.names: Sequence[str] = ImageNames(table)  # type: ignore[assignment]
        self._missing: set[tuple[str, str]] | None = None

    def index(self, name: str) -> int:
        """Return the position of ``name`` in ``names``."""
        return self.paths.place(name)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` whose file does not exist; errors as of `ImageStore.missing`."""
        if self._missing is None:
            self._missing = set()
            for folder, files in self.paths.by_folder():
                self._find(folder, files)
                self._missing |= {(folder, file) for file, found in self._found[folder].items() if found is None}
        if not self._missing:
            return []
        return [name for name in names if os.path.split(self.paths[name]) in self._missing]

    def _listed_in(self, folder: str) -> Collection[str]:
        return self.paths.files_in(folder)


def find_table_images(folders: Sequence[Path], table: ImageTable, inside: Inside) -> ImageStore:
    """Return the store of the images of a table, wherever they are; see `data_modules.loading.images.find_images`.

    Where files are not in the listed folders, but in folders with fewer parts, the names are held in memory.
    """
    paths = TablePaths(table)
    folder, rewrite = find_place(folders, paths)
    if rewrite is as_listed:
        return TableImages(folder, table, inside)
    return ImageStore(folder, {name: str(rewrite(PurePosixPath(path))) for name, path in table.items()}, inside)


class TablePaths(ImageNames):
    """The listed paths of the images of a table."""

    def _of(self, place: int) -> str:
        return self.table.path(place)
