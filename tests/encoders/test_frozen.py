"""Runs that take features of images from disk are the runs that encode them, and encode each image once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from contextcir.batch import TripletBatch
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.frozen import FeatureTable, FrozenImageBackbone
from contextcir.training.module import ContextCIR
from data_modules import Scenes
from data_modules.frozen import FrozenScenes
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
    return [*flags[:3], overlay, *flags[3:], f"--model.backbone.features={tmp_path / 'features'}"]


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images in all passes through the image tower from now on."""
    passes: list[int] = []
    encode = OpenCLIPBackbone.encode_image

    def counting(self: OpenCLIPBackbone, images: torch.Tensor) -> object:
        passes.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(OpenCLIPBackbone, "encode_image", counting)
    return passes


def test_training_and_figures_are_those_of_the_run_that_encodes_images(
    flags: list[str], frozen: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = main(["fit", *flags, "--name=plain"])
    passes = count_encoded(monkeypatch)
    first = main(["fit", *frozen, "--name=first"])
    images = len(list((first.datamodule.root / "img_raw" / "train").rglob("*.*")))
    assert sum(passes) >= images and isinstance(first.model.backbone, FrozenImageBackbone)
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
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-5, atol=1e-5)
    mixed = torch.cat([batch.target[:2], next(iter(cli.datamodule.val_dataloader()[0])).image[:2]])
    assert len(mixed[:, 0].unique()) == 2  # rows of two lists
    torch.testing.assert_close(backbone.encode_image(mixed).tokens[:2], found.tokens[:2], rtol=0, atol=0)


def test_queries_for_figures_stay_pixels(frozen: list[str]) -> None:
    cli = main(["validate", *frozen])
    batch = cli.datamodule.query_batch("val", 0, [0, 1])
    assert batch.reference.shape == (2, 3, 32, 32)
    assert cli.datamodule.reference_image("val", 0, 1).size == (96, 96)
    loaded = next(iter(cli.datamodule.val_dataloader()[1]))
    torch.testing.assert_close(
        cli.model.embed_query(batch.reference, batch.captions),
        cli.model.embed_query(loaded.reference[:2], loaded.captions[:2]),
        rtol=1e-4,
        atol=1e-5,
    )
    assert torch.equal(loaded.phrases.boxes[:1], batch.phrases.boxes[:1]) or loaded.phrases.boxes[:1].isnan().any()


def test_other_weights_or_arithmetic_have_tables_of_their_own(frozen: list[str], tmp_path: Path) -> None:
    folders = []
    for extra in ([], ["--trainer.precision=bf16-mixed"], ["--data.preprocess=tests.encoders.test_frozen.darker"]):
        main(["validate", *frozen, *extra])
        folders.append(len(list((tmp_path / "features").iterdir())))
    assert folders == [2, 4, 6]  # val and circo_val
    backbone = main(["validate", *frozen]).model.backbone
    before = backbone._table(0)
    state = backbone.state_dict()
    backbone.load_state_dict({k: v + 0.1 if v.is_floating_point() else v for k, v in state.items()})
    assert backbone._table(0).folder != before.folder


def darker(image) -> torch.Tensor:
    from torchvision.transforms.functional import resize, to_tensor

    return to_tensor(resize(image, [32, 32])) / 2


def test_an_interrupted_table_is_completed(frozen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = main(["validate", *frozen]).model.backbone
    table = backbone._table(0)
    whole = table.rows(torch.arange(len(table))).clone()
    table._mark(torch.tensor([1, 4]).numpy(), torch.zeros(2, dtype=torch.int64).numpy().astype("uint64"))
    passes = count_encoded(monkeypatch)
    again = main(["validate", *frozen]).model.backbone._table(0)
    assert passes == [2] and isinstance(again, FeatureTable) and again.folder == table.folder
    torch.testing.assert_close(again.rows(torch.arange(len(again))), whole, rtol=1e-5, atol=1e-5)


def test_rows_that_another_process_stores_meanwhile_keep_their_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = np.array([7, 8, 9], np.uint64)
    one, other = (FeatureTable(tmp_path, stamps, 2) for _ in range(2))
    other.write(torch.tensor([0, 1]), torch.ones(2, 2))
    marked = []
    write = FeatureTable._mark
    monkeypatch.setattr(FeatureTable, "_mark", lambda *call: (write(*call), marked.append(other.lacking([0, 1]))))
    one.write(torch.tensor([0, 1, 2]), torch.ones(3, 2))  # the work of both, cut out before the other one stored it
    assert marked == [[]] and one.lacking([0, 1, 2]) == []


def test_weights_that_give_no_numbers_are_told_with_the_image(frozen: list[str]) -> None:
    backbone = main(["validate", *frozen]).model.backbone
    state = backbone.state_dict()
    state["clip.visual.proj"][0, 0] = float("nan")
    backbone.load_state_dict(state)
    with pytest.raises(ValueError, match="the features of this image are not finite: the image tower has broken"):
        backbone._table(0)


def test_mistakes_are_told_in_one_line(flags: list[str], frozen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "fit", *frozen, "--model.backbone.trainable_image_blocks=1")
    assert "trainable_image_blocks is 1: set it to 0" in message and "(--model.backbone.trainable_" in message
    message = error_of(capsys, "fit", *flags, "--data=data_modules.frozen.FrozenScenes")
    assert "FrozenScenes needs a model that keeps features of images" in message


def test_without_a_trainer_batches_hold_pixels(scenes_folder: Path, clip_folder: Path) -> None:
    backbone = FrozenImageBackbone(model=f"local-dir:{clip_folder}", trainable_text_blocks=0)
    data = FrozenScenes(scenes_folder, batch_size=4, num_workers=0, preprocess=backbone.preprocess)
    batch = next(iter(data.train_dataloader()))
    assert batch.target.shape == (4, 3, 32, 32)
    losses = ContextCIR(backbone).losses(batch)
    assert losses["loss"].isfinite()
