"""Manifests of harder tests: several right and wrong answers, references and wordings; hard negatives to train with."""

from pathlib import Path
from typing import Any

import pytest
import torch

from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.frozen import StoredImages
from contextcir.errors import InputError
from contextcir.fusion import Sum
from contextcir.training.module import ContextCIR
from data_modules import Manifest, Mixture
from data_modules.loading.rows import ImageRows, TripletRows
from data_modules.loading.sampling import Draw
from data_modules.loading.triplets import chosen_negatives, collate_triplets
from data_modules.records import QueryRecord
from tests.helpers.make_data import preprocess, write_image, write_json

HARD = [
    {
        "reference": "a.jpg", "target": "b.jpg", "caption": "in red", "query_group": 7, "further_targets": ["c.jpg"],
        "negatives": ["d.jpg", "a.jpg"],
    },
    {"reference": "a.jpg", "target": "b.jpg", "caption": "make it red", "query_group": 7},
    {
        "reference": "c.jpg", "further_references": ["e.jpg", "f.jpg"], "target": "d.jpg", "caption": "both",
        "query_group": 8, "phrases": [{"start": 0, "end": 4, "box": [0, 0, 9, 9]}],
    },
]  # fmt: skip
TRIPLETS = [
    {"reference": "a.jpg", "target": "b.jpg", "caption": "one", "negatives": ["c.jpg", "d.jpg", "e.jpg"]},
    {"reference": "b.jpg", "target": "c.jpg", "caption": "two", "negatives": ["b.jpg"]},
    {"reference": "c.jpg", "target": "d.jpg", "caption": "three"},
    {"reference": "d.jpg", "target": "a.jpg", "caption": "four", "negatives": ["f.jpg"]},
]
PLAIN = [{name: record[name] for name in ("reference", "target", "caption")} for record in TRIPLETS]


def make(root: Path, records: list[dict], name: str = "val.json") -> Path:
    write_json(root / name, records)
    for letter in "abcdef":
        write_image(root / f"{letter}.jpg", letter)
    return root


def module(root: Path, **options: Any) -> Manifest:
    return Manifest(root, num_workers=0, preprocess=preprocess, **options)


def to_train_on(root: Path, **options: Any) -> Manifest:
    return module(root, val_splits=[], **options)


def test_the_fields_become_those_of_the_protocol(tmp_path: Path) -> None:
    data = module(make(tmp_path, HARD))
    protocol = data.protocols("val")[0]
    assert protocol.gallery == tuple(f"{letter}.jpg" for letter in "abcdef")
    assert protocol.targets == ((1, 2), (1,), (3,)) and protocol.references == (0, 0, 2)
    assert protocol.negatives == ((3, 0), (), ()) and protocol.query_groups == (7, 7, 8)
    assert protocol.further_references == ((), (), (4, 5)) and protocol.record_queries() == (0, 1, 2, 2, 2)
    plain, further = (f"recall_at_{k}" for k in (1, 10)), ("map_at_10", "precision_at_10", "neg_recall_at_1")
    assert {*plain, *further, "any_negative_at_10", "recall_at_10_spread", "recall_at_10_worst"} <= {
        *protocol.metric_names()
    }
    records = data.query_records("val", 0)
    assert [record.reference for record in records] == ["a.jpg", "a.jpg", "c.jpg", "e.jpg", "f.jpg"]
    assert records[2].phrases[0].box is not None and records[3].phrases[0].box is None
    _, loader = data.val_dataloader()
    (batch,) = loader
    assert batch.index.tolist() == [0, 1, 2, 3, 4] and batch.captions[2:] == ["both"] * 3


def test_a_manifest_without_the_fields_is_scored_as_before(tmp_path: Path) -> None:
    records = [{name: record[name] for name in ("reference", "target", "caption")} for record in HARD]
    protocol = module(make(tmp_path, records)).protocols("val")[0]
    assert protocol.metric_names() == tuple(f"recall_at_{k}" for k in (1, 5, 10, 50, 100))
    assert protocol.negatives is protocol.query_groups is protocol.further_references is None
    assert protocol.gallery == ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": ["b.jpg"]}, "negatives.0 is a target: 'b.jpg'"),
        ({"negatives": ["c.jpg"]}, "negatives.0 is a target: 'c.jpg'"),
        ({"negatives": ["d.jpg", "./d.jpg"]}, "negatives.1 is there twice: 'd.jpg'"),
        ({"negatives": ["../d.jpg"]}, "negatives.0 must be a path below the folder"),
        ({"negatives": "d.jpg"}, "negatives must be a list"),
        ({"further_targets": ["a.jpg"]}, "further_targets.0 is a reference or a target already"),
        ({"further_references": ["a.jpg"]}, "further_references.0 is a reference or a target already"),
        ({"further_references": ["b.jpg"]}, "further_references.0 is a reference or a target already"),
        ({"query_group": 1.5}, "query_group must be"),
        ({"query_group": None}, "query_group is missing, but other records have it"),
    ],
)
def test_a_field_without_sense_is_refused_by_its_place(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match="record 0") as refused:
        module(make(tmp_path, [HARD[0] | change, *HARD[1:]])).protocols("val")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_wrong_answers_must_be_in_a_listed_gallery(tmp_path: Path) -> None:
    write_json(make(tmp_path, HARD) / "gallery.json", ["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(InputError, match=r"negatives names image 'd.jpg', which is not in the gallery file"):
        module(tmp_path, gallery_file="gallery.json").protocols("val")


def test_missing_images_take_only_what_needs_them(tmp_path: Path) -> None:
    (make(tmp_path, HARD) / "e.jpg").unlink()
    (tmp_path / "c.jpg").unlink()
    with pytest.warns(UserWarning, match="2 of 6 images are missing"):
        protocol = module(tmp_path, allow_missing=True).protocols("val")[0]
    assert protocol.gallery == ("a.jpg", "b.jpg", "d.jpg", "f.jpg") and protocol.query_ids == (0, 1)
    assert (protocol.targets, protocol.negatives) == (((1,), (1,)), ((2, 0), ()))
    assert protocol.query_groups == (7, 7) and protocol.further_references == ((), ())


def test_hard_negatives_are_loaded_with_their_triplets(tmp_path: Path) -> None:
    data = to_train_on(make(tmp_path, TRIPLETS, "train.json"), batch_size=4, negatives=2)
    (batch,) = data.train_dataloader()
    assert batch.negatives.image.shape == (4, *batch.target.shape[1:])
    images = {**dict(zip(batch.target_id.tolist(), batch.target, strict=True))}
    ids = dict(zip("abcdef", range(6), strict=True))
    place = {name: number for number, name in enumerate(data.read_training().image_paths)}
    row = batch.query.captions.index("two")
    assert batch.reference_id[row].item() in batch.negatives.image_id.tolist(), "an image has one id in a batch"
    for number, image in zip(batch.negatives.image_id.tolist(), batch.negatives.image, strict=True):
        if number in images:
            assert torch.equal(image, images[number])
    assert place["f.jpg"] in batch.negatives.image_id.tolist() and len(ids) == len(place)


def test_the_choice_among_many_depends_on_the_draw_alone() -> None:
    record = QueryRecord("a", "b", negatives=tuple("cdefghij"))
    chosen = [tuple(chosen_negatives(record, 3, seed)) for seed in range(40)]
    assert chosen == [tuple(chosen_negatives(record, 3, seed)) for seed in range(40)]
    assert {*chosen[0]} <= {*record.negatives} and len({*chosen[0]}) == 3
    assert {name for names in chosen for name in names} == {*record.negatives}
    assert chosen_negatives(record, 8, 5) == record.negatives


@pytest.mark.parametrize(
    "records", [TRIPLETS, [{k: r[k] for k in ("reference", "target", "caption")} for r in TRIPLETS]]
)
def test_sets_without_hard_negatives_or_with_none_asked_for_have_no_such_batches(
    tmp_path: Path, records: list[dict]
) -> None:
    data = to_train_on(make(tmp_path, records, "train.json"), batch_size=4, negatives=0 if records is TRIPLETS else 4)
    (batch,) = data.train_dataloader()
    assert batch.negatives is None


def test_a_batch_may_have_none_although_the_set_has_some(tmp_path: Path) -> None:
    data = to_train_on(make(tmp_path, TRIPLETS, "train.json"), batch_size=1)
    batches = list(data.train_dataloader())
    by_caption = {batch.query.captions[0]: batch.negatives for batch in batches}
    assert by_caption["three"].image.shape == (0, *batches[0].target.shape[1:])
    assert {name: len(of.image_id) for name, of in by_caption.items()} == {"one": 3, "two": 1, "three": 0, "four": 1}


def test_a_missing_hard_negative_does_not_cost_its_triplet(tmp_path: Path) -> None:
    (make(tmp_path, TRIPLETS, "train.json") / "f.jpg").unlink()
    data = to_train_on(tmp_path, batch_size=1)
    with pytest.raises(InputError, match="1 of 6 images are missing: f"):
        data.train_dataloader()
    with pytest.warns(UserWarning, match="1 of 6 images are missing"):
        batches = list(to_train_on(tmp_path, batch_size=1, allow_missing=True).train_dataloader())
    assert sorted(len(batch.negatives.image_id) for batch in batches) == [0, 0, 1, 3]


def test_a_mixture_keeps_the_hard_negatives_of_its_sets(tmp_path: Path) -> None:
    make(tmp_path / "one", TRIPLETS, "train.json")
    make(tmp_path / "two", PLAIN, "train.json")
    sets = [to_train_on(tmp_path / name, name=name) for name in ("one", "two")]
    data = Mixture(sets, batch_size=8, num_workers=0, preprocess=preprocess)
    (batch,) = data.train_dataloader()
    assert len(batch.negatives.image_id) == 5
    assert data.read_training().records[0].negatives == ("one:c.jpg", "one:d.jpg", "one:e.jpg")


@pytest.mark.parametrize("count", [-1, 1.5, 10**9, True])
def test_the_number_of_hard_negatives_is_checked(tmp_path: Path, count: Any) -> None:
    with pytest.raises(InputError, match=r"whole number from 0 to 1000.*data.negatives"):
        module(tmp_path, negatives=count)


def test_rows_of_stored_features_have_the_same_hard_negatives(tmp_path: Path, clip_folder: Path) -> None:
    backbone = OpenCLIPBackbone(f"local-dir:{clip_folder}", trainable_image_blocks=0)
    make(tmp_path, TRIPLETS, "train.json")
    data = Manifest(
        tmp_path, val_splits=[], batch_size=4, num_workers=0, preprocess=backbone.preprocess, negatives=2
    )  # fmt: skip
    pixels = data.train_dataloader().dataset
    stored = StoredImages(tmp_path / "features")
    rows = TripletRows(
        pixels.queries.records, ImageRows(pixels.queries.images, backbone.preprocess, stored), negatives=2
    )
    draws = [Draw(index, seed) for seed, index in enumerate((0, 1, 2, 3, 0, 0))]
    whole, light = (collate_triplets([dataset[draw] for draw in draws]) for dataset in (pixels, rows))
    assert light.negatives.image_id.tolist() == whole.negatives.image_id.tolist() and len(whole.negatives.image_id) == 8
    assert light.negatives.image.shape == (8, 2) and len({*whole.negatives.image_id.tolist()}) > 3
    model = ContextCIR(backbone, Sum)
    expected = model.losses(whole)["loss"]
    backbone.stored = stored
    torch.testing.assert_close(model.losses(light)["loss"], expected, rtol=1e-3, atol=1e-3)
    assert not torch.isclose(expected, model.losses(light._replace(negatives=None))["loss"], rtol=1e-3)
