"""CIRCO: the official annotations, the three query texts, and the optional fields."""

import json
import shutil
from pathlib import Path

import pytest
from open_clip.tokenizer import get_clean_fn

from data_modules import CIRCO, QueryText, RelativeCaption, SharedConceptMagicLens, SharedConceptSentence
from tests.helpers.make_data import colour_of, edited, make_circo, preprocess, write_json


@pytest.fixture(scope="module")
def official(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official annotations, with a list of all images that they name in the place of COCO's (which isn't there)."""
    root = tmp_path_factory.mktemp("circo")
    shutil.copytree(shared / "data" / "circo" / "annotations", root / "annotations")
    named = {8}
    for split in ("val", "test"):
        for record in json.loads((root / "annotations" / f"{split}.json").read_text()):
            named |= {record["reference_img_id"], *record.get("gt_img_ids", [])}
    images = [{"id": identity, "file_name": f"{identity:012d}.jpg"} for identity in sorted(named)]
    write_json(root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json", {"images": images})
    return root


def test_official_counts(official: Path) -> None:
    data = CIRCO(official)
    (val,), (test,) = data.protocols("val"), data.protocols("predict")
    assert val.query_ids == tuple(range(220)) and test.query_ids == tuple(range(800))
    assert val.labelled and not test.labelled
    counts = [len(targets) for targets in val.targets]
    assert min(counts) == 1 and counts.count(1) == 29 and max(counts) == 14
    assert round(sum(counts) / 220, 2) == 4.16
    assert {name: len(queries) for name, queries in val.strata.items()} == {
        "aspect_statement_with_conjunction": 164, "aspect_direct_addressing": 119,
        "aspect_spatial_relations_background": 100, "aspect_compare_change": 86, "aspect_addition": 80,
        "aspect_viewpoint": 54, "aspect_comparative_statement": 50, "aspect_cardinality": 37, "aspect_negation": 21,
    }  # fmt: skip


def test_official_protocol(official: Path) -> None:
    val = CIRCO(official).protocols("val")[0]
    assert (val.benchmark, val.split, val.exclude_reference, val.headline) == ("circo", "val", False, "map_at_5")
    assert val.recall_of_first and val.describe()["recall_of_first"] is True
    recalls, precisions = [f"recall_at_{k}" for k in (1, 5, 10, 25, 50)], [f"map_at_{k}" for k in (5, 10, 25, 50)]
    assert val.metric_names() == (*recalls, *precisions) and val.subsets is None and "8" in val.gallery
    assert val.gallery[val.references[0]] == "271520"
    assert [val.gallery[target] for target in val.targets[0]] == ["355099", "528417", "534704"]
    assert val.describe()["query_text"] == "Find a picture that also {shared_concept}, but {relative_caption}."
    assert CIRCO(official, exclude_reference=True).protocols("val")[0].describe()["exclude_reference"] is True


@pytest.mark.parametrize(
    ("query_text", "text"),
    [
        (RelativeCaption(), "{}"),
        (SharedConceptMagicLens(), "find a girl with a traditional Chinese umbrella but {}"),
        (SharedConceptSentence(), "Find a picture that also a girl with a traditional Chinese umbrella, but {}."),
    ],
)
def test_query_texts_as_published(official: Path, query_text: QueryText, text: str) -> None:
    data = CIRCO(official, query_text=query_text)
    data.setup("validate")
    assert data._evaluations["val"].records[0].caption == text.format(
        "shows two people and has a more colorful background"
    )


@pytest.mark.parametrize("query_text", [RelativeCaption(), SharedConceptMagicLens(), SharedConceptSentence()])
@pytest.mark.parametrize("concept", ["a table", "  A  Table ", "tables &amp; {chairs}", ""])
def test_phrases_move_with_the_text_in_front_of_them(tmp_path: Path, query_text: QueryText, concept: str) -> None:
    root = make_circo(tmp_path)
    with edited(root / "annotations" / "val.json") as records:
        records[1] |= {
            "relative_caption": " has Two  bottles {no} glass",
            "shared_concept": concept,
            "phrases": [
                {"text": "Two bottles", "start": 4, "end": 15, "box": [0, 0, 30, 30]},
                {"start": 16, "end": 26},
            ],
            "image_size": [60, 60],
        }
    batch = CIRCO(root, query_text=query_text, num_workers=0, preprocess=preprocess).query_batch("val", 0, [0, 1])
    seen = get_clean_fn("lower")(batch.captions[1])
    assert [seen[start:end] for start, end in batch.phrases.spans.tolist()] == ["two bottles", "{no} glass"]
    assert batch.phrases.owner.tolist() == [1, 1] and batch.phrases.boxes[0].tolist() == [0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("coco", "images"),
    [
        ("COCO2017_unlabeled", "unlabeled2017"),
        ("COCO2017_unlabeled", "data"),
        ("COCO2017_unlabeled", ""),
        ("", "unlabeled2017"),
    ],
)
@pytest.mark.parametrize("folder", ["", "CIRCO"])
def test_every_common_layout_is_found(tmp_path: Path, coco: str, images: str, folder: str) -> None:
    make_circo(tmp_path / folder, coco, images)
    data = CIRCO(tmp_path, num_workers=0, preprocess=preprocess)
    assert data.protocols("val")[0].gallery == tuple(str(100 + number) for number in range(9))
    gallery, queries = data.val_dataloader()
    assert sum(len(batch.index) for batch in gallery) == 9 and sum(len(batch.index) for batch in queries) == 3
    pixel = data.target_image("val", 0, 2).getpixel((5, 5))
    assert max(abs(a - b) for a, b in zip(pixel, colour_of("106"), strict=True)) < 4
    assert data.target_image("predict", 0, 2) is None


def test_the_target_that_a_query_was_written_for_comes_first(tmp_path: Path) -> None:
    root = make_circo(tmp_path)
    with edited(root / "annotations" / "val.json") as records:
        records[1]["gt_img_ids"] = [107, 103, 105]
    assert CIRCO(root).protocols("val")[0].targets[1] == (5, 7, 3)


def test_queries_are_grouped_by_aspect_and_concepts(tmp_path: Path) -> None:
    root = make_circo(tmp_path)
    with edited(root / "annotations" / "val.json") as records:
        records[2]["concepts"] = 3
    strata = CIRCO(root).protocols("val")[0].strata
    assert strata == {"aspect_cardinality": (0, 1, 2), "aspect_addition": (0,), "concepts_3": (2,)}


def test_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CIRCO has no training split"):
        CIRCO(make_circo(tmp_path)).setup("fit")
