"""Mixtures: the triplets, images and evaluation of several training sets in one run."""

from collections import Counter
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from data_modules import CIRCO, CIRR, GroupedByReference, Manifest, Mixture, Shuffled
from data_modules.cirr import CIRRReader
from tests.helpers.make_data import colour_of, edited, make_circo, preprocess, write_json
from tests.helpers.make_mixture import make_sets, mixture


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return make_sets(tmp_path)


def test_concatenation_goes_once_through_all_triplets(folders: dict[str, Path]) -> None:
    loader = mixture(folders, batch_size=13, order=Shuffled(0)).train_dataloader()
    (batch,) = loader
    expected = [f"Show {query + 2} bottles instead" for _ in range(2) for query in range(3)]
    expected += ["a 0", "a 1", *(f"o {n}" for n in range(5))]
    assert Counter(batch.query.captions) == Counter(expected)


def test_ids_are_those_of_files(folders: dict[str, Path]) -> None:
    """Compared with the files behind every row, looked up one by one."""
    data = mixture(folders, batch_size=13)
    (batch,) = data.train_dataloader()
    records = data._training.records
    file_of = {}
    for name in {image for record in records for image in (record.reference, record.target)}:
        part, image = name.split(":")
        file = image + ".png" if part == "cirr" else image.rsplit("/", 1)[-1]
        (place,) = folders["own" if part == "own" else "cirr"].rglob(file)
        file_of[name] = place.resolve()
    ids = {}
    for row, index in enumerate(batch.query.index.tolist()):
        for name, number in (
            (records[index].reference, batch.reference_id[row]),
            (records[index].target, batch.target_id[row]),
        ):
            assert ids.setdefault(file_of[name], number.item()) == number.item()
    assert len(set(ids.values())) == len(ids) == 8 + 10  # in `cirr` 2 sets of 4 images, in `own` 5 pairs
    names = {file.name for file in ids}
    assert len(names) < len(ids)  # else equal names would prove nothing


def test_images_come_from_their_own_set(folders: dict[str, Path]) -> None:
    data = mixture(folders, batch_size=13)
    (batch,) = data.train_dataloader()
    for row, caption in enumerate(batch.query.captions):
        pixel = tuple(int(value) for value in (batch.query.reference[row, :, 0, 0] * 255).round())
        if caption.startswith("o "):
            assert pixel == colour_of(f"own train/0/train-0-0-img{caption[2:]}.png")
        elif caption.startswith("a "):
            assert pixel == colour_of(f"train-0-0-img{caption[2:]}")


def test_links_to_folders_lead_to_the_same_images(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(folders["cirr"])
    sets = [CIRR(folders["cirr"]), Manifest(tmp_path / "linked", file=str(folders["again"]), name="again")]
    data = Mixture(sets, batch_size=8, num_workers=0, preprocess=preprocess)
    (batch,) = data.train_dataloader()
    rows = {caption: row for row, caption in enumerate(batch.query.captions) if caption.startswith("a ")}
    assert batch.target_id[rows["a 0"]] == batch.reference_id[rows["a 1"]]
    assert len({*batch.target_id.tolist(), *batch.reference_id.tolist()}) == 8


def test_image_sets_of_different_sets_are_different_groups(folders: dict[str, Path]) -> None:
    records = mixture(folders).read_training().records
    groups = {}
    for record in records:
        if record.image_set is not None:
            groups.setdefault(record.image_set, set()).add(record.reference.split(":")[0])
    assert sorted(map(sorted, groups.values())) == [["cirr"], ["cirr"], ["own"]]
    assert sum(record.image_set is None for record in records) == 2


def test_image_sets_have_the_images_of_their_own_set(folders: dict[str, Path]) -> None:
    alone = CIRRReader(folders["cirr"]).read_training("train").image_sets
    assert alone
    named = [tuple(f"cirr:{name}" for name in members) for members in alone]
    assert list(mixture(folders).read_training().image_sets) == named


def test_evaluation_is_that_of_the_first_or_the_named_set(folders: dict[str, Path]) -> None:
    write_json(folders["own"] / "val.json", [{"reference": "0.png", "target": "1.png", "caption": "x"}])
    first, named = mixture(folders), mixture(folders, evaluate="own")
    alone = CIRR(folders["cirr"], num_workers=0, preprocess=preprocess)
    assert first.protocols("val") == alone.protocols("val") and first.protocols("predict")[0].split == "test1"
    assert (named.protocols("val")[0].benchmark, named.protocols("val")[0].gallery) == ("own", ("0.png", "1.png"))
    assert first.query_batch("val", 0, [4]).reference.equal(alone.query_batch("val", 0, [4]).reference)
    assert first.target_image("val", 0, 4).getpixel((0, 0)) == colour_of("val-1-0-img2")
    for mixed, single in zip(first.val_dataloader(), alone.val_dataloader(), strict=True):
        assert [batch.index.tolist() for batch in mixed] == [batch.index.tolist() for batch in single]


def instantiate(*args: str) -> LightningDataModule:
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_subclass_arguments(LightningDataModule, "data")
    return parser.instantiate(parser.parse_args(args)).data


def test_a_config_lists_the_sets(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIR_DATA", str(tmp_path))
    (tmp_path / "mix.yaml").write_text(
        "class_path: Mixture\n"
        "init_args:\n"
        "  sets:\n"
        "    - {class_path: CIRR, init_args: {root: '${oc.env:CIR_DATA}/cirr'}}\n"
        "    - class_path: Manifest\n"
        "      init_args: {root: '${oc.env:CIR_DATA}/own', name: own}\n"
        "  weights: [1, 0.5]\n"
        "  evaluate: cirr\n"
        "  batch_size: 4\n"
        "  order: {class_path: GroupedByReference, init_args: {seed: 3}}\n"
    )
    data = instantiate(f"--data={tmp_path / 'mix.yaml'}", "--data.num_workers=0")
    assert isinstance(data, Mixture) and list(data.sets) == ["cirr", "own"] and data.batch_size == 4
    assert data.weights == {"cirr": 1.0, "own": 0.5} and isinstance(data.order.order, GroupedByReference)
    assert data.order.seed == 3 and data.num_workers == 0
    data.preprocess = preprocess
    assert len(list(data.train_dataloader())) == 2


def test_errors_name_the_set_and_the_record_in_its_file(folders: dict[str, Path]) -> None:
    data = mixture(folders, batch_size=2)
    origins = [str(record.origin) for record in data.read_training().records]
    assert origins[0] == f"record 0 (pairid 0) of {folders['cirr'] / 'captions/cap.rc2.train.json'}"
    assert origins[7] == f"record 1 of {folders['again']}"
    assert origins[12] == f"record 4 of {folders['own'] / 'train.json'}"
    with edited(folders["own"] / "train.json") as records:
        del records[3]["caption"]
    with pytest.raises(ValueError, match=r"^set own of the mixture: record 3 of .*: field caption is missing"):
        data.read_training()
    (folders["own"] / "train.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"^set own of the mixture: no file .*own/train\.jsonl"):
        data.read_training()
    with pytest.raises(ValueError, match=r"cap\.rc2\.train\.json and .*again\.json holds 8 triplets, fewer than"):
        mixture(folders, weights=[1, 1, 0], batch_size=9).train_dataloader()


def test_settings_that_can_not_work(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is empty: list at least one data module \(data\.sets\)"):
        Mixture([])
    with pytest.raises(ValueError, match="two sets named 'cirr'"):
        Mixture([CIRR(folders["cirr"]), CIRR(folders["cirr"])])
    with pytest.raises(ValueError, match="must be a word.*got 'my set'"):
        Mixture([Manifest(folders["own"], name="my set")])
    with pytest.raises(ValueError, match=r"expected one of cirr, again, own, got 'lasco' \(data\.evaluate\)"):
        mixture(folders, evaluate="lasco")
    for weights in ([1.0], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1]):
        with pytest.raises(ValueError, match="expected one number for each of cirr, again, own"):
            mixture(folders, weights=weights)
    circo = CIRCO(make_circo(tmp_path / "circo"))
    with pytest.raises(ValueError, match="^set circo of the mixture: CIRCO has no training split"):
        Mixture([CIRR(folders["cirr"]), circo]).read_training()


def test_sets_are_prepared(folders: dict[str, Path]) -> None:
    prepared = []

    class Prepared(Manifest):
        def prepare_data(self) -> None:
            prepared.append(self.benchmark)

    Mixture([Prepared(folders["own"], name=name) for name in ("one", "two")]).prepare_data()
    assert prepared == ["one", "two"]
