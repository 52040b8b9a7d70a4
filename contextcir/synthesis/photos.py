"""The images of a synthesis by name, wherever they are: below a folder, in tar or Parquet shards, or in a store.

The name of an image is what pairs, records and manifests call it: a path below the folder, ``SHARD/MEMBER`` in shards,
a path below the address in a store.
"""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, MissingFileError, printable, shown
from contextcir.files import Inside, leads_out, ordinary_file, stable_hash
from contextcir.images import MOST_BYTES, SUFFIXES, ImageFile, StoredImage
from contextcir.shards.index import Format, ShardIndex
from contextcir.shards.parquet import Parquet
from contextcir.shards.places import StoredFile, find_below, find_files, is_address
from contextcir.shards.tar import Tar

LINKS = "links"  # the setting that lets links lead out of the folder
WORK = "images-list"  # folder of a synthesis for the list of what shards hold


@dataclass
class Listing:
    """The content of a folder.

    ``images``: paths below it, with "/", sorted. ``refused``: names of images that can't be used, and why. ``others``:
    numbers of files that are no images, by suffix.
    """

    folder: str
    images: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Listing":
        """Return the listing of these values."""
        return cls(**{**values, "refused": [(name, reason) for name, reason in values["refused"]]})


def list_images(folder: Path, links: bool = False) -> Listing:
    """Return the images below a folder, recognised by their suffixes; linked folders are followed, each once.

    What is no ordinary file (a pipe, a device, a folder, a broken link), is too large, or is reached by a link that
    leads out of the folder, is refused without being opened.

    Args:
        folder: the folder.
        links: let links lead out of it.

    Raises:
        MissingFileError: if there is no such folder.
        InputError: if it holds no image, or can't be read.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}", setting="images")
    listing, others = Listing(str(folder.resolve())), Counter[str]()
    inside = Inside(folder, links, LINKS)
    visited: set[tuple[int, int]] = set()
    for place, below, files in os.walk(folder, followlinks=True, onerror=_fail):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above would never end
            below.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        below.sort()
        for name in [each for each in below if _leaves(inside, folder, Path(place, each))]:
            below.remove(name)
            path = Path(place, name).relative_to(folder).as_posix()
            listing.refused.append((printable(path), f"leads out of the folder ({LINKS} allows it)"))
        for name in (*files, *(each for each in below if _suffix(each) in SUFFIXES)):
            path = Path(place, name).relative_to(folder).as_posix()
            suffix = _suffix(name)
            if suffix not in SUFFIXES:
                others[suffix if suffix.isprintable() else "?"] += 1
            elif not path.isprintable():
                listing.refused.append((ascii(path)[1:-1], "the name can't be printed"))
            elif reason := _refusal(inside, path):
                listing.refused.append((path, reason))
            else:
                listing.images.append(path)
    return _in_order(listing, others, SUFFIXES, folder)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _leaves(inside: Inside, folder: Path, path: Path) -> bool:
    """Tell whether a folder is a link that leads out."""
    try:
        inside.path(path.relative_to(folder).as_posix())
    except InputError:
        return True
    return False


def _refusal(inside: Inside, path: str) -> str:
    """Return why a file is not opened; '' for an ordinary one."""
    try:
        ordinary_file(inside.path(path), most=MOST_BYTES)
    except InputError as error:
        if error.setting == LINKS:
            return f"leads out of the folder ({LINKS} allows it)"
        return "a broken link" if isinstance(error, MissingFileError) else error.problem
    return ""


def _in_order(listing: Listing, others: Counter[str], endings: Collection[str], place: str | Path) -> Listing:
    """Return a listing in the order of names, with the numbers of other files; raises InputError without any image."""
    listing.images.sort()
    listing.refused.sort()
    if not listing.images:
        raise InputError(f"{_none(listing)} ({', '.join(sorted(endings))})", file=place, setting="images")
    listing.others = dict(sorted(others.items()))
    return listing


def _none(listing: Listing) -> str:
    if not listing.refused:
        return "holds no image"
    name, reason = listing.refused[0]
    return f"holds no image that can be used: {len(listing.refused):,} are refused, the first is {name[:60]}: {reason}"


def _fail(error: OSError) -> None:
    raise InputError(f"can't be read: {error.strerror}", file=error.filename, setting="images") from None


class Photos(ABC):
    """Images by name. `begin` comes first; it lists them, once at each start."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Where they are: what was made of other images is not taken for theirs."""

    def begin(self, folder: Path) -> None:  # noqa: B027  (a folder needs nothing)
        """Get ready to find images by name.

        Args:
            folder: of the synthesis, for a list.

        Raises:
            InputError: if they can't be found.
        """

    @abstractmethod
    def listing(self) -> Listing:
        """Return all of them."""

    @abstractmethod
    def image(self, name: str) -> ImageFile:
        """Return an image, which need not exist.

        Raises:
            MissingFileError: if it is known that there is none of this name.
            InputError: if the name leads out of the place where they are.
        """

    @abstractmethod
    def state(self, name: str) -> tuple[int, int] | None:
        """Return two numbers that change with an image, such as size and time; None for one that is not there."""


class FolderPhotos(Photos):
    """Image files below a folder.

    Args:
        folder: the folder.
        links: let links lead out of it.
    """

    def __init__(self, folder: Path, links: bool = False) -> None:
        self.folder = Path(folder).expanduser()
        self.links = links
        self._inside = Inside(self.folder, links, LINKS)

    @property
    def identity(self) -> str:
        return str(self.folder.resolve())

    def listing(self) -> Listing:
        return list_images(self.folder, self.links)

    def image(self, name: str) -> Path:
        return self._inside.path(name)

    def state(self, name: str) -> tuple[int, int] | None:
        try:
            status = self.image(name).stat()
        except (InputError, OSError, ValueError):
            return None
        return status.st_size, status.st_mtime_ns


class ShardPhotos(Photos):
    """Images in shards, each called by the name of its shard without the suffix, "/", and its name in it.

    Args:
        shards: paths or addresses, with ``*``; or a list of them.
        form: what the shards are.
        index: folder for the list of what they hold; None for one in the folder of the synthesis.
    """

    def __init__(self, shards: str | list[str], form: Format, index: Path | None = None) -> None:
        self.shards = [shards] if isinstance(shards, str) else list(shards)
        self.form = form
        self.index = None if index is None else Path(index).expanduser()
        self._index: ShardIndex | None = None
        if not self.shards:
            raise InputError("expected paths or addresses of shards, got none", setting="images.shards")

    @property
    def identity(self) -> str:
        return " ".join(self.shards)

    def begin(self, folder: Path) -> None:
        """List the shards, and in those that are new or changed their members; see `ShardIndex`."""
        if self._index is None:
            found = dict.fromkeys(each for pattern in self.shards for each in find_files(pattern, "images.shards"))
            files = [StoredFile(each, "images.shards") for each in found]
            made = ShardIndex(self.index or folder / WORK, files, self.form)
            made.prepare()
            self._index = made

    def listing(self) -> Listing:
        return _listed(self.identity, self._ready.names(), self.form)

    def image(self, name: str) -> StoredImage:
        found = self._ready.find(name)
        if found is None:
            raise MissingFileError(f"no image {shown(name)} in the shards", setting="images")
        return _Member(name, self.form, *found)

    def state(self, name: str) -> tuple[int, int] | None:
        found = self._ready.find(name)
        if found is None:
            return None
        file, start, size = found
        return size, stable_hash(f"{file.address} {self._ready.state(file)} {start}") >> 1

    @property
    def _ready(self) -> ShardIndex:
        if self._index is None:
            raise ValueError("begin comes first")
        return self._index


class TarPhotos(ShardPhotos):
    """Images in tar files that are not packed, as WebDataset has them.

    Args:
        shards: Paths or addresses (s3://, gs://, ...), with ``*``; or a list of them.
        index: Folder for the list of what they hold; null for images-list in the folder of the synthesis.
    """

    def __init__(self, shards: list[str] | str, index: Path | None = None) -> None:
        super().__init__(shards, Tar(), index)


class ParquetPhotos(ShardPhotos):
    """Images in a column of Parquet files, as bytes or as Hugging Face's datasets have them.

    A row is read with its row group: sort the pairs by shard where groups are large.

    Args:
        shards: Paths or addresses (s3://, gs://, ...), with ``*``; or a list of them.
        column: Of the images.
        names: Column of their names; null for the number of the row, 000000000.image.
        groups: Row groups that are kept in memory.
        index: Folder for the list of what they hold; null for images-list in the folder of the synthesis.
    """

    def __init__(
        self,
        shards: list[str] | str,
        column: str = "image",
        names: str | None = None,
        groups: int = 4,
        index: Path | None = None,
    ) -> None:
        super().__init__(shards, Parquet(column, names, groups), index)


class StorePhotos(Photos):
    """Images that are objects of a store, each by its path below an address.

    Args:
        address: Of what is above them, such as s3://bucket/photos.
    """

    def __init__(self, address: str) -> None:
        if not is_address(address):
            problem = f"expected an address, such as s3://bucket/photos, got {shown(address)}; a folder is given itself"
            raise InputError(problem, setting="images.address")
        self.address = address.rstrip("/")

    @property
    def identity(self) -> str:
        return self.address

    def listing(self) -> Listing:
        """List the objects, once: a list of millions takes the store minutes."""
        names = find_below(self.address, "images.address")
        return _listed(self.identity, ((name, "") for name in names), None)

    def image(self, name: str) -> StoredImage:
        if leads_out(name):
            raise InputError(f"expected a path below {self.address}, without '..', got {shown(name)}")
        return _Object(name, StoredFile(f"{self.address}/{name}", "images.address"))

    def state(self, name: str) -> tuple[int, int] | None:
        try:
            size, mark = StoredFile(f"{self.address}/{name}", "images.address").state()
        except InputError:
            return None
        return size, stable_hash(mark) >> 1


@dataclass(frozen=True)
class _Member(StoredImage):
    name: str
    form: Format
    file: StoredFile
    start: int
    size: int

    def content(self) -> bytes:
        return self.form.read(self.file, self.start, self.size)

    def head(self, most: int) -> bytes:
        size = min(most, self.size) if isinstance(self.form, Tar) else self.size
        return self.form.read(self.file, self.start, size)


@dataclass(frozen=True)
class _Object(StoredImage):
    name: str
    file: StoredFile

    def content(self) -> bytes:
        return self.file.read_all(MOST_BYTES)

    def head(self, most: int) -> bytes:
        return self.file.read(0, min(most, self.file.state()[0]))


def photos_of(images: Path | Photos, links: bool = False) -> Photos:
    """Return images as such; a path is that of their folder.

    Raises:
        InputError: if the path is an address.
    """
    if isinstance(images, Photos):
        return images
    if is_address(str(images).replace(":/", "://", 1)):
        problem = "an address is no folder: give class_path: StorePhotos with address, or TarPhotos with shards"
        raise InputError(problem, setting="images")
    return FolderPhotos(images, links)


def _listed(place: str, names: Iterable[tuple[str, str]], form: Format | None) -> Listing:
    """Return a listing of what is no folder; rows of Parquet files without names are images."""
    listing, others = Listing(place), Counter[str]()
    endings = SUFFIXES | ({".image"} if isinstance(form, Parquet) else set())
    for name, reason in names:
        suffix = _suffix(name)
        if suffix not in endings:
            others[suffix if suffix.isprintable() else "?"] += 1
        elif not name.isprintable():
            listing.refused.append((ascii(name)[1:-1], "the name can't be printed"))
        elif reason or leads_out(name):
            listing.refused.append((name, reason or "the name leads out of its shard"))
        else:
            listing.images.append(name)
    return _in_order(listing, others, endings, place)
