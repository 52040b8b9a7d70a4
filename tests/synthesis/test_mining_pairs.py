"""Pairs from a folder of images: the same after any kill, with everything that is left out accounted for."""

import json
import multiprocessing
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextcir.errors import InputError
from contextcir.synthesis.mining import ApproximateSearch, Band, ExactSearch, Loading, MinedPairs, SameFile, Uses
from contextcir.synthesis.records import Pair
from tests.helpers.mining_cases import PixelEncoder, draw_photos

pytest.importorskip("faiss", reason="needs the extra `synthesis`")
pytest.importorskip("imagehash", reason="needs the extra `synthesis`")

BAND = Band(0.3, 0.98)


def mined(**settings: object) -> MinedPairs:
    given = {"encoder": PixelEncoder(), "loading": Loading(batch_size=2, workers=0, chunk=3), "band": BAND}
    return MinedPairs(**{**given, **settings})  # type: ignore[arg-type]


def pairs(images: Path, work: Path, **settings: object) -> list[Pair]:
    return list(mined(**settings).within(images, work).pairs())


def report(work: Path) -> dict:
    return json.loads((work / "report.json").read_text())


def test_pairs_are_of_images_that_look_alike_with_a_group_of_six(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", kinds=4, each=8)
    found = pairs(images, tmp_path / "work", duplicates=SameFile())
    assert len(found) > 20
    for pair in found:
        kinds = {path.split("/")[0] for path in (pair.reference, pair.target, *pair.image_set)}
        assert len(kinds) == 1 and len(set(pair.image_set)) == 6
        assert pair.image_set[:2] == (pair.reference, pair.target) and pair.source == "mined"
        assert pair.similarity is not None and BAND.low <= pair.similarity <= BAND.high
        assert all((images / path).is_file() for path in pair.image_set)
    assert Pair.from_json(json.loads(json.dumps(found[0].to_json()))) == found[0]
    told = report(tmp_path / "work")
    assert told["pairs"] == len(found) and told["searched"] == 32 and told["unreadable"] == told["duplicates"] == 0


def test_similarities_are_cosines_of_the_encoder(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos")
    model = PixelEncoder().open()

    def vector(path: str) -> np.ndarray:
        with Image.open(images / path) as image:
            values = model.encode(model.transform(image.convert("RGB"))[None])[0].astype(float)
        return values / np.linalg.norm(values)

    for pair in pairs(images, tmp_path / "work"):
        assert pair.similarity == pytest.approx(vector(pair.reference) @ vector(pair.target), abs=2e-3)


def test_duplicates_are_left_out_and_named(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", kinds=3, each=4)
    shutil.copy(images / "kind1/2.png", images / "kind1/9.png")
    with Image.open(images / "kind2/0.png") as image:
        image.resize((128, 128), Image.Resampling.NEAREST).save(images / "kind2/larger.png")
    (images / "broken.jpg").write_bytes(b"")
    found = pairs(images, tmp_path / "near", uses=Uses(3, 3))
    used = {path for pair in found for path in pair.image_set}
    assert used == {f"kind{kind}/{number}.png" for kind in range(3) for number in range(4)}
    named = [json.loads(line) for line in (tmp_path / "near/duplicates.jsonl").read_text().splitlines()]
    assert named == [
        {"image": "kind1/9.png", "of": "kind1/2.png", "same_file": True},
        {"image": "kind2/larger.png", "of": "kind2/0.png", "same_file": False},
    ]
    told = report(tmp_path / "near")
    assert (told["unreadable"], told["readable"], told["duplicates"]) == (1, 14, 2)
    same = pairs(images, tmp_path / "same", duplicates=SameFile(), uses=Uses(3, 3), band=Band(0.3, 1))
    assert "kind2/larger.png" in {pair.reference for pair in same}


def test_the_same_pairs_in_the_same_order_every_time(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos")
    first = pairs(images, tmp_path / "one")
    assert pairs(images, tmp_path / "one") == first == pairs(images, tmp_path / "other")
    assert pairs(images, tmp_path / "one", seed=1) != first
    assert pairs(images, tmp_path / "one", most=3) == first[:3] and report(tmp_path / "one")["pairs"] == 3


def test_images_that_come_later_change_nothing(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos")
    first = pairs(images, tmp_path / "work")
    draw_photos(images / "later", seed=9)
    assert pairs(images, tmp_path / "work") == first


def test_other_settings_of_the_search_are_searched_again_but_not_embedded_again(tmp_path: Path) -> None:
    images, log = draw_photos(tmp_path / "photos"), tmp_path / "log"
    encoder = PixelEncoder(log)
    exact = pairs(images, tmp_path / "work", encoder=encoder, search=ExactSearch(), band=Band(0.5, 0.98))
    assert pairs(images, tmp_path / "work", encoder=encoder, search=ApproximateSearch(threads=1)) != exact
    again = pairs(images, tmp_path / "work", encoder=encoder, search=ExactSearch(), band=Band(0.5, 0.98))
    assert again == exact and log.read_text() == "opened\n"


def test_parts_embedded_by_themselves_give_the_same(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos")  # 20 images, 7 chunks
    parts = [mined().within(images, tmp_path / "parts").prepare(index, 3) for index in (2, 0, 1)]
    assert "14 images are left" in parts[0] and "run the stage once more without a shard" in parts[2]
    assert pairs(images, tmp_path / "parts") == pairs(images, tmp_path / "whole")
    assert "and so are all" in mined().within(images, tmp_path / "parts").prepare(0, 3)


class SlowEncoder(PixelEncoder):
    """Takes its time for each batch."""

    def open(self):
        model = super().open()
        encode = model.encode

        def slow(pixels):
            time.sleep(0.02)
            return encode(pixels)

        model.encode = slow  # type: ignore[method-assign]
        return model


def mine_slowly(images: Path, work: Path) -> None:
    pairs(images, work, encoder=SlowEncoder())


def test_a_killed_embedding_goes_on_and_gives_the_same_pairs(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", kinds=6, each=10)  # 20 chunks
    work, chunks = tmp_path / "killed", tmp_path / "killed" / "chunks"
    for kill in range(5):
        before = {path.name: path.stat().st_mtime_ns for path in chunks.glob("*.npz")}
        process = multiprocessing.get_context("fork").Process(target=mine_slowly, args=(images, work))
        process.start()
        until = time.monotonic() + 60
        while process.is_alive() and len(list(chunks.glob("*.npz"))) < 3 * (kill + 1):
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(random.Random(kill).random() * 0.05)
        process.kill()
        process.join()
        after = {path.name: path.stat().st_mtime_ns for path in chunks.glob("*.npz")}
        assert before.items() <= after.items() and len(after) >= 3 * (kill + 1)  # kept, and not made again
    (work / "vectors.npy.123.new").write_bytes(b"left by a process that was killed")
    assert pairs(images, work) == pairs(images, tmp_path / "whole")
    assert (work / "vectors.npy").read_bytes() == (tmp_path / "whole/vectors.npy").read_bytes()
    assert not chunks.exists() and not list(work.glob("*.new"))


def test_images_without_two_that_differ_are_told(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", kinds=1, each=1)
    shutil.copy(images / "kind0/0.png", images / "kind0/1.png")
    with pytest.raises(ValueError, match="all 2 images are duplicates of one: see .*duplicates.jsonl"):
        pairs(images, tmp_path / "work")


def test_a_missing_library_is_told_before_any_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_photos(tmp_path / "photos")
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(ValueError, match="mined pairs need imagehash, of the extra `mining`: pip install"):
        pairs(images, tmp_path / "work")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="near-duplicates needs faiss, of the extra `mining`: .* choose SameFile"):
        pairs(images, tmp_path / "work")
    with pytest.raises(InputError, match="search needs faiss, of the extra `mining`: .* choose ExactSearch"):
        pairs(images, tmp_path / "work", duplicates=SameFile(), search=ApproximateSearch())
    assert pairs(images, tmp_path / "work", duplicates=SameFile())


def test_nothing_that_can_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 images can be read: see .*unreadable.json"):
        pairs(tmp_path, tmp_path / "work")


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"group": 7}, {"most": 0}])
def test_numbers_out_of_range_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"expected a whole number .*\(pairs\.{next(iter(wrong))}\)"):
        mined(**wrong)
