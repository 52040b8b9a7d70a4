"""Hostile zips end in one line, and nothing is unpacked."""

import json
import stat
import zipfile
from pathlib import Path

import pytest

from contextcir.errors import InputError
from experiments.bundle import archive
from experiments.bundle.__main__ import main
from experiments.bundle.archive import HEAD, read_archive, write_archive


def packed(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_archive(path)
    return str(error.value)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files = {HEAD: b"{}", "ranks/val.json": b"[1]", "config.yaml": b"a: 1\n"}
    write_archive(tmp_path / "a.zip", files)
    assert read_archive(tmp_path / "a.zip") == files


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/passwd", "ranks/../../x.json", "ranks/a/b.json", "C:\\x.json", "ranks/.json", "x.py"]
)
def test_names_of_other_places_are_refused(name: str, tmp_path: Path) -> None:
    assert "unknown name" in refused(packed(tmp_path / "a.zip", (HEAD, b"{}"), (name, b"1")))


def test_doubled_names_links_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = packed(tmp_path / "a.zip", (HEAD, b"{}"), (HEAD, b"[]"))
    assert "stands in it twice" in refused(twice)
    link = zipfile.ZipInfo("ranks/val.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "is a link" in refused(packed(tmp_path / "b.zip", (HEAD, b"{}"), (link, b"/etc/passwd")))


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_UNPACKED", 1_000_000)
    bomb = packed(tmp_path / "a.zip", (HEAD, b"0" * 50_000_000))
    assert bomb.stat().st_size < 100_000 and "expected at most 1,000,000" in refused(bomb)
    many = packed(tmp_path / "b.zip", *((f"ranks/s{n}.json", b"1") for n in range(archive.MOST_FILES + 1)))
    assert "201 files" in refused(many)
    monkeypatch.setattr(archive, "MOST_PACKED", 100)
    assert "expected at most 100 bytes" in refused(bomb)


def test_a_size_that_lies_is_found(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", (HEAD, b"0" * 5000))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # the two places of the unpacked size
        at = content.index(signature) + offset
        content[at : at + 4] = (7).to_bytes(4, "little")
    path.write_bytes(content)
    assert "is no bundle" in refused(path) or "more than it says" in refused(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"PK\x05\x06" + b"\0" * 18])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    assert "no bundle" in refused(tmp_path / "a.zip")


@pytest.mark.parametrize(
    "head",
    [b"[]", b"{}", b"{", b"\xff", b'{"format": 1, "format": 1}', b'{"format": 2}', b"[" * 100_000,
     json.dumps({"format": 1, "files": {}, "digests": {}, "results": {"a": 1}}).encode(),
     json.dumps({"format": 1, "files": [], "digests": 0, "results": {}}).encode(),
     json.dumps({"format": 1, "files": {}, "digests": {}, "results": {"a": {"b": {"rows": {"c": 3}}}}}).encode()],
)  # fmt: skip
def test_a_head_of_another_kind_is_one_line(head: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed(tmp_path / "a.zip", (HEAD, head))
    with pytest.raises(SystemExit) as end:
        main(["verify", str(tmp_path / "a.zip")])
    told = capsys.readouterr().err
    assert end.value.code == 1 and told.startswith("error: ") and told.count("\n") == 1 and "unexpected" not in told
