"""The images of a folder: all found, in one order, and those that can't be read named with the reason."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextcir.synthesis.mining.store import EmbeddingStore, Loading
from contextcir.synthesis.photos import list_images
from tests.helpers.mining_cases import PixelEncoder, draw_photos


def store(folder: Path, images: Path, **loading: int) -> EmbeddingStore:
    return EmbeddingStore(folder / "work", images, PixelEncoder(), Loading(**{"workers": 0, **loading}))


def test_images_are_listed_by_path_and_other_files_counted(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/10.jpeg", "a.png", "b/notes.txt", "b/more.txt", "c", ".hidden.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "two\nlines.png").write_bytes(b"x")
    listing = list_images(tmp_path)
    assert listing.images == [".hidden.webp", "a.png", "b/10.jpeg", "b/2.JPG"]
    assert listing.others == {"": 1, ".txt": 2}
    assert listing.refused == [("two\\nlines.png", "the name can't be printed")]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    draw_photos(tmp_path / "elsewhere", kinds=1, each=1)
    (tmp_path / "photos").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "linked")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "round")
    assert list_images(tmp_path / "photos", links=True).images == ["linked/kind0/0.png"]
    (tmp_path / "photos" / "own.png").write_bytes(b"x")
    listing = list_images(tmp_path / "photos")
    assert listing.images == ["own.png"]
    assert listing.refused == [("linked", "leads out of the folder (links allows it)")]


def test_no_folder_and_no_image_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .* \(images\)"):
        list_images(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no image .* \(images\)"):
        list_images(tmp_path)


def test_unreadable_images_are_named_with_the_reason_and_all_others_embedded(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", kinds=2, each=3)
    whole = (images / "kind0" / "0.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.jpg").write_text("no image")
    os.symlink(images / "nowhere", images / "dangling.png")
    Image.new("1", (20_000, 20_000)).save(images / "huge.png")
    one = store(tmp_path, images, chunk=4, batch_size=3)
    assert one.embed() == 0
    one.assemble()
    named = {entry["image"]: entry["reason"] for entry in json.loads((tmp_path / "work/unreadable.json").read_text())}
    assert named.keys() == {"cut.png", "empty.jpg", "text.jpg", "dangling.png", "huge.png"} and all(named.values())
    assert one.unreadable() == 5 and "pixels" in named["huge.png"] and str(tmp_path) not in named["dangling.png"]
    readable = [one.listing().images[place] for place in one.array("places")]
    assert readable == [f"kind{kind}/{number}.png" for kind in range(2) for number in range(3)]


def test_vectors_are_those_of_each_image_alone_in_half_precision(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", kinds=3, each=3)
    one = store(tmp_path, images, chunk=4, batch_size=3)
    one.embed()
    one.assemble()
    model = PixelEncoder().open()
    for row, place in enumerate(one.array("places")):
        with Image.open(images / one.listing().images[place]) as image:
            vector = model.encode(model.transform(image.convert("RGB"))[None])[0]
        assert np.allclose(one.vectors.take(np.array([row]))[0], vector / np.linalg.norm(vector), atol=1e-3)
    assert np.load(tmp_path / "work" / "vectors.npy").dtype == np.float16


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", kinds=3, each=3)
    for name, workers in (("alone", 0), ("helped", 2)):
        one = store(tmp_path / name, images, chunk=4, batch_size=2, workers=workers)
        one.embed()
        one.assemble()
    for name in ("vectors.npy", "digests.npy", "prints.npy", "places.npy", "unreadable.json", "files.json"):
        assert (tmp_path / "alone/work" / name).read_bytes() == (tmp_path / "helped/work" / name).read_bytes()


def test_odd_kinds_of_images_are_read(tmp_path: Path) -> None:
    grey = Image.fromarray((np.arange(4096).reshape(64, 64) * 16).astype(np.uint16))
    grey.save(tmp_path / "sixteen.png")
    Image.new("P", (9, 9)).save(tmp_path / "palette.gif", transparency=0)
    Image.new("RGBA", (9, 9), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    Image.new("CMYK", (9, 9), (1, 2, 3, 4)).save(tmp_path / "print.jpg")
    one = store(tmp_path / "out", tmp_path)
    one.embed()
    one.assemble()
    assert one.unreadable() == 0 and len(one.vectors) == 4
    assert len(np.unique(np.load(tmp_path / "out/work/vectors.npy")[3])) > 3  # not clipped to white


def test_a_disk_that_is_full_at_the_end_is_told_and_nothing_is_embedded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_photos(tmp_path / "photos", kinds=2, each=3)
    one = store(tmp_path, images, chunk=4)
    one.embed()

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            one.assemble()
    assert not list((tmp_path / "work").glob("*.np*")) and len(list((tmp_path / "work/chunks").glob("*.npz"))) == 2
    one.assemble()
    assert len(one.vectors) == 6


def test_vectors_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    Image.new("L", (9, 9), 0).save(tmp_path / "a.png")
    one = store(tmp_path / "out", tmp_path)
    one.encoder.open = lambda: Broken()  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"pixels gives embeddings that are not finite or zero \(pairs\.encoder\)"):
        one.embed()


class Broken(type(PixelEncoder().open())):  # type: ignore[misc]
    def encode(self, pixels: object) -> np.ndarray:
        return np.array([[np.nan, 1.0]])


def test_other_images_or_another_model_are_told(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", kinds=1, each=2)
    store(tmp_path, images).embed()
    with pytest.raises(ValueError, match="chunk 2048 instead of 3: give another folder as out, or remove this one"):
        store(tmp_path, images, chunk=3).embed()
    with pytest.raises(ValueError, match="holds embeddings with folder"):
        store(tmp_path, draw_photos(tmp_path / "other")).embed()
