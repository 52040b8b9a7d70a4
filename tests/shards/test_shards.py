"""Tar and Parquet shards, here and in a store: every image is read as it was written, whatever else is in the file."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from contextcir.errors import InputError, MissingFileError
from contextcir.shards import places
from contextcir.shards.index import ShardIndex
from contextcir.shards.parquet import Parquet
from contextcir.shards.places import StoredFile, StoreError, find_files
from contextcir.shards.tar import Tar

LONG = "a" * 90 + "/" + "b" * 120 + ".jpg"  # more than an old header holds
CONTENT = {"0.jpg": b"zero", "sub/1.png": b"", LONG: b"x" * 3000, "ü.webp": b"\0\0"}


def tar(content: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for name, each in content.items():
            about = tarfile.TarInfo(name)
            about.size = len(each)
            file.addfile(about, io.BytesIO(each))
    return buffer.getvalue()


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.pipe({"/b/one.tar": tar(CONTENT), "/b/two.tar": tar({"0.jpg": b"other"}, tarfile.GNU_FORMAT)})
    yield system
    system.rm("/b", recursive=True)


def index(folder: Path, pattern: str, form: Tar | Parquet) -> ShardIndex:
    made = ShardIndex(folder, [StoredFile(each) for each in find_files(pattern, "images")], form)
    made.prepare()
    return made


def content(made: ShardIndex, name: str) -> bytes:
    found = made.find(name)
    assert found is not None
    return made.form.read(*found)


@pytest.mark.parametrize("where", ["store", "disk"])
def test_members_of_tar_shards_are_read_by_their_offsets(
    where: str, store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    pattern = "memory://b/*.tar"
    if where == "disk":
        store.get("/b", str(tmp_path / "shards"), recursive=True)
        pattern = f"{tmp_path}/shards/*.tar"
    made = index(tmp_path / "list", pattern, Tar())
    assert {name.partition("/")[2]: content(made, name) for name, _ in made.names() if "one" in name} == CONTENT
    assert content(made, "two/0.jpg") == b"other" and made.find("two/1.jpg") is None and len(made) == 5


def test_a_list_is_made_once_and_again_for_what_changed(
    store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []

    class Counted(Tar):
        def members(self, file):
            listed.append(file.address)
            return super().members(file)

    index(tmp_path, "memory://b/*.tar", Counted())
    index(tmp_path, "memory://b/*.tar", Counted())
    assert sorted(listed) == ["memory:///b/one.tar", "memory:///b/two.tar"]
    store.pipe("/b/two.tar", tar({"new.jpg": b"new"}))
    made = index(tmp_path, "memory://b/*.tar", Counted())
    assert listed[2:] == ["memory:///b/two.tar"] and content(made, "two/new.jpg") == b"new"
    assert made.find("two/0.jpg") is None


def test_links_and_odd_members_are_refused_by_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as file:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("pipe.jpg", tarfile.FIFOTYPE), ("folder", tarfile.DIRTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "/etc/passwd"
            file.addfile(about)
    made = index(tmp_path / "list", f"{tmp_path}/s.tar", Tar())
    assert dict(made.names()) == {
        "s/link.jpg": "a link within a tar file",
        "s/pipe.jpg": "no ordinary file in its tar file",
    }
    assert made.find("s/link.jpg") is None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: whole[:2000], "no whole tar file"),
        (lambda whole: b"not a tar file" * 100, "no whole tar file"),
        (lambda whole: b"\x1f\x8b" + whole, "a packed tar file has no offsets"),
    ],
)
def test_shards_that_can_not_be_read_by_offset_are_told(damage, problem: str, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(damage(tar({"a.jpg": b"y" * 5000})))
    with pytest.raises(InputError, match=problem) as refused:
        index(tmp_path / "list", f"{tmp_path}/s.tar", Tar())
    assert str(tmp_path / "s.tar") in str(refused.value)


def test_shards_of_one_name_and_images_of_one_name_are_told(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.tar").write_bytes(tar({"a.jpg": b""}))
    with pytest.raises(InputError, match="two shards have the name 's'"):
        index(tmp_path / "list", f"{tmp_path}/*/s.tar", Tar())
    with tarfile.open(tmp_path / "a" / "s.tar", "a") as file:
        file.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(InputError, match=r"'a\.jpg' stands twice"):
        index(tmp_path / "list", f"{tmp_path}/a/s.tar", Tar())


def parquet(path: Path, images: list[bytes], **columns: list[str]) -> None:
    column = [{"bytes": each, "path": None} for each in images] if not columns else images
    pyarrow.parquet.write_table(pyarrow.table({"image": column, **columns}), path, row_group_size=2)


def test_images_of_parquet_shards_are_read_by_row_and_by_name(tmp_path: Path) -> None:
    images = [bytes([number]) * 10 for number in range(5)]
    parquet(tmp_path / "rows.parquet", images)
    made = index(tmp_path / "list", f"{tmp_path}/rows.parquet", Parquet(groups=1))
    assert [content(made, name) for name, _ in made.names()] == images
    assert content(made, "rows/000000003.image") == images[3]
    parquet(tmp_path / "named.parquet", images, file=[f"{number}.jpg" for number in range(5)])
    made = index(tmp_path / "list2", f"{tmp_path}/named.parquet", Parquet(names="file"))
    assert content(made, "named/4.jpg") == images[4]
    with pytest.raises(InputError, match="has no column 'img', only image"):
        index(tmp_path / "list3", f"{tmp_path}/rows.parquet", Parquet("img"))
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="no Parquet file"):
        index(tmp_path / "list4", f"{tmp_path}/no.parquet", Parquet())


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("s3://user:word@bucket/*.tar", "without user, password"),
        ("https://host/a.tar?token=word", "without user, password"),
        ("nowhere://bucket/*.tar", "can't be opened"),
        ("memory://none/*.tar", "no file matches"),
        ("/nowhere/*.tar", "no file matches"),
    ],
)
def test_addresses_that_lead_nowhere_are_told_without_their_secrets(address: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as refused:
        find_files(address, "images.shards")
    assert refused.value.setting == "images.shards" and "word" not in refused.value.problem.replace("password", "")


def test_a_store_that_fails_for_a_moment_is_asked_again(
    store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = 2
    read = type(store).cat_file

    def cat_file(self, *args, **more):
        nonlocal failing
        failing -= 1
        if failing >= 0:
            raise TimeoutError("too slow")
        return read(self, *args, **more)

    monkeypatch.setattr(type(store), "cat_file", cat_file)
    monkeypatch.setattr(places, "FIRST", 0.0)
    assert StoredFile("memory://b/two.tar").read(0, 5) == b"0.jpg"
    failing = 10
    with pytest.raises(StoreError, match="can't be read after 4 attempts: TimeoutError too slow"):
        StoredFile("memory://b/two.tar").read(0, 5)


def test_what_is_missing_or_too_short_is_no_failure_of_the_store(store: fsspec.AbstractFileSystem) -> None:
    with pytest.raises(MissingFileError):
        StoredFile("memory://b/three.tar").read(0, 1)
    size, _ = StoredFile("memory://b/two.tar").state()
    with pytest.raises(InputError, match="was it changed"):
        StoredFile("memory://b/two.tar").read(size - 1, 2)
