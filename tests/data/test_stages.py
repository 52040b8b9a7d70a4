"""A stage without anything to score, rank or train on is refused before any image is encoded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from contextcir.errors import InputError
from contextcir.training.module import ContextCIR
from data_modules import CIRR, Manifest, Mixture, Scenes
from data_modules.scenes.writer import Size
from tests.helpers import tiny
from tests.helpers.make_data import edited, make_cirr, write_json


def trainer(folder: Path, **options: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, max_epochs=1, **quiet, **options
    )


@pytest.fixture(scope="module")
def model() -> ContextCIR:
    model = ContextCIR(tiny.backbone())
    model.backbone.encode_image = lambda images: pytest.fail("an image was encoded")
    return model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_cirr(tmp_path_factory.mktemp("cirr"))
    triplets = [{"reference": f"img_raw/dev/val-0-0-img{n}.png", "traget": "x", "caption": "a"} for n in range(3)]
    write_json(root / "misspelt.json", triplets)
    return root


STAGES: list[tuple[str, Callable[[Path], Any], dict[str, object], str]] = [
    (
        "validate",
        lambda root: CIRR(root, val_splits=[]),
        {},
        "validate has no split to score: name at least one (data.val_",
    ),
    (
        "test",
        lambda root: CIRR(root, test_splits=[]),
        {},
        "test has no split to score: name at least one (data.test_splits)",
    ),
    (
        "predict",
        lambda root: CIRR(root, test_splits=[]),
        {},
        "predict has no split to rank: name at least one (data.test_",
    ),
    ("validate", lambda root: Mixture([CIRR(root, val_splits=[])]), {}, "name at least one (data.sets)"),
    ("validate", lambda root: CIRR(root, val_splits=["test1"]), {}, "hidden: no record of "),
    ("fit", lambda root: CIRR(root, val_splits=["test1"], batch_size=2), {}, "hidden: no record of "),
    ("test", lambda root: CIRR(root), {}, "so test has nothing to score"),
    (
        "validate",
        lambda root: Manifest(root, file="misspelt.json"),
        {},
        "misspelt.json has a target, so validate has nothing",
    ),
    ("validate", lambda root: CIRR(root, val_splits=["vall"]), {}, "(data.val_splits)"),
    (
        "fit",
        lambda root: CIRR(root, batch_size=7),
        {},
        "holds 6 triplets, fewer than a batch of 7 on each of 1 ranks (data.",
    ),
    (
        "fit",
        lambda root: Scenes(root / "new", draw=True, size=Size(101, 1, 1), batch_size=1011),
        {},
        "have at most 1010 training triplets",
    ),
    (
        "fit",
        lambda root: Scenes(root / "new", draw=True, size=Size(2, 1, 1), batch_size=20),
        {},
        "triplets, fewer than a batch of 20",
    ),
]


@pytest.mark.parametrize(("stage", "make", "options", "problem"), STAGES)
def test_nothing_to_do(
    root: Path, tmp_path: Path, model: ContextCIR, stage: str, make: Callable, options: dict, problem: str
) -> None:
    with pytest.raises(InputError) as caught:
        getattr(trainer(tmp_path, **options), stage)(model, make(root))
    assert problem in str(caught.value) and "\n" not in str(caught.value)
    assert not (root / "new").exists()


def test_a_fit_that_validates_nothing_needs_no_split(root: Path) -> None:
    for options in ({"val_splits": []}, {"val_splits": ["val"]}):
        CIRR(root, **options).setup("fit")


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"val_splits": "val"}, "val_splits"),
        ({"val_splits": ["val", "val"]}, "val_splits"),
        ({"test_splits": [""]}, "test_splits"),
        ({"test_splits": ["../x"]}, "test_splits"),
        ({"train_split": ""}, "train_split"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"eval_batch_size": -1}, "eval_batch_size"),
        ({"eval_batch_size": float("nan")}, "eval_batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"num_workers": 10**6}, "num_workers"),
    ],
)
def test_settings_are_checked_where_a_data_module_is_made(root: Path, options: dict, setting: str) -> None:
    with pytest.raises(InputError, match=rf"expected .*\(data\.{setting}\)$"):
        CIRR(root, **options)


def test_settings_of_mixtures_and_scenes(root: Path) -> None:
    for weights in ([float("nan")], [-1.0], [float("inf")], [True], [0.0], ["1"], [], [1.0, 1.0], [1e300]):
        with pytest.raises(InputError, match=r"expected one number for each of cirr.*\(data\.weights\)"):
            Mixture([CIRR(root)], weights=weights)
    with pytest.raises(InputError, match=r"\(data\.seed\)"):
        Scenes(root, seed=-1)
    with pytest.raises(InputError, match=r"\(size\.references\)"):
        Size(references=0)


def test_links_are_allowed_for_all_sets_of_a_mixture(root: Path) -> None:
    assert CIRR(root, allow_links=True).reader.inside().links and not CIRR(root).reader.inside().links
    sets = [CIRR(root), Manifest(root)]
    Mixture(sets, allow_links=True)
    assert all(part.reader.inside().links for part in sets)


def test_images_outside_are_refused_before_training(tmp_path: Path, model: ContextCIR) -> None:
    root = make_cirr(tmp_path / "data")
    image = root / "img_raw" / "train" / "0" / "train-0-0-img1.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(InputError, match=r"train-0-0-img1.png' is reached by a link.*\(data\.allow_links\)"):
        trainer(tmp_path).fit(model, CIRR(root, batch_size=2))


def test_one_caption_for_each_image() -> None:
    model = ContextCIR(tiny.backbone())
    images = torch.zeros(2, 3, model.backbone.image_size, model.backbone.image_size)
    for captions in (["a dog"], ["a", "b", "c"], [], "ab"):
        for action in (model.embed_query, model.attention_maps):
            with pytest.raises(
                InputError, match="expected (one caption for each image: 2 of images|a list of captions)"
            ):
                action(images, captions)
    assert len(model.embed_query(images, ["a", "b"])) == 2


def test_the_record_without_a_target_is_still_named(tmp_path: Path) -> None:
    with edited(make_cirr(tmp_path) / "captions" / "cap.rc2.val.json") as records:
        del records[1]["target_hard"]
    with pytest.raises(InputError, match="record 1"):
        CIRR(tmp_path).setup("validate")
