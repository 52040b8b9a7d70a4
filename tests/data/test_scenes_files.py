"""The scenes benchmark on disk: the same seed gives the same files, in formats that its data module reads."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_modules import Scenes
from data_modules.scenes import writer
from data_modules.scenes.answerable import KINDS
from data_modules.scenes.records import draw_base
from data_modules.scenes.render import SIDE, render
from data_modules.scenes.writer import Size, is_complete, write_scenes

SMALL = Size(train_references=4, references=2, shared_references=3)


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(folder, seed=3, size=SMALL, workers=1)
    return folder


def records(root: Path, split: str) -> list[dict]:
    return json.loads((root / "captions" / f"cap.scenes.{split}.json").read_text())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files_and_another_seed_others(root: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "same", seed=3, size=SMALL, workers=2)
    write_scenes(tmp_path / "other", seed=4, size=SMALL, workers=2)
    assert digests(tmp_path / "same") == digests(root)
    other = digests(tmp_path / "other")
    assert not {name for name, digest in digests(root).items() if name.endswith(".jpg") and other[name] == digest}


def test_an_interrupted_run_goes_on_and_ends_with_the_same_files(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, split_writer, done = tmp_path / "scenes", writer._write_split, []

    def interrupted(root: Path, split: str, bases: object) -> None:
        if split == "test":
            next(iter(bases))  # some of its images are drawn
            raise KeyboardInterrupt
        done.append(split)
        split_writer(root, split, bases)

    monkeypatch.setattr(writer, "_write_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(folder, seed=3, size=SMALL, workers=1)
    assert done == ["train", "val"]
    assert not writer.is_complete(folder, 3, SMALL)
    monkeypatch.undo()
    kept = folder / "img_raw" / "val" / "val-0-0.jpg"
    before = kept.stat().st_mtime_ns
    write_scenes(folder, seed=3, size=SMALL, workers=1)
    assert digests(folder) == digests(root)
    assert kept.stat().st_mtime_ns == before, "images that were there are drawn again"


def test_another_benchmark_or_other_files_in_the_folder_are_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed 3 instead of 5"):
        write_scenes(root, seed=5, size=SMALL)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than scenes"):
        write_scenes(tmp_path, seed=3, size=SMALL)


def test_records_have_cirr_format_with_the_number_of_concepts_and_kinds_of_edit(root: Path) -> None:
    for split, per_base in (("val", 4), ("test", 4), ("test_unseen", 4)):
        listed = records(root, split)
        assert len(listed) == per_base * SMALL.references
        assert [r["pairid"] for r in listed] == list(range(len(listed)))
        assert sorted(r["concepts"] for r in listed) == sorted([1, 2, 3, 4] * SMALL.references)
        for record in listed:
            members = record["img_set"]["members"]
            assert len(members) == 6
            assert {record["reference"], record["target_hard"]} <= set(members)
            assert set(record["roles"]) == set(members) - {record["reference"], record["target_hard"]}
            assert 1 <= len(record["edits"]) <= record["concepts"]
    assert len(records(root, "train")) > 6 * SMALL.train_references


def test_images_are_ordinary_files_of_their_scene(root: Path) -> None:
    base = draw_base(3, "val", 1)
    placed, rng = base.pictures[2].place()
    wanted = render(base.pictures[2].scene, placed, rng)
    with Image.open(root / "img_raw" / "val" / "val-1-2.jpg") as image:
        assert (image.size, image.mode, image.format) == ((SIDE, SIDE), "RGB", "JPEG")
        assert abs(np.asarray(image).astype(int) - wanted).mean() < 4  # JPEG loses a little


def test_the_data_module_reads_its_own_files_of_both_formats(tmp_path: Path) -> None:
    data = Scenes(
        tmp_path / "scenes", True, seed=3, size=SMALL, num_workers=0, batch_size=4, preprocess=lambda i: to_tensor(i)
    )
    data.prepare_data()
    data.setup("fit")
    val, shared = data.protocols("val")
    assert (val.split, len(val.gallery), len(val.query_ids)) == ("val", 42, 8)
    concepts = {f"concepts_{n}" for n in range(1, 5)}
    assert concepts < set(val.strata) <= concepts | {f"answerable_{kind}" for kind in KINDS}
    assert (shared.split, len(shared.query_ids)) == ("circo_val", 3)
    assert shared.describe()["average_precision_at"] == [5, 10, 25, 50]
    assert [p.split for p in data.protocols("test")] == ["test", "test_unseen", "circo_test", "hard"]
    batch = next(iter(data.train_dataloader()))
    assert batch.target.shape == (4, 3, SIDE, SIDE)
    galleries = data.val_dataloader()
    assert [len(loader.dataset) for loader in galleries[::2]] == [42, len(shared.gallery)]
    assert next(iter(galleries[2])).image.shape[1:] == (3, SIDE, SIDE)


def to_tensor(image: Image.Image) -> object:
    from torchvision.transforms.functional import to_tensor

    return to_tensor(image)


def test_a_state_that_another_process_is_about_to_write_is_no_other_content(tmp_path: Path) -> None:
    (tmp_path / "scenes.json.123.new").touch()
    assert not is_complete(tmp_path, 0, Size(1, 1, 1))
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match="something else than scenes"):
        is_complete(tmp_path, 0, Size(1, 1, 1))
