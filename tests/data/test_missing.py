"""Images that are not there: an error before anything is scored, or a benchmark without them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from callbacks import AttentionFigures, RecallTable
from contextcir.training.module import ContextCIR
from data_modules import CIRCO, CIRR, CompositionDataModule
from data_modules.loading.images import ImageStore
from tests.helpers import tiny
from tests.helpers.make_data import make_circo, make_cirr, preprocess, write_image


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def remove(root: Path, *names: str, folder: str = "dev") -> None:
    for name in names:
        (root / "img_raw" / folder / f"{name}.png").unlink()


def trainer(folder: Path, **options: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet, **options)


def test_missing_files_are_found_by_listing_folders(tmp_path: Path) -> None:
    paths = {f"{folder}{number}": f"./{folder}/{number}.png" for folder in "ab" for number in range(3)}
    paths |= {"top": "top.png", "lost": "nowhere/x.png", "below": "top.png/x.png", "folder": "a"}
    for name in ("a0", "a2", "b1", "top"):
        write_image(tmp_path / paths[name], name)
    (tmp_path / "a" / "1.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b" / "0.png").symlink_to(tmp_path / "a" / "0.png")
    store = ImageStore(tmp_path, paths)
    assert store.missing(list(paths)) == ["a1", "b2", "lost", "below", "folder"]
    assert store.missing(["b2", "top"]) == ["b2"]
    for name, state in zip(paths, store.states(list(paths)), strict=True):
        path = tmp_path / paths[name]
        expected = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
        assert state == expected, name


def test_no_file_is_asked_for_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand questions to a network disk would take minutes."""
    for number in range(20):
        write_image(tmp_path / f"{number}.png", "x")
    store = ImageStore(tmp_path, {str(number): f"{number}.png" for number in range(25)})
    for question in ("stat", "exists", "is_file"):
        monkeypatch.setattr(Path, question, lambda path: pytest.fail(f"asked for {path}"))
    assert len(store.missing(store.names)) == 5


def test_missing_images_stop_an_evaluation_before_it_begins(tmp_path: Path) -> None:
    root = make_cirr(tmp_path / "data", hidden=())
    remove(root, "val-0-0-img1", "val-1-0-img0", "val-1-0-img4", "val-1-0-img5")
    model = ContextCIR(tiny.backbone())
    model.backbone.encode_image = lambda images: pytest.fail("an image was encoded")
    data = CIRR(root, num_workers=0, batch_size=2)
    run = trainer(tmp_path, max_epochs=1)
    for action in (run.validate, run.fit):
        message = complaint(lambda action=action: action(model, data))
        assert message.startswith("cirr val: 4 of 12 images are missing: val-0-0-img1, val-1-0-img0, val-1-0-img4, ...")
        assert str(root / "img_raw" / "dev" / "val-0-0-img1.png") in message
        assert f"`python -m experiments.check_data cirr --root {root}`" in message
        assert message.endswith("(data.allow_missing)")
    assert "4 of 12" in complaint(CIRR(root, preprocess=preprocess).val_dataloader)
    assert CIRR(root).protocols("val")[0].gallery, "annotations alone can still be read"
    remove(root, "test1-0-0-img2", folder="test1")
    message = complaint(lambda: run.predict(model, data))
    assert "cirr test1: 1 of 12 images are missing: test1-0-0-img2 (" in message


def test_missing_training_images_stop_training_before_it_begins(tmp_path: Path) -> None:
    root = make_cirr(tmp_path / "data", sets=3)
    (root / "img_raw" / "train" / "1" / "train-1-0-img0.png").unlink()
    (root / "img_raw" / "train" / "2" / "train-2-0-img1.png").unlink()
    (root / "img_raw" / "train" / "2" / "train-2-0-img5.png").unlink()  # nobody trains on it
    message = complaint(CIRR(root, batch_size=2, preprocess=preprocess).train_dataloader)
    captions = root / "captions" / "cap.rc2.train.json"
    assert message.startswith(f"{captions}: 2 of 12 images are missing: train-1-0-img0, train-2-0-img1 (")
    data = CIRR(root, batch_size=1, num_workers=0, preprocess=preprocess, allow_missing=True)
    with pytest.warns(UserWarning, match="2 of 12 images are missing"):
        loader = data.train_dataloader()
    # image 0 is the reference of query 0; image 1 the target of query 0 and the reference of query 1
    assert [record.id for record in data._training.records] == [0, 1, 2, 11, 12, 22]
    assert len(list(loader)) == 6
    (root / "img_raw" / "train" / "2" / "train-2-0-img2.png").unlink()
    assert f"(reference of record 8 (pairid 22) of {captions})" in complaint(lambda: list(loader))


def test_what_is_left_of_cirr_is_scored_and_said(tmp_path: Path) -> None:
    root = make_cirr(tmp_path / "data", hidden=())
    # Query q of a set has reference q and target q + 1.
    remove(root, "val-0-0-img1", "val-1-0-img3", "val-1-0-img5")
    data = CIRR(root, num_workers=0, eval_batch_size=3, allow_missing=True)
    run = trainer(tmp_path, callbacks=[RecallTable()])
    with pytest.warns(UserWarning, match=r"cirr val: 3 of 12 images are missing: .* figures are not comparable"):
        run.validate(ContextCIR(tiny.backbone()), data, verbose=False)
    (protocol,) = data.protocols("val")
    assert protocol.query_ids == (1002, 1010, 1011)
    kept = [f"val-0-0-img{member}" for member in (0, 2, 3, 4, 5)] + [f"val-1-0-img{member}" for member in (0, 1, 2, 4)]
    assert list(protocol.gallery) == kept
    assert [kept[targets[0]] for targets in protocol.targets] == ["val-0-0-img3", "val-1-0-img1", "val-1-0-img2"]
    assert [kept[reference] for reference in protocol.references] == ["val-0-0-img2", "val-1-0-img0", "val-1-0-img1"]
    assert [{kept[image] for image in subset} for subset in protocol.subsets] == [set(kept[:5]), *[set(kept[5:])] * 2]
    assert data.missing_images("val") == 3 and data.missing_images("test1") == 0
    assert data.query_batch("val", 0, [1]).captions == ["Show 2 bottles instead"]
    assert '"queries": 3' in (tmp_path / "metrics.json").read_text()


def test_a_query_of_circo_stays_while_one_of_its_targets_does(tmp_path: Path) -> None:
    root = make_circo(tmp_path / "data")  # targets: 104; 105 and 103; 106 and 103
    images = root / "COCO2017_unlabeled" / "unlabeled2017"
    for number in (104, 105):
        (images / f"{number:012d}.jpg").unlink()
    data = CIRCO(root, num_workers=0, allow_missing=True)
    with pytest.warns(UserWarning, match="circo val: 2 of 9 images are missing: 104, 105 "):
        (protocol,) = data.protocols("val")
    first = () if protocol.recall_of_first else (1,)
    assert protocol.query_ids == (*first, 2)
    assert [[protocol.gallery[image] for image in images] for images in protocol.targets][-1] == ["106", "103"]
    for stratum in protocol.strata.values():
        assert stratum and max(stratum) < len(protocol.query_ids)
    data.preprocess = preprocess
    for query in range(len(protocol.query_ids)):
        assert data.target_image("val", 0, query) is not None
    with pytest.warns(UserWarning, match="circo test: 2 of 9"):
        (test,) = data.protocols("predict")
    assert test.query_ids == (0, 1, 2) and not test.labelled and len(test.gallery) == 7


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    root = make_cirr(tmp_path, sets=1)
    remove(root, "val-0-0-img1", "val-0-0-img2")
    with pytest.warns(UserWarning, match="2 of 6"):
        message = complaint(lambda: CIRR(root, allow_missing=True).protocols("val"))
    assert "cirr val: without the missing images no query is left" in message


def test_a_complete_benchmark_is_not_touched(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = make_cirr(tmp_path)
    assert CIRR(root, allow_missing=True).protocols("val") == CIRR(root).protocols("val")
    assert not [warning for warning in recwarn if "missing" in str(warning.message)]


def test_the_layout_is_found_with_most_of_its_images_missing(tmp_path: Path) -> None:
    root = make_cirr(tmp_path, sets=8, hidden=())
    shutil.move(root / "img_raw", root / "images")
    for number, path in enumerate(sorted((root / "images" / "dev").iterdir())):
        if number % 6 not in (2, 3) or number in (24,):
            path.unlink()
    with pytest.warns(UserWarning, match="32 of 48 images"):
        assert len(CIRR(root, allow_missing=True).protocols("val")[0].query_ids) == 8


def test_fit_looks_at_validation_images_only_if_it_validates(tmp_path: Path) -> None:
    root = make_cirr(tmp_path / "data")
    remove(root, "val-0-0-img1")
    data = CIRR(root, num_workers=0, batch_size=3)
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(ContextCIR(tiny.backbone()), data)
    assert isinstance(data, CompositionDataModule) and data.missing_images("val") == 0


@pytest.mark.all_figures
def test_figures_of_shown_queries_go_without_missing_images(tmp_path: Path) -> None:
    root = make_circo(tmp_path / "data")
    (root / "COCO2017_unlabeled" / "unlabeled2017" / f"{104:012d}.jpg").unlink()
    data = CIRCO(root, num_workers=0, allow_missing=True)
    with pytest.warns(UserWarning, match="1 of 9"):
        trainer(tmp_path, callbacks=[AttentionFigures()]).validate(ContextCIR(tiny.backbone()), data, verbose=False)
    assert {path.name for path in tmp_path.rglob("query_*.png")} == {"query_1.png", "query_2.png"}
