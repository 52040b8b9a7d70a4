"""Images in tar shards, in a folder and on a store: the images of files, and the same cache in front of them."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from contextcir.errors import InputError, MissingFileError
from data_modules import CIRR, Manifest, Mixture, Shuffled
from data_modules.loading.images import ImageStore
from data_modules.shards.index import Member, find, sorted_entries
from data_modules.shards.reading import Shards
from data_modules.shards.store import ShardedImages
from data_modules.shards.writing import index_shards, pack_images
from experiments.shards import shards as shards_command
from tests.data.test_pixel_cache import clip_preprocess
from tests.data.test_record_tables import entries, module, same, write_lines
from tests.helpers.make_data import make_cirr, preprocess, write_image
from tests.helpers.make_mixture import make_sets


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(9):
        write_image(tmp_path / "images" / f"{number % 2}/{number}{('.png', '.JPG')[number % 2]}", f"{number}")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def packed(images: Path, folder: Path, size: int = 300) -> Path:
    folder.mkdir(exist_ok=True)
    assert len(pack_images(images, folder, size)) > 1
    index_shards(folder)
    return folder


def on_a_store(folder: Path, address: str) -> str:
    """Copy a folder to a store of fsspec, and return its address."""
    fsspec = pytest.importorskip("fsspec")
    for path in folder.iterdir():
        with fsspec.open(f"{address}/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    return address


def places(folder: Path, tmp_path: Path) -> list[str]:
    local = f"file://{tmp_path}/copy"
    (tmp_path / "copy").mkdir()
    return [str(folder), on_a_store(folder, f"memory://{tmp_path.name}/shards"), on_a_store(folder, local)]


def test_images_are_those_of_the_files_wherever_the_shards_are(tmp_path: Path, images: Path) -> None:
    listed = {path.name: path.relative_to(images).as_posix() for path in sorted(images.glob("*/*"))}
    files = ImageStore(images, listed)
    for place in places(packed(images, tmp_path / "shards"), tmp_path):
        for store in (
            ShardedImages(Shards(place), listed),
            pickle.loads(pickle.dumps(ShardedImages(Shards(place), listed))),
        ):
            assert store.names == files.names and not store.missing(store.names)
            for name in store.names:
                assert not ImageChops.difference(store.load(name), files.load(name)).getbbox()
                assert store.size(name) == files.size(name) and store.index(name) == files.index(name)
                assert store.states([name])[0][0] == files.states([name])[0][0]
                assert str(store.file(name)).endswith(f".tar/{listed[name]}")
            more = ShardedImages(Shards(place), listed | {"x": "0/x.png"})
            assert more.missing(["x", *listed]) == ["x"] and more.states(["x"]) == [None]
            with pytest.raises(
                MissingFileError, match=r"image x: no image '0/x.png' in the shards of .* \(reference\)"
            ):
                more.load("x", "reference")


@pytest.mark.parametrize("rewritten", ["deep/down/{}", "{}"])
def test_folders_that_shards_lack_are_left_out(tmp_path: Path, images: Path, rewritten: str) -> None:
    folder = packed(images / "0", tmp_path / "shards", 100)
    store = ShardedImages(Shards(folder), {"a": rewritten.format("0.png"), "b": rewritten.format("2.png")})
    assert store.load("b").size == (40, 30) and not store.missing(["a", "b"])
    with pytest.raises(MissingFileError, match=r"no image deep/9.png in the shards of .*\(data.shards\)"):
        ShardedImages(Shards(folder), {"a": "deep/9.png"})


def test_training_and_evaluation_are_those_of_files_with_the_cache_in_front(tmp_path: Path, monkeypatch) -> None:
    root = make_cirr(tmp_path / "cirr", hidden=())
    folder = packed(root / "img_raw", tmp_path / "shards", 2000)
    address = on_a_store(folder, f"memory://{tmp_path.name}")
    options = {"batch_size": 2, "eval_batch_size": 4, "num_workers": 0, "order": Shuffled(0), "test_splits": ()}
    options |= {"preprocess": clip_preprocess()}
    reads = []
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, path: reads.append(path) or read(self, path))
    for cache in (None, str(tmp_path / "kept")):
        old, new = CIRR(root, cache=cache, **options), CIRR(root, cache=cache, shards=address, **options)
        for data in (old, new):
            data.setup("fit")
        for one, other in zip(old.train_dataloader(), new.train_dataloader(), strict=True):
            same(one, other)
        for one, other in zip(old.val_dataloader(), new.val_dataloader(), strict=True):
            for before, after in zip(one, other, strict=True):
                field = "image" if hasattr(before, "image") else "reference"
                assert torch.equal(getattr(before, field), getattr(after, field))
    before = len(reads)
    assert len(list(new.train_dataloader())) and len(reads) == before, "what the cache has is not read again"


def test_a_mixture_reads_the_shards_of_its_sets(tmp_path: Path) -> None:
    folders = make_sets(tmp_path)
    own = Manifest(folders["own"], name="own", shards=str(packed(folders["own"], tmp_path / "own_shards")))
    cirr = CIRR(folders["cirr"])
    shards = str(packed(folders["cirr"] / "img_raw", tmp_path / "shards", 2000))
    options = {"batch_size": 4, "num_workers": 0, "preprocess": preprocess, "order": Shuffled(0)}
    new = Mixture([cirr, own], shards=shards, **options)
    old = Mixture([CIRR(folders["cirr"]), Manifest(folders["own"], name="own")], **options)
    for one, other in zip(old.train_dataloader(), new.train_dataloader(), strict=True):
        same(one, other)


def test_a_table_of_records_and_shards_need_no_names_in_memory(tmp_path: Path) -> None:
    root = write_lines(tmp_path / "set", entries(20))
    folder = packed(root, tmp_path / "shards")
    pytest.importorskip("pyarrow")
    data = module(root, tmp_path / "kept", shards=str(folder), num_workers=2)
    for one, other in zip(module(root, None).train_dataloader(), data.train_dataloader(), strict=True):
        same(one, other)
    assert not data._stores[None]._index


def test_shards_of_others_are_indexed_as_they_are(tmp_path: Path) -> None:
    """WebDataset's: images beside their captions, names with ./ before them; of two of one name the last counts."""
    content = {}
    with tarfile.open(tmp_path / "00.tar", "w") as tar:
        for name, colour in (("./a/1.png", 10), ("a/1.txt", None), ("a/2.png", 20), ("./a/1.png", 30)):
            buffer = io.BytesIO(b"text")
            if colour is not None:
                buffer = io.BytesIO()
                Image.new("RGB", (5, 5), (colour, 0, 0)).save(buffer, "png")
            content[name.removeprefix("./")] = colour
            head = tarfile.TarInfo(name)
            head.size = len(buffer.getvalue())
            tar.addfile(head, io.BytesIO(buffer.getvalue()))
    assert index_shards(tmp_path) == 2
    store = ShardedImages(Shards(tmp_path), {"one": "a/1.png", "two": "a/2.png"})
    assert [store.load(name).getpixel((0, 0))[0] for name in ("one", "two")] == [30, 20]


def test_the_same_images_make_the_same_shards_and_a_run_goes_on(tmp_path: Path, images: Path) -> None:
    first, second = packed(images, tmp_path / "a"), packed(images, tmp_path / "b")
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    assert before == {path.name: path.read_bytes() for path in second.iterdir()}
    shard = sorted(second.glob("*.tar"))[1]
    shard.unlink()
    (second / "index.json").unlink()
    kept = sorted(second.glob("*.tar"))[0].stat().st_mtime_ns
    packed(images, second)
    assert before == {path.name: path.read_bytes() for path in second.iterdir()}
    assert sorted(second.glob("*.tar"))[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("byte", "has changed since it was indexed .the bytes of .* are others"),
        ("cut", "has changed since it was indexed .expected .* bytes, found"),
        ("gone", "no (file|object) .*images-00000.tar"),
        ("about", "is no index of tar shards; index them again"),
        ("table", "is no index of tar shards"),
        ("none", "no (file|object) .*index.json; index them again: `python -m experiments.shards"),
    ],
)
def test_what_has_changed_is_told(tmp_path: Path, images: Path, damage: str, message: str) -> None:
    folder = packed(images, tmp_path / "shards")
    shard = folder / "images-00000.tar"
    content = shard.read_bytes()
    if damage == "byte":
        shard.write_bytes(content[:600] + bytes([content[600] ^ 1]) + content[601:])
    elif damage == "cut":
        shard.write_bytes(content[:-1024])
    elif damage == "gone":
        shard.unlink()
    elif damage == "table":
        np.save(folder / "index.npy", np.zeros(3))
    elif damage == "about":
        (folder / "index.json").write_text("[1]")
    else:
        (folder / "index.json").unlink()
    for place in places(folder, tmp_path):
        with pytest.raises(InputError, match=message):
            store = ShardedImages(Shards(place), {"a": "0/0.png"})
            store.load("a")


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(names, max_size=30, unique=True), names)
def test_an_index_finds_what_it_has_and_nothing_else(paths: list[str], other: str) -> None:
    members = [Member(path, n, 512 * n, n + 1, n) for n, path in enumerate(paths)]
    found = sorted_entries(members)
    for member in members:
        entry = find(found, member.path)
        assert (entry["shard"], entry["offset"], entry["size"]) == member[1:4]
    assert other in paths or find(found, other) is None


@pytest.mark.parametrize("given", ["", " ", 3])
def test_an_address_that_is_none_is_refused(given: object) -> None:
    with pytest.raises(InputError, match=r"expected null, a folder or an address, got .*\(data.shards\)"):
        Manifest("x", shards=given)


def test_a_store_that_is_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'nosuch://x/index.json' can't be opened: .*nosuch.*\(data.shards\)"):
        Shards("nosuch://x").has("a")


def test_the_command_packs_and_indexes(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards_command(tmp_path / "out", images, size=0.0003)
    said = capsys.readouterr().out
    assert "9 images in" in said and "shards" in said
    data = Manifest(tmp_path, shards=str(tmp_path / "out"), preprocess=preprocess)
    assert data.reader.shards.has("0/0.png")
    shards_command(tmp_path / "out")
    assert "9 images in" in capsys.readouterr().out
    (tmp_path / "out" / "bad.tar").write_bytes(b"x" * 700)
    with pytest.raises(InputError, match=r"bad.tar: no whole tar file: .*\(shards\)"):
        shards_command(tmp_path / "out")
    with pytest.raises(InputError, match=r"no images below .*\(images\)"):
        shards_command(tmp_path / "other", tmp_path / "nowhere")
