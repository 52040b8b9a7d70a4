"""A listed image is found whatever its file's ending is, and never taken for another one."""

import os
import pickle
import time
from pathlib import Path

import pytest

from contextcir.errors import InputError
from contextcir.files import Inside
from contextcir.images import SUFFIXES
from data_modules.loading import folders
from data_modules.loading.folders import ENDINGS, stand_ins
from data_modules.loading.images import ImageStore, find_images
from data_modules.mixture import MixedStore
from tests.helpers.make_data import write_image

STAND_INS = [  # listed, present, the file that stands for each listed one that is not there
    ("a.jpg", "a.jpeg", "a.jpeg"),
    ("a.jpg", "a.JPG", "a.JPG"),
    ("a.png", "a.PNG a.jpg", "a.PNG"),  # its own ending first
    ("a.jpeg", "a.png a.jpg", "a.jpg"),  # then in the order of ENDINGS
    ("a.jpeg", "a.gif a.WebP", "a.WebP"),
    ("a.jpg", "A.JPG", "A.JPG"),
    ("Ab.jpg", "aB.jpg", None),  # perhaps the name of another image
    ("a", "a.tiff", "a.tiff"),
    ("a.b", "a.b.bmp", "a.b.bmp"),
    ("a.jpg", "a.txt a.jpg.part b.jpg", None),
    ("a.jpg", "a.jpg a.png", ""),  # it is there
    ("a.jpg a.png", "a.png", None),  # a.png is an image of its own
    ("a.jpg a.png", "a.webp", "a.webp None"),  # and a file is one image
    ("a.jpg b.jpg c.jpg", "a.JPG b.png c.jpg", "a.JPG b.png"),
]


@pytest.mark.parametrize(("listed", "present", "found"), STAND_INS)
def test_which_file_stands_for_a_listed_one(listed: str, present: str, found: str | None) -> None:
    result = stand_ins(listed.split(), set(present.split()))
    assert [str(name) for name in result.values()] == str(found).split()


def test_the_endings_are_those_of_images() -> None:
    assert set(ENDINGS) == SUFFIXES


def test_all_questions_agree_on_a_folder_of_mixed_endings(tmp_path: Path) -> None:
    listed = {str(n): f"x/{n}.jpg" for n in range(9)}
    for number, ending in enumerate([".jpg", ".jpeg", ".JPG", ".png", ".PNG", ".bmp", ".gif", ".TIFF"]):
        write_image(tmp_path / "x" / f"{number}{ending}", str(number))
    store = find_images([tmp_path / "none", tmp_path], listed)
    copy = pickle.loads(pickle.dumps(store))
    assert store.load("3").size == store.size("5") == (40, 30)  # found without having been asked what is missing
    for images in (store, copy, MixedStore({"set": store})):
        names = list(images.names)
        assert images.missing(names) == [names[8]]
        assert [state is None for state in images.states(names)] == [False] * 8 + [True]
        for name in names[:8]:
            assert images.load(name).size == images.size(name) == (40, 30)
            assert images.file(name).stat().st_size == images.states([name])[0][0]
        assert images.complaint(names[8]) == f"no file {tmp_path}/x/8.jpg"


def test_a_file_is_one_image_under_both_endings_of_two_sets(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpeg", "a")
    mixed = MixedStore({name: ImageStore(tmp_path, {"a": f"a{ending}"}) for name, ending in (("x", ".jpg"), ("y", ""))})
    assert mixed.index("x:a") == mixed.index("y:a")


def test_a_hundred_thousand_images_are_found_by_listing_their_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for number in range(4000):
        os.link(tmp_path / "file", tmp_path / f"{number}.PNG")
    asked, entries_of = [], folders.entries_of
    monkeypatch.setattr("data_modules.loading.images.entries_of", lambda path: asked.append(path) or entries_of(path))
    start = time.process_time()
    store = find_images([tmp_path], {str(number): f"{number}.jpg" for number in range(4000)})
    assert store.missing(store.names) == [] and len(asked) <= 2  # once to find the layout
    assert time.process_time() - start < 2


def test_links_lead_out_only_where_that_is_allowed(tmp_path: Path) -> None:
    write_image(tmp_path / "other" / "a.png", "a")
    (tmp_path / "root" / "b").mkdir(parents=True)
    (tmp_path / "root" / "a.png").symlink_to(tmp_path / "other" / "a.png")
    (tmp_path / "root" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "b" / "in.png").symlink_to("../a.png")
    for path in ("a.png", "a.jpg", "other/a.png", "b/in.png"):
        store = ImageStore(tmp_path / "root", {"image": path})
        for action in (store.missing, store.states, lambda names, store=store: store.load(names[0])):
            with pytest.raises(InputError, match=r"reached by a link that leads out of .*\(data\.allow_links\)"):
                action(["image"])
        allowed = ImageStore(tmp_path / "root", {"image": path}, Inside(tmp_path / "root", links=True))
        assert allowed.missing(["image"]) == [] and allowed.load("image").size == (40, 30)
