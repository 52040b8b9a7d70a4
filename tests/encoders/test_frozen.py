"""Runs that take features of images from disk are the runs that encode them, and encode each image once."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from contextcir.batch import TripletBatch
from contextcir.embeddings import FEATURES
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.frozen import FeatureTable, FrozenImageBackbone
from contextcir.errors import InputError
from contextcir.training.module import ContextCIR
from data_modules import Scenes
from data_modules.loading.features import usual_folder
from data_modules.scenes.writer import Size, write_scenes
from experiments.run import main
from tests.commands.test_cli import BASE, SCENES, error_of
from tests.helpers.paths import STUDIES

OVERLAYS = STUDIES / "overlays"
SIZE = Size(train_references=3, references=2, shared_references=2)
pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


@pytest.fixture
def flags(small: list[str], scenes_folder: Path) -> list[str]:
    size = [f"--data.size.{name}={value}" for name, value in vars(SIZE).items()]
    steps = ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--data.batch_size=8"]
    text = ["--model.backbone.trainable_text_blocks=1"]
    return [
        BASE,
        SCENES,
        f"--config={OVERLAYS / 'trial.yaml'}",
        *small,
        f"--data.root={scenes_folder}",
        *size,
        *steps,
        *text,
    ]


@pytest.fixture
def frozen(flags: list[str], tmp_path: Path) -> list[str]:
    overlay = f"--config={OVERLAYS / 'frozen.yaml'}"
    return [*flags[:3], overlay, *flags[3:], f"--data.features={tmp_path / 'features'}"]


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images in all passes through the image tower from now on."""
    passes: list[int] = []
    encode = OpenCLIPBackbone.encode_image

    def counting(self: OpenCLIPBackbone, images: torch.Tensor) -> object:
        if images.is_floating_point():
            passes.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(OpenCLIPBackbone, "encode_image", counting)
    return passes


@pytest.mark.slow
def test_training_and_figures_are_those_of_the_run_that_encodes_images(
    flags: list[str], frozen: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = main(["fit", *flags, "--name=plain"])
    passes = count_encoded(monkeypatch)
    first = main(["fit", *frozen, "--name=first"])
    images = len(list((first.datamodule.root / "img_raw" / "train").rglob("*.*")))
    assert sum(passes) >= images and first.model.backbone.stored is not None
    passes.clear()
    second = main(["fit", *frozen, "--name=second"])
    assert passes == []
    assert second.trainer.callback_metrics["train_loss"] == first.trainer.callback_metrics["train_loss"]
    state = plain.model.state_dict()
    assert list(first.model.state_dict()) == list(state)
    # float32; other batch sizes round differently, and AdamW makes a step of 1e-3 from the smallest gradient
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-4, msg=name)
    logged = {name: value.item() for name, value in plain.trainer.callback_metrics.items()}
    found = {name: value.item() for name, value in first.trainer.callback_metrics.items()}
    assert found["train_loss"] == pytest.approx(logged["train_loss"], rel=1e-5)
    assert found == pytest.approx(logged, rel=1e-3, abs=1e-2) and "val_recall_at_1" in found


def test_features_are_those_of_the_image_tower(frozen: list[str]) -> None:
    cli = main(["fit", *frozen])
    backbone, batch = cli.model.backbone, next(iter(cli.datamodule.train_dataloader()))
    assert isinstance(batch, TripletBatch) and batch.target.shape == (8, 2) and not batch.target.is_floating_point()
    pixels = Scenes(cli.datamodule.root, batch_size=8, num_workers=0, preprocess=backbone.preprocess)
    dataset = pixels.train_dataloader().dataset
    names = [dataset.queries.images.names[i] for i in batch.target_id.tolist()]
    images = torch.stack([backbone.preprocess(dataset.queries.images.load(name)) for name in names])
    with torch.no_grad():
        expected, found = backbone.encode_image(images), backbone.encode_image(batch.target)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=2**-11, atol=1e-5)  # half precision
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-5, atol=1e-5)
    mixed = torch.cat([batch.target[:2], next(iter(cli.datamodule.val_dataloader()[0])).image[:2]])
    assert len(mixed[:, 0].unique()) == 2  # rows of two lists
    both = backbone.encode_image(mixed)
    torch.testing.assert_close(both.tokens[:2], found.tokens[:2], rtol=0, atol=0)
    torch.testing.assert_close(both.embedding[:2], found.embedding[:2], rtol=0, atol=0)


def test_queries_for_figures_stay_pixels(frozen: list[str]) -> None:
    cli = main(["validate", *frozen])
    batch = cli.datamodule.query_batch("val", 0, [0, 1])
    assert batch.reference.shape == (2, 3, 32, 32)
    assert cli.datamodule.reference_image("val", 0, 1).size == (96, 96)
    loaded = next(iter(cli.datamodule.val_dataloader()[1]))
    torch.testing.assert_close(
        cli.model.embed_query(batch.reference, batch.captions),
        cli.model.embed_query(loaded.reference[:2], loaded.captions[:2]),
        rtol=1e-3,
        atol=1e-4,
    )
    assert torch.equal(loaded.phrases.boxes[:1], batch.phrases.boxes[:1]) or loaded.phrases.boxes[:1].isnan().any()


@pytest.mark.slow
def test_other_weights_or_arithmetic_have_tables_of_their_own(frozen: list[str], tmp_path: Path) -> None:
    folders = []
    for extra in ([], ["--trainer.precision=bf16-mixed"], ["--data.preprocess=tests.encoders.test_frozen.darker"]):
        main(["validate", *frozen, *extra])
        folders.append(len(list((tmp_path / "features").iterdir())))
    assert folders == [2, 4, 6]  # val and circo_val
    backbone = main(["validate", *frozen]).model.backbone
    before = backbone.stored.table(backbone, 0)
    state = backbone.state_dict()
    backbone.load_state_dict({k: v + 0.1 if v.is_floating_point() else v for k, v in state.items()})
    assert backbone.stored.table(backbone, 0).folder != before.folder


def darker(image) -> torch.Tensor:
    from torchvision.transforms.functional import resize, to_tensor

    return to_tensor(resize(image, [32, 32])) / 2


def test_an_interrupted_table_is_completed(frozen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = main(["validate", *frozen]).model.backbone
    table = backbone.stored.table(backbone, 0)
    everything = np.arange(len(table))
    whole = table.read(everything)
    table._mark(np.array([1, 4]), np.zeros(2, np.uint64))
    passes = count_encoded(monkeypatch)
    backbone = main(["validate", *frozen]).model.backbone
    again = backbone.stored.table(backbone, 0)
    assert passes == [2] and again.folder == table.folder
    for found, expected in zip(again.read(everything), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=2**-10, atol=1e-5)


@pytest.mark.slow
def test_a_damaged_row_and_a_changed_image_are_encoded_again(
    frozen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = main(["validate", *frozen])
    backbone, rows = cli.model.backbone, next(iter(cli.datamodule.val_dataloader()[0])).image  # (B, 2)
    table, expected = backbone.stored.table(backbone, 0), backbone.encode_image(rows)
    with open(table.folder / FEATURES, "r+b") as file:
        file.seek(table.size * 3 + 5)
        file.write(b"damaged")
    assert not torch.equal(backbone.encode_image(rows).embedding, expected.embedding)  # compared once in a process
    passes = count_encoded(monkeypatch)
    cli = main(["validate", *frozen])
    assert passes == [1]
    found = cli.model.backbone.encode_image(rows)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-5, atol=1e-5)
    images = cli.datamodule._images("val", {})
    os.utime(images.file(images.names[int(rows[2, 1])]), (1, 1))
    main(["validate", *frozen])
    assert passes == [1, 1]


def table_of(folder: Path) -> FeatureTable:
    return FeatureTable(folder, np.array([7, 8, 9], np.uint64) << np.uint64(32), 6, 2)


def test_rows_are_what_was_written(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    tokens, embedding = torch.randn(2, 3, 2), torch.randn(2, 2)
    table.write([2, 0], tokens, embedding)
    assert table.lacking() == [1] and table.damaged(np.array([0, 1, 2, 0])) == [1]
    found = table.read(np.array([0, 2, 0]))
    assert torch.equal(found[0], tokens[[1, 0, 1]].flatten(1).half()) and torch.equal(found[1], embedding[[1, 0, 1]])
    assert torch.equal(table.embeddings(np.array([2, 0])), embedding)
    assert torch.equal(pickle.loads(pickle.dumps(table)).read(np.array([2]))[1], embedding[:1])


def test_rows_that_another_process_stores_meanwhile_keep_their_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (table_of(tmp_path) for _ in range(2))
    ones = torch.ones(3, 3, 2), torch.ones(3, 2)
    other.write([0, 1], ones[0][:2], ones[1][:2])
    marked = []
    write = FeatureTable._mark
    monkeypatch.setattr(
        FeatureTable, "_mark", lambda *call: (write(*call), marked.append(other.damaged(np.array([0, 1]))))
    )
    one.write([0, 1, 2], *ones)  # the work of both, cut out before the other one stored it
    assert marked == [[]] and one.lacking() == []


def test_numbers_too_large_for_half_precision_are_told(frozen: list[str]) -> None:
    backbone = main(["validate", *frozen]).model.backbone
    state = backbone.state_dict()
    state["clip.visual.ln_pre.bias"][0] = 1e6
    backbone.load_state_dict(state)
    with pytest.raises(InputError, match="too large for the half precision .* take null") as refused:
        backbone.stored.table(backbone, 0)
    assert refused.value.setting == "data.features"


def test_weights_that_give_no_numbers_are_told_with_the_image(frozen: list[str]) -> None:
    backbone = main(["validate", *frozen]).model.backbone
    state = backbone.state_dict()
    state["clip.visual.proj"][0, 0] = float("nan")
    backbone.load_state_dict(state)
    with pytest.raises(ValueError, match="the features of this image are not finite: the image tower has broken"):
        backbone.stored.table(backbone, 0)


def test_auto_leaves_a_trained_tower_alone_and_a_folder_does_not(
    flags: list[str], frozen: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    trained = "--model.backbone.trainable_image_blocks=1"
    message = error_of(capsys, "fit", *frozen, trained)
    assert "only if the image tower is frozen" in message and "(--data.features)" in message
    with caplog.at_level("INFO"):
        cli = main(["fit", *flags, trained, "--data.features=auto"])
    assert cli.model.backbone.stored is None
    assert "".join(caplog.messages).count("data.features auto: the image tower is trained") == 1


def test_the_usual_folder_is_that_of_the_environment_else_among_the_runs(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIR_FEATURES", raising=False)
    assert usual_folder() == runs / "features"
    monkeypatch.setenv("CIR_FEATURES", str(tmp_path))
    assert usual_folder() == tmp_path
    monkeypatch.delenv("CIR_FEATURES")
    monkeypatch.delenv("CIR_RUNS")
    assert usual_folder() == Path("runs/features")


def test_a_setting_that_is_no_folder_is_refused(scenes_folder: Path) -> None:
    for bad in ("", " ", 3, True):
        with pytest.raises(InputError, match="expected null, auto or a folder"):
            Scenes(scenes_folder, features=bad)


def test_a_random_preprocessing_is_refused(frozen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "fit", *frozen, "--data.preprocess=tests.encoders.test_frozen.random_crop")
    assert "gives another result each time" in message and "(--data.features)" in message


def random_crop(image) -> torch.Tensor:
    return darker(image) + torch.rand(1)


def test_the_older_classes_are_the_same(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ["--data=data_modules.frozen.FrozenScenes", "--model.backbone=contextcir.encoders.FrozenImageBackbone"]
    cli = main(["fit", *flags, *classes, f"--model.backbone.features={tmp_path / 'old'}"])
    assert isinstance(cli.model.backbone, FrozenImageBackbone) and len(list((tmp_path / "old").iterdir())) == 3


def test_without_a_trainer_batches_hold_pixels(scenes_folder: Path, clip_folder: Path) -> None:
    backbone = OpenCLIPBackbone(f"local-dir:{clip_folder}", trainable_image_blocks=0, trainable_text_blocks=0)
    data = Scenes(scenes_folder, batch_size=4, num_workers=0, preprocess=backbone.preprocess, features="auto")
    batch = next(iter(data.train_dataloader()))
    assert batch.target.shape == (4, 3, 32, 32)
    losses = ContextCIR(backbone).losses(batch)
    assert losses["loss"].isfinite()
