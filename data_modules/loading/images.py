"""Images by name: where they are, and how they are read."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from contextcir.errors import InputError, MissingFileError

Rewrite = Callable[[PurePosixPath], PurePosixPath]


class ImageStore:
    """Named image files below one folder. No file is touched before it is loaded.

    Args:
        root: the folder.
        paths: path below ``root`` of every image, by name; their order is that of ``names``.
    """

    def __init__(self, root: str | Path, paths: Mapping[str, str]) -> None:
        self.root = Path(root)
        self.paths = dict(paths)
        self.names = tuple(self.paths)
        self._index = {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the position of ``name`` in ``names``."""
        return self._index[name]

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` whose file does not exist; a folder is listed once, whatever it holds."""
        places = [os.path.split(self.paths[name]) for name in names]
        present = {
            folder: {entry.name for entry in entries if entry.is_file()}
            for folder, entries in self._listings({folder for folder, _ in places})
        }
        return [name for name, (folder, file) in zip(names, places, strict=True) if file not in present[folder]]

    def states(self, names: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return size in bytes and mtime in nanoseconds of each file, None where there is none."""
        wanted: dict[str, set[str]] = {}
        for name in names:
            folder, file = os.path.split(self.paths[name])
            wanted.setdefault(folder, set()).add(file)
        states = {}
        for folder, entries in self._listings(wanted):
            for entry in entries:
                if entry.name in wanted[folder] and entry.is_file():
                    status = entry.stat()
                    states[folder, entry.name] = (status.st_size, status.st_mtime_ns)
        return [states.get(os.path.split(self.paths[name])) for name in names]

    def _listings(self, folders: Iterable[str]) -> Iterator[tuple[str, Iterable[os.DirEntry[str]]]]:
        for folder in folders:
            try:
                with os.scandir(self.root / folder) as entries:
                    yield folder, entries
            except (FileNotFoundError, NotADirectoryError):
                yield folder, ()

    def load(self, name: str, purpose: str = "") -> Image.Image:
        """Return the image, fully decoded, as RGB: no alpha, no EXIF rotation, as all published code reads it.

        Args:
            name: which image.
            purpose: what it is needed for, put in brackets behind an error message.

        Raises:
            MissingFileError: if the file does not exist.
            InputError: if it can't be read to its end as an image.
        """
        path = self.root / self.paths[name]
        reason_for = f" ({purpose})" if purpose else ""
        try:
            with Image.open(path) as image:
                return to_rgb(image)
        except FileNotFoundError:
            raise MissingFileError(f"image {name}: no file {path}{reason_for}") from None
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            size = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
            reason = " ".join(str(error).replace(repr(str(path)), "it").split())
            problem = f"image {name}: {path} is damaged or no image ({size}; {reason}){reason_for}"
            raise InputError(problem) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` decoded to its end, as 8-bit RGB."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit greys to white
        import numpy as np  # here, so that whoever only lists images starts without it

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def find_images(folders: Sequence[Path], paths: Mapping[str, str]) -> ImageStore:
    """Return the store of the images that ``paths`` lists, wherever and however a user has unpacked them.

    Tries the folders in turn, each with the listed path, with all sub-folders below the first left out, and with the
    file name alone; and each of these with the listed extension, ``.png`` and ``.jpg``. Three files are probed, and
    sixty only where all three are missing.

    Raises:
        MissingFileError: if none of them is found in any folder; the message lists what was tried.
    """
    listed = [PurePosixPath(path) for path in paths.values()]
    places = [(folder, rewrite) for folder in folders for rewrite in REWRITES]
    best, most = places[0], 0
    for wanted in (3, 60):
        probes = [listed[place * (len(listed) - 1) // (wanted - 1)] for place in range(wanted)]
        for folder, rewrite in places:
            count = sum((folder / rewrite(probe)).is_file() for probe in probes)
            if count > most:
                best, most = (folder, rewrite), count
            if count == wanted:
                break
        if most:
            break
    if not most:
        tried = ", ".join(str(folder) for folder in folders)
        raise MissingFileError(
            f"no images: looked for {listed[0]} (also without sub-folders, and as .png and .jpg) in {tried}; "
            "expected the folder that holds annotations and images",
            setting="data.root",
        )
    folder, rewrite = best
    return ImageStore(folder, {name: str(rewrite(path)) for name, path in zip(paths, listed, strict=True)})


def _in_first_folder(path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(path.parts[0], path.name) if len(path.parts) > 1 else path


def _with_suffix(suffix: str, rewrite: Rewrite) -> Rewrite:
    return lambda path: rewrite(path).with_suffix(suffix)


FOLDERS: tuple[Rewrite, ...] = (lambda path: path, _in_first_folder, lambda path: PurePosixPath(path.name))
REWRITES: tuple[Rewrite, ...] = (
    *FOLDERS,
    *(_with_suffix(suffix, rewrite) for suffix in (".png", ".jpg") for rewrite in FOLDERS),
)
