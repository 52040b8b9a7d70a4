"""Tar files as shards of images: where each member lies, so that it can be read alone by its offset."""

import tarfile
from collections.abc import Iterator

from contextcir.errors import InputError
from contextcir.images import MOST_BYTES
from contextcir.shards.index import Format, Member
from contextcir.shards.places import StoredFile

PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"(\xb5/\xfd")  # gzip, bzip2, xz, zstd


def members(file: StoredFile) -> Iterator[Member]:
    """Yield the members of a tar file in its order, with the byte where the content of each begins.

    Their heads alone are read where the file can be sought in; of a store, its client reads blocks.

    Raises:
        InputError: if it is no tar file, is cut off, or is packed, so that nothing in it has an offset.
        StoreError: if its store does not answer.
    """
    with file.open() as opened:
        head = opened.read(8)
        if head.startswith(PACKED):
            problem = "a packed tar file has no offsets: unpack it (gunzip, zstd -d), images are packed already"
            raise InputError(problem, file=file.address, setting=file.setting)
        opened.seek(0)
        try:
            with tarfile.open(fileobj=opened, mode="r:") as tar:
                while (entry := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                    if not entry.isdir():
                        yield Member(entry.name.removeprefix("./"), entry.offset_data, entry.size, _refusal(entry))
        except tarfile.TarError as error:
            raise InputError(f"no whole tar file: {error}", file=file.address, setting=file.setting) from None


def _refusal(entry: tarfile.TarInfo) -> str:
    """Return why a member is no file of its own; '' for one that is."""
    if entry.issym() or entry.islnk():
        return "a link within a tar file"
    if not entry.isreg() or entry.issparse():
        return "no ordinary file in its tar file"
    return f"{entry.size:,} bytes, expected at most {MOST_BYTES:,}" if entry.size > MOST_BYTES else ""


class Tar(Format):
    """Tar files that are not packed."""

    suffix = ".tar"
    identity = "tar"

    def members(self, file: StoredFile) -> Iterator[Member]:
        """Yield the members of a file; see `members`."""
        return members(file)

    def read(self, file: StoredFile, start: int, size: int) -> bytes:
        """Return ``size`` bytes from the byte ``start`` on."""
        return file.read(start, size)
