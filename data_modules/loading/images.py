"""Images by name: where they are, and how they are read."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from contextcir.errors import InputError, MissingFileError, printable
from contextcir.files import Inside, leads_out, ordinary_file
from data_modules.loading.folders import entries_of, is_file, spellings, split_ending, stand_ins

if TYPE_CHECKING:
    from PIL import Image

Rewrite = Callable[[PurePosixPath], PurePosixPath]


class ImagePlace(NamedTuple):
    """The file of an image; ``box``: left, top, width and height of the object that it is a crop of, None for all."""

    file: Path
    box: tuple[float, float, float, float] | None = None


class ImageStore:
    """Named image files below one folder. No file is touched before it is loaded.

    A file may have another ending than its listed path (`stand_ins`). To find such files, or missing ones, folders are
    listed, each once; files that are where they are listed need no listing to be loaded.

    Args:
        root: the folder.
        paths: path below ``root`` of every image, by name; their order is that of ``names``.
        inside: what paths and links must not leave; None for the folder itself.
    """

    def __init__(self, root: str | Path, paths: Mapping[str, str], inside: Inside | None = None) -> None:
        self.root = Path(root)
        self.paths = dict(paths)
        self.names = tuple(self.paths)
        self.inside = Inside(self.root, setting="data.allow_links") if inside is None else inside
        self._index = {name: index for index, name in enumerate(self.names)}
        self._listed: dict[str, dict[str, None]] = {}  # file names by folder
        self._found: dict[str, dict[str, str | None]] = {}  # by folder: what stands for files that are not there

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the position of ``name`` in ``names``."""
        return self._index[name]

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` whose file does not exist; a folder is listed once, whatever it holds.

        Raises:
            InputError: if a path or a link leads out of the folder, or a folder can't be read.
        """
        places = [self._place(name) for name in names]
        for folder in dict.fromkeys(folder for folder, _ in places):
            if folder not in self._found:
                self._list(folder)
        return [
            name
            for name, (folder, file) in zip(names, places, strict=True)
            if self._found[folder].get(file, file) is None
        ]

    def states(self, names: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return size in bytes and mtime in nanoseconds of each file, None where there is none; errors as above."""
        states: dict[tuple[str, str], tuple[int, int]] = {}
        places = [self._place(name) for name in names]
        wanted: dict[str, set[str]] = {}
        for folder, file in places:
            wanted.setdefault(folder, set()).add(file)
        for folder, files in wanted.items():
            entries = self._list(folder)  # anew: files may have changed
            for file in files:
                entry = entries.get(self._found[folder].get(file, file) or "")
                if entry is not None:
                    status = entry.stat()
                    states[folder, file] = (status.st_size, status.st_mtime_ns)
        return [states.get(place) for place in places]

    def file(self, name: str) -> Path:
        """Return the path of the file of an image; if there is none, the listed one.

        Raises:
            InputError: if it leads out of the folder.
        """
        path = self.found(name)
        self._check(path, name)
        return path

    def found(self, name: str) -> Path:
        """Return the same path as `file`, without following links."""
        folder, file = self._place(name)
        if folder not in self._found and not os.path.lexists(self.root / folder / file):
            self._list(folder)
        return self.root / folder / (self._found.get(folder, {}).get(file) or file)

    def place(self, name: str) -> "ImagePlace":
        """Return where an image lies, for whoever wants to show it later."""
        return ImagePlace(self.file(name))

    def complaint(self, name: str) -> str:
        """Return why there is no file of an image."""
        try:
            ordinary_file(self.file(name))
        except MissingFileError as error:
            return error.problem
        except InputError as error:
            return error.without_setting()
        return f"no file {self.root / self.paths[name]}"  # there is one by now

    def load(self, name: str, purpose: str = "") -> "Image.Image":
        """Return the image, fully decoded, as RGB: no alpha, no EXIF rotation, as all published code reads it.

        Args:
            name: which image.
            purpose: what it is needed for, put in brackets behind an error message.

        Raises:
            MissingFileError: if the file does not exist.
            InputError: if it can't be read to its end as an image.
        """
        from contextcir.images import read_image  # here, so that whoever only lists images starts without it

        path, reason_for = self.file(name), f" ({purpose})" if purpose else ""
        try:
            return read_image(path, upright=False)
        except MissingFileError as error:
            raise MissingFileError(f"image {label(name)}: {error.problem}{reason_for}") from None
        except InputError as error:
            verb = " is" if error.problem.startswith("damaged") else ":"
            raise InputError(f"image {label(name)}: {path}{verb} {error.problem}{reason_for}") from None

    def size_of(self, name: str, loaded: "Image.Image") -> tuple[int, int]:
        """Return width and height of the image that was just loaded: those that boxes of its record refer to."""
        return loaded.size

    def size(self, name: str, purpose: str = "") -> tuple[int, int]:
        """Return width and height of the image; of the file, only the head is read. See `load`."""
        from PIL import Image  # as above

        from contextcir.images import FORMATS

        try:
            with Image.open(ordinary_file(self.file(name)), formats=FORMATS) as image:
                return image.size
        except (OSError, ValueError, Image.DecompressionBombError):
            return self.load(name, purpose).size  # raises an error that names the problem

    def _place(self, name: str) -> tuple[str, str]:
        path = self.paths[name]
        if leads_out(path):
            problem = f"image {label(name)}: expected a path below {self.root}, without '..', got {label(path)}"
            raise InputError(problem)
        return os.path.split(path)

    def _list(self, folder: str) -> dict[str, os.DirEntry[str]]:
        """Find the files of a folder that are needed, and return the entries of all of its files.

        Raises:
            InputError: if a link leads out, or the folder can't be read.
        """
        return self._find(folder, self._listed_in(folder))

    def _listed_in(self, folder: str) -> Collection[str]:
        """Return the names of the files that are listed in a folder."""
        if not self._listed:
            for path in self.paths.values():
                place, file = os.path.split(path)
                self._listed.setdefault(place, {})[file] = None
        return self._listed[folder]

    def _find(self, folder: str, listed: Collection[str]) -> dict[str, os.DirEntry[str]]:
        """Find these files of a folder, as `_list` does."""
        entries = {entry.name: entry for entry in entries_of(self.root / folder)}
        if not self.inside.links and entries:
            self.inside.check(self.root / folder / "any", str(self.root / folder), linked=False)
            for file in listed:
                if file in entries and entries[file].is_symlink():
                    self._check(self.root / folder / file, file, linked=True)
        entries = {name: entry for name, entry in entries.items() if is_file(entry)}
        self._found[folder] = stand_ins(listed, entries)
        for file in filter(None, self._found[folder].values()):
            self._check(self.root / folder / file, file, linked=entries[file].is_symlink())
        return entries

    def _check(self, path: Path, name: str, linked: bool | None = None) -> None:
        try:
            self.inside.check(path, name, linked)
        except InputError as error:
            raise InputError(f"image {error.problem}", setting=error.setting) from None


def label(name: str) -> str:
    """Return the name of an image for a message: on one line, and cut if it is very long."""
    name = printable(name)
    return name if len(name) <= 80 else f"{name[:77]}..."


def find_images(folders: Sequence[Path], paths: Mapping[str, str], inside: Inside | None = None) -> ImageStore:
    """Return the store of the images that ``paths`` lists, wherever and however a user has unpacked them.

    Tries the folders in turn, each with the listed path, with all sub-folders below the first left out, and with the
    file name alone; endings may differ. Three files are probed, and sixty only where all three are missing.

    Args:
        folders: where the images may be.
        paths: listed path of every image, by name.
        inside: what paths and links must not leave; None for the folder in which they are found.

    Raises:
        MissingFileError: if none of them is found in any folder; the message lists what was tried.
        InputError: if a path leads out of the folders.
    """
    for name, path in paths.items():
        if leads_out(path):
            problem = f"image {label(name)}: expected a path below {folders[0]}, without '..', got {label(path)}"
            raise InputError(problem)
    listed = list(paths.values())
    folder, rewrite = find_place(folders, listed)
    return ImageStore(folder, {name: str(rewrite(PurePosixPath(path))) for name, path in paths.items()}, inside)


def find_place(folders: Sequence[Path], listed: Sequence[str]) -> tuple[Path, Rewrite]:
    """Return the folder in which listed paths are found, and what makes of each the path there; see `find_images`."""
    places = [(folder, rewrite) for folder in folders for rewrite in REWRITES]
    best, most = places[0], 0
    known: dict[Path, set[str]] = {}  # by folder
    for wanted in (3, 60):
        probes = [listed[place * (len(listed) - 1) // (wanted - 1)] for place in range(wanted)] if listed else []
        for folder, rewrite in places:
            count = sum(_is_found(folder / rewrite(PurePosixPath(probe)), known) for probe in probes)
            if count > most:
                best, most = (folder, rewrite), count
            if count == wanted:
                break
        if most:
            break
    if listed and not most:
        tried = ", ".join(str(folder) for folder in folders)
        raise MissingFileError(
            f"no images: looked for {label(str(PurePosixPath(listed[0])))} (also without sub-folders, and with other "
            f"endings) in {tried}; expected the folder that holds annotations and images",
            setting="data.root",
        )
    return best


def _is_found(path: Path, known: dict[Path, set[str]]) -> bool:
    """Return whether there is a file, or one that may stand for it; ``known`` keeps the names in a folder."""
    if os.path.isfile(path):
        return True
    if path.parent not in known:
        try:
            parts = [split_ending(entry.name) for entry in entries_of(path.parent)]
        except InputError:  # the store will say why, if the images are in this folder
            parts = []
        known[path.parent] = {stem for stem, ending in parts if ending}
    return any(stem in known[path.parent] for stem in spellings(split_ending(path.name)[0]))


def _in_first_folder(path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(path.parts[0], path.name) if len(path.parts) > 1 else path


def as_listed(path: PurePosixPath) -> PurePosixPath:
    """Return the listed path itself."""
    return path


REWRITES: tuple[Rewrite, ...] = (as_listed, _in_first_folder, lambda path: PurePosixPath(path.name))
