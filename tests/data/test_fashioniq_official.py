"""FashionIQ's official annotations: both galleries, both caption orders, and figures as a plain loop finds them."""

import json
import random
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from contextcir.training.module import ContextCIR
from data_modules import (
    BothOrders,
    CaptionText,
    FashionIQ,
    FirstAndSecond,
    OriginalGallery,
    SecondAndFirst,
    VALGallery,
)
from tests.helpers import tiny
from tests.helpers.make_data import write_image, write_json
from tests.helpers.make_fashioniq import CATEGORIES, VAL


@pytest.fixture(scope="module")
def official(shared: Path) -> Path:
    return shared / "data" / "fashioniq"


def records_of(data: FashionIQ, split: str) -> list:
    data.protocols("val")
    return list(data._evaluations[split].records)


@pytest.mark.parametrize(
    ("gallery", "sizes"), [(OriginalGallery(), (3817, 6346, 5373)), (VALGallery(), (2628, 3089, 2902))]
)
def test_official_validation_galleries(
    official: Path, gallery: OriginalGallery | VALGallery, sizes: tuple[int, ...]
) -> None:
    protocols = FashionIQ(official, gallery=gallery).protocols("val")
    assert [protocol.split for protocol in protocols] == VAL
    assert [len(protocol.query_ids) for protocol in protocols] == [2017, 2038, 1961]
    assert tuple(len(protocol.gallery) for protocol in protocols) == sizes
    for protocol in protocols:
        category = protocol.split.removeprefix("val_")
        queries = json.loads((official / "captions" / f"cap.{category}.val.json").read_text())
        listed = json.loads((official / "image_splits" / f"split.{category}.val.json").read_text())
        union = {name for query in queries for name in (query["candidate"], query["target"])}
        assert list(protocol.gallery) == [
            name for name in listed if isinstance(gallery, OriginalGallery) or name in union
        ]
        assert protocol.gallery[protocol.targets[7][0]] == queries[7]["target"]
        assert protocol.gallery[protocol.references[7]] == queries[7]["candidate"]


def test_official_protocol(official: Path) -> None:
    dress = FashionIQ(official).protocols("val")[0]
    assert (dress.describe()["recall_at"], dress.exclude_reference, dress.query_views) == ([10, 50], False, 1)
    assert (dress.averaged_as, dress.headline) == ("val", "mean_recall")
    assert dress.describe()["means"] == {"mean_recall": ["recall_at_10", "recall_at_50"]}
    described = FashionIQ(
        official, query_text=BothOrders(), gallery=VALGallery(), exclude_reference=True, val_splits=["val_shirt"]
    ).protocols("val")[0].describe()  # fmt: skip
    assert described["exclude_reference"] is True and described["query_views"] == 2
    assert described["gallery_choice"] == "VALGallery" and described["gallery"] == 3089
    assert described["query_text"] == "{caption 1} and {caption 2} | {caption 2} and {caption 1}"


def test_official_training_triplets(official: Path) -> None:
    once, twice = FashionIQ(official), FashionIQ(official, train_text=BothOrders())
    records, paths, *_ = once.read_training()
    assert len(records) == 18000 == 5985 + 5988 + 6027
    assert {name for record in records for name in (record.reference, record.target)} == set(paths)
    assert str(records[5985].origin).endswith("cap.shirt.train.json")
    assert len(twice.read_training().records) == 36000
    only = FashionIQ(official, train_categories=["toptee"]).read_training()
    assert len(only.records) == 6027 and only.records[0] == records[-6027]._replace(id=0)


def test_official_test_queries_can_only_be_predicted(official: Path) -> None:
    data = FashionIQ(official)
    protocols = data.protocols("predict")
    assert [len(protocol.query_ids) for protocol in protocols] == [2024, 2038, 2056]
    assert [len(protocol.gallery) for protocol in protocols] == [3818, 6346, 5374]
    assert not any(protocol.labelled for protocol in protocols)
    with pytest.raises(ValueError, match=r"labels of fashioniq test_dress are hidden.*\(data\.test_splits\)"):
        data.setup("test")
    with pytest.raises(ValueError, match=r"choose OriginalGallery \(data\.gallery\)"):
        FashionIQ(official, gallery=VALGallery()).protocols("predict")


def test_query_texts_in_the_wording_of_clip4cir(official: Path) -> None:
    captions = ["is shiny and silver with shorter sleeves", "fit and flare"]
    for text, expected in (
        (FirstAndSecond(), ["Is shiny and silver with shorter sleeves and fit and flare"]),
        (SecondAndFirst(), ["Fit and flare and is shiny and silver with shorter sleeves"]),
    ):
        first = records_of(FashionIQ(official, query_text=text), "val_dress")[0]
        assert [first.caption] == expected == list(text.compose(captions))
    for category in CATEGORIES:
        queries = json.loads((official / "captions" / f"cap.{category}.val.json").read_text())
        both = records_of(FashionIQ(official, query_text=BothOrders()), f"val_{category}")
        assert len(both) == 2 * len(queries)
        for place, query in enumerate(queries):
            one, two = (caption.strip(".?, ") for caption in query["captions"])
            assert both[place].caption == f"{one.capitalize()} and {two}"
            assert both[len(queries) + place].caption == f"{two.capitalize()} and {one}"
            assert both[place][2:] == both[len(queries) + place][2:]


def test_records_with_one_empty_caption_are_kept(official: Path) -> None:
    """The wording leaves an "and" at the end of such a text, which published figures have too."""
    counts = {}
    for category in CATEGORIES:
        for split in ("train", "val"):
            data = FashionIQ(official, train_categories=[category], val_splits=[f"val_{category}"])
            records = data.read_training().records if split == "train" else records_of(data, f"val_{category}")
            halves = [record.caption.split(" and ") for record in records]
            found = [record.caption for record in records if record.caption.strip() != record.caption]
            assert all(half.count("") == 1 for half in halves if "" in half)
            counts[split, category] = len(found)
    # Fifteen are empty; the dress has a full stop for one.
    assert counts == {
        ("train", "dress"): 1, ("val", "dress"): 0, ("train", "shirt"): 0, ("val", "shirt"): 1,
        ("train", "toptee"): 12, ("val", "toptee"): 2,
    }  # fmt: skip
    toptee = records_of(FashionIQ(official), "val_toptee")
    assert toptee[676].caption == " and is an off the shoulder top"
    assert tiny.tokenizer()([toptee[676].caption]).valid.sum() == 2 + 7


def quiet_trainer(root: Path, **options: object) -> Trainer:
    off = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", default_root_dir=root, **off, **options)


def naive_recall(model: ContextCIR, data: FashionIQ, category: str, text: CaptionText, exclude: bool) -> list[float]:
    """Recall at 10 and 50 of a category, from its files, in plain loops; a tie is lost."""
    base = data.root
    queries = json.loads((base / "captions" / f"cap.{category}.val.json").read_text())
    gallery = json.loads((base / "image_splits" / f"split.{category}.val.json").read_text())
    images = data._images(f"val_{category}", {})
    embeddings = {name: model.embed_image(model.preprocess(images.load(name))[None])[0] for name in gallery}
    found = [0, 0]
    for query in queries:
        reference = model.preprocess(images.load(query["candidate"]))[None]
        views = [model.embed_query(reference, [caption])[0] for caption in text.compose(query["captions"])]
        mean = sum(views) / len(views)
        own = float(mean @ embeddings[query["target"]])
        rivals = [name for name in gallery if name != query["target"] and not (exclude and name == query["candidate"])]
        rank = 1 + sum(float(mean @ embeddings[name]) >= own for name in rivals)
        found = [found[0] + (rank <= 10), found[1] + (rank <= 50)]
    return [100 * count / len(queries) for count in found]


@pytest.mark.parametrize(
    ("text", "exclude"), [(FirstAndSecond(), False), (SecondAndFirst(), True), (BothOrders(), False)]
)
def test_some_official_queries_end_to_end(official: Path, tmp_path: Path, text: CaptionText, exclude: bool) -> None:
    for category in CATEGORIES:
        queries = json.loads((official / "captions" / f"cap.{category}.val.json").read_text())[:5]
        listed = json.loads((official / "image_splits" / f"split.{category}.val.json").read_text())
        named = {name for query in queries for name in (query["candidate"], query["target"])}
        names = [name for number, name in enumerate(listed) if name in named or number < 50]
        for name in names:
            noise = random.Random(name)
            write_image(tmp_path / "images" / f"{name}.jpg", name, (noise.randrange(20, 40), noise.randrange(20, 40)))
        write_json(tmp_path / "captions" / f"cap.{category}.val.json", queries)
        write_json(tmp_path / "image_splits" / f"split.{category}.val.json", names)
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone())
    data = FashionIQ(tmp_path, query_text=text, exclude_reference=exclude, num_workers=0, eval_batch_size=16)
    figures = quiet_trainer(tmp_path).validate(model, data, verbose=False)[0]
    sums = [0.0, 0.0]
    for category in CATEGORIES:
        expected = naive_recall(model, data, category, text, exclude)
        for number, k in enumerate((10, 50)):
            assert figures[f"val_{category}_recall_at_{k}"] == pytest.approx(expected[number], abs=1e-3)
            sums[number] += expected[number]
        assert figures[f"val_{category}_mean_recall"] == pytest.approx(sum(expected) / 2, abs=1e-3)
    assert figures["val_recall_at_10"] == pytest.approx(sums[0] / 3, abs=1e-3)
    assert figures["val_recall_at_50"] == pytest.approx(sums[1] / 3, abs=1e-3)
    assert figures["val_mean_recall"] == pytest.approx(sum(sums) / 6, abs=1e-3)
    assert 0 < figures["val_mean_recall"] < 100
