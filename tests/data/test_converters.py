"""Official files of other training sets become manifests that can be read."""

import json
from collections import Counter
from pathlib import Path

import pytest

from data_modules import CIRR, Manifest, Mixture
from data_modules.converters import LaSCoConverter, RewrittenConverter, url_path
from experiments.convert import main
from tests.helpers.make_convertible import make_hotel, make_lasco_files, make_rewritten, read_lines
from tests.helpers.make_data import make_cirr, preprocess


def test_hotel_paths_are_the_last_three_parts(tmp_path: Path) -> None:
    main(["hotel", f"--root={make_hotel(tmp_path)}", "--split=train", f"--out={tmp_path / 'train.jsonl'}"])
    assert read_lines(tmp_path / "train.jsonl")[1] == {
        "reference": "images/train/1/expedia/1.jpg",
        "target": "images/train/1/travel/t1.jpg",
        "caption": "Swap the lamp 1.",
    }
    data = Manifest(tmp_path, val_splits=[], batch_size=3, num_workers=0, preprocess=preprocess)
    assert len(list(data.train_dataloader())) == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_hotel_distractors_are_an_optional_gallery(tmp_path: Path, split: str) -> None:
    out, gallery = tmp_path / f"{split}.json", tmp_path / "gallery.json"
    main(["hotel", f"--root={make_hotel(tmp_path, split)}", f"--split={split}", f"--out={out}", f"--gallery={gallery}"])
    options = {"num_workers": 0, "preprocess": preprocess, "val_splits": [split]}
    small = Manifest(tmp_path, **options).protocols("val")[0]
    whole = Manifest(tmp_path, gallery_file="gallery.json", **options)
    assert len(small.gallery) == 6 and len(whole.protocols("val")[0].gallery) == 9
    assert set(whole.protocols("val")[0].gallery) - set(small.gallery) == {
        f"images/val_test/{n}/travel/far {n}.jpg" for n in range(3)
    }
    assert sum(len(batch.index) for batch in whole.val_dataloader()[0]) == 9


def test_rewritten_captions_name_images_of_cirr(tmp_path: Path) -> None:
    root = make_rewritten(make_cirr(tmp_path))
    main(["cirr_rewritten", f"--root={root}", "--split=train", f"--out={tmp_path / 'again.json'}"])
    assert json.loads((tmp_path / "again.json").read_text()) == [
        {
            "reference": "train/0/train-0-0-img1.png",
            "target": "train/0/train-0-0-img2.png",
            "caption": "Add a pug. Remove the bed.",
        },
        {
            "reference": "train/1/train-1-0-img0.png",
            "target": "train/1/train-1-0-img1.png",
            "caption": "Add a gnp. Show it",
        },
    ]
    sets = [CIRR(root), Manifest(root, file="again.json", name="cirr_rewritten")]
    (batch,) = Mixture(sets, batch_size=8, num_workers=0, preprocess=preprocess).train_dataloader()
    pairs = Counter(zip(batch.reference_id.tolist(), batch.target_id.tolist(), strict=True))
    assert sorted(pairs.values()) == [1, 1, 1, 1, 2, 2]  # the two pairs that both sets have are the same pairs


@pytest.mark.parametrize(
    ("sentences", "captions"),
    [
        ("joined", ["Add a pug. Remove the bed.", "Add a gnp. Show it"]),
        ("separate", ["Add a pug.", "Remove the bed.", "Add a gnp. Show it"]),
        ("first", ["Add a pug.", "Add a gnp. Show it"]),
    ],
)
def test_sentences_become_captions(tmp_path: Path, sentences: str, captions: list[str]) -> None:
    root = make_rewritten(make_cirr(tmp_path))
    converted = RewrittenConverter(root, "train", sentences=sentences).run()
    assert [record["caption"] for record in converted.records] == captions


def test_lasco_has_the_corpus_as_gallery(tmp_path: Path) -> None:
    root = make_lasco_files(tmp_path)
    out = ["--out", str(tmp_path / "val.jsonl"), "--gallery", str(tmp_path / "gallery.json")]
    main(["lasco", f"--root={root}", "--split=val", *out])
    data = Manifest(root, gallery_file="gallery.json", num_workers=0, preprocess=preprocess)
    protocol = data.protocols("val")[0]
    assert protocol.gallery == tuple(f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(9, 14))
    assert (protocol.references, protocol.targets) == ((1, 2, 3), ((2,), (3,), (4,)))
    assert [record["qid"] for record in read_lines(tmp_path / "val.jsonl")] == [7000] * 3
    assert len(list(data.val_dataloader()[0])) == 1
    (root / "lasco_val_corpus.json").unlink()
    assert len(LaSCoConverter(root, "val").run().gallery) == 4


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("https://h.example/a/b%20c/d.png?x=1#y", "/a/b c/d.png"),
        ("a/b%20c/d.png", "a/b%20c/d.png"),
        ("a/what?.png", "a/what?.png"),
        ("gnp.png", "gnp.png"),
    ],
)
def test_urls_and_paths(address: str, path: str) -> None:
    assert str(url_path(address)) == path
