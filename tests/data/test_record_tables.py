"""Training records in Arrow: the same records, orders and batches as from memory, in other processes too."""

import json
import multiprocessing
import pickle
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contextcir.batch import TripletBatch
from contextcir.errors import InputError
from contextcir.phrases.bank import About, write_bank
from contextcir.phrases.parser import Parse, ParserKey, Span
from contextcir.phrases.sources import BankPhrases
from data_modules import GroupedByImageSet, GroupedByReference, LaSCo, Manifest, Mixture, Shuffled
from data_modules.arrow import setting as setting_module
from data_modules.arrow.setting import RecordsSetting
from data_modules.arrow.table import RecordTable
from data_modules.arrow.writer import TableWriter
from data_modules.base import CompositionDataModule
from data_modules.columns import GroupColumn, LazyRecords
from data_modules.loading.sampling import TrainingOrder
from data_modules.manifest import ManifestReader
from data_modules.records import TrainingSet
from tests.data.test_pixel_cache import clip_preprocess
from tests.data.test_sampling import epoch_of
from tests.helpers.make_data import preprocess, write_image

pytest.importorskip("pyarrow")

ORDERS = (Shuffled(), GroupedByImageSet(seed=3), GroupedByReference())


def entries(count: int, seed: int = 0, images: int = 12, numbered: bool = False) -> list[dict[str, Any]]:
    """Records with some of all fields that a training set has."""
    draw, made = random.Random(seed), []
    for number in range(count):
        names = draw.sample(range(images), 4)
        reference, target, *others = (f"{n % 3}/{n}.png" for n in names)
        record = {"reference": reference, "target": target, "caption": f"make the dog {number} green"}
        if draw.random() < 0.5:
            record["image_set"] = draw.choice([-1, 0, 7, 2**40])
        if draw.random() < 0.4:
            box = [1, 2.5, 7, 9] if draw.random() < 0.5 else None
            record["phrases"] = [{"start": 0, "end": 4, "box": box}, {"start": 5, "end": 12}]
            record["image_size"] = [40, 30]
        if draw.random() < 0.4:
            record["clauses"] = [[0, 4], [5, 12]]
        if draw.random() < 0.4:
            record["negatives"] = others[: draw.randint(1, 2)]
        made.append(record | ({"id": 3 * number + 5} if numbered else {}))
    return made


def write_lines(root: Path, records: Sequence[dict], name: str = "train.jsonl", images: int = 12) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    for number in range(images):
        write_image(root / f"{number % 3}/{number}.png", f"{number}")
    return root


def table_of(reader: ManifestReader, folder: Path, part: int = 10) -> RecordTable:
    return TableWriter(folder, part).write(reader.training_stream("train"))


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
@pytest.mark.parametrize("numbered", [False, True])
def test_a_table_holds_what_a_reader_reads(tmp_path, monkeypatch, name, numbered):
    monkeypatch.setattr("data_modules.reading.manifest_lines.BLOCK", 7)
    reader = ManifestReader(write_lines(tmp_path / "set", entries(50, numbered=numbered), name))
    expected, table = reader.read_training("train"), table_of(reader, tmp_path / "kept")
    found = table.training_set()
    assert tuple(found.records) == expected.records and found.file == expected.file
    assert list(found.image_paths.items()) == list(expected.image_paths.items())
    assert [table.images.place(image) for image in found.image_paths] == list(range(len(found.image_paths)))
    assert "nowhere.png" not in table.images and table[-1] == expected.records[-1]
    assert tuple(table[3:9]) == expected.records[3:9] and list(table.needed_images()) == list(expected.image_paths)
    for field in ("phrases", "clauses", "negatives"):
        assert table.filled(field) == sum(bool(getattr(record, field)) for record in expected.records)
    again = pickle.loads(pickle.dumps(table))
    assert tuple(again) == expected.records and len(pickle.dumps(table)) < 5000


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=30))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_captions_and_names_come_back(tmp_path_factory, triplets):
    records = [
        {"reference": f"a/{r}", "target": f"b/{t}", "caption": caption}
        for r, t, caption in triplets
        if not any("/" in name or "\\" in name or name.strip(". ") == "" for name in (r, t))
    ]
    root = tmp_path_factory.mktemp("set")
    (root / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*records, entries(1)[0]]))
    reader = ManifestReader(root)
    expected, found = reader.read_training("train"), table_of(reader, root / "kept", 3).training_set()
    assert tuple(found.records) == expected.records
    assert dict(found.image_paths) == expected.image_paths


groups = st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=40)


@given(groups, st.integers(0, 9), st.sampled_from([Shuffled, GroupedByImageSet]))
def test_numbers_are_arranged_as_what_they_stand_for(values, seed, order):
    column = GroupColumn(np.array([-1 if value is None else value for value in values]))
    assert list(column) == values
    drawn = order().indices(column, random.Random(seed))
    assert list(drawn) == order().indices(values, random.Random(seed))


def module(root: Path, kept: Path | None, **options: Any) -> Manifest:
    options = {"batch_size": 3, "num_workers": 0, "preprocess": preprocess, "val_splits": ()} | options
    return Manifest(root, records=kept and str(kept), **options)


def same(one: TripletBatch, other: TripletBatch) -> None:
    assert one.query.captions == other.query.captions
    for old, new in zip(flat(one), flat(other), strict=True):
        assert torch.equal(old.nan_to_num(-1), new.nan_to_num(-1))


def flat(part: Any) -> list[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        return [part]
    if hasattr(part, "__dataclass_fields__"):
        part = [getattr(part, name) for name in part.__dataclass_fields__]
    return [tensor for one in part for tensor in flat(one)] if isinstance(part, tuple | list) else []


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_batches_are_those_of_records_in_memory(tmp_path, order):
    root, workers = write_lines(tmp_path / "set", entries(40)), 2 * isinstance(order, Shuffled)
    old, new = (module(root, kept, order=order, num_workers=workers) for kept in (None, tmp_path / "kept"))
    loaders = [data.train_dataloader() for data in (old, new)]
    assert isinstance(new._training.records, RecordTable) and isinstance(old._training.records, tuple)
    for one, other in zip(*loaders, strict=True):
        same(one, other)
        assert one.negatives is not None and flat(one.negatives)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
@pytest.mark.parametrize("replicas", [1, 2])
def test_orders_and_the_rest_of_an_epoch_are_those_of_memory(tmp_path, order, replicas):
    root = write_lines(tmp_path / "set", entries(30, seed=1))
    for epoch, rank in ((0, 0), (2, replicas - 1)):
        whole = epoch_of(module(root, None, order=order), epoch, 0, replicas, rank)
        for done in (0, len(whole) - 1):
            assert epoch_of(module(root, tmp_path / "kept", order=order), epoch, done, replicas, rank) == whole[done:]


class ByCaption(GroupedByImageSet):
    """An order of somebody else, that groups by what no column holds."""

    def group(self, record):
        return record.caption[-8:-6]


def mixed(root: Path, kept: Path | None, **options: Any) -> Mixture:
    sets: list[CompositionDataModule] = [
        Manifest(root / name, name=name, val_splits=()) for name in ("one", "two", "three")
    ]
    options = {"batch_size": 3, "num_workers": 0, "preprocess": preprocess} | options
    return Mixture(sets, records=kept and str(kept), **options)


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        *(([1.0, 3.0, 2.0], order) for order in (*ORDERS, ByCaption())),
        (None, GroupedByImageSet(1)),
        ([1.0, 0.0, 0.3], GroupedByReference(2)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_mixtures_are_those_of_memory(tmp_path, weights, order):
    for seed, (name, count) in enumerate({"one": 12, "two": 7, "three": 15}.items()):
        write_lines(tmp_path / name, entries(count, seed))
    old, new = (mixed(tmp_path, kept, weights=weights, order=order) for kept in (None, tmp_path / "kept"))
    before, after = old.read_training(), new.read_training()
    assert isinstance(after.records, LazyRecords) and tuple(after.records) == before.records
    assert after.image_paths == before.image_paths
    for epoch in (0, 3):
        whole = epoch_of(old, epoch)
        assert epoch_of(new, epoch) == whole and epoch_of(new, epoch, 2) == whole[2:]
    assert new.train_dataloader().digest and not old.train_dataloader().digest


def test_a_mixture_of_both_kinds_is_that_of_memory(tmp_path):
    for seed, name in enumerate(("one", "two", "three")):
        write_lines(tmp_path / name, entries(9, seed))
    old, new = mixed(tmp_path, None, weights=[1, 2, 1]), mixed(tmp_path, None, weights=[1, 2, 1])
    new.sets["two"].records = RecordsSetting(str(tmp_path / "kept"))
    assert isinstance(new.read_training().records, LazyRecords)
    assert epoch_of(new, 1) == epoch_of(old, 1) and not new.train_dataloader().digest


def test_phrases_come_from_the_bank(tmp_path):
    made = [record | {"caption": f"make the dog {n} green"} for n, record in enumerate(entries(9, seed=2))]
    root, bank = write_lines(tmp_path / "set", made), tmp_path / "of.bank"
    rows = [(record["caption"], Parse((Span(5, 12),), (Span(0, 4),))) for record in made]
    about = About(ParserKey("words", "m", "1", "all"), "--parser=words", 0)
    write_bank(bank, sorted(rows), about)
    old, new = (module(root, kept, phrases=BankPhrases(bank)) for kept in (None, tmp_path / "kept"))
    batches = list(zip(old.train_dataloader(), new.train_dataloader(), strict=True))
    assert batches and all(len(one.query.phrases.owner) >= 3 for one, _ in batches)
    for one, other in batches:
        same(one, other)
    write_bank(bank, sorted(rows)[1:], about)
    with pytest.raises(InputError, match=r"1 of \d+ captions without phrases, the first in record 0 of"):
        module(root, tmp_path / "kept", phrases=BankPhrases(bank)).train_dataloader()


def test_triplets_with_missing_images_are_left_out_as_from_memory(tmp_path):
    root = write_lines(tmp_path / "set", entries(40, seed=4))
    (root / "1/4.png").unlink()
    with pytest.raises(InputError, match=r"1 of 12 images are missing: 1/4.png \(no file"):
        module(root, tmp_path / "kept").train_dataloader()
    for order in ORDERS:
        parts = [module(root, kept, allow_missing=True, order=order) for kept in (None, tmp_path / "kept")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaders = [data.train_dataloader() for data in parts]
        old, new = (data._training.records for data in parts)
        assert tuple(new) == old and 0 < len(old) < 40
        assert new.filled("negatives") == sum(bool(record.negatives) for record in old)
        for one, other in zip(*loaders, strict=True):
            same(one, other)


def test_files_of_other_endings_and_in_fewer_folders_are_found(tmp_path):
    root = write_lines(tmp_path / "set", entries(20))
    (root / "1/4.png").rename(root / "1/4.PNG")
    one, other = (next(iter(module(root, kept).train_dataloader())) for kept in (None, tmp_path / "kept"))
    same(one, other)
    flat_root = tmp_path / "flat"
    flat_root.mkdir()
    (flat_root / "train.jsonl").write_bytes((root / "train.jsonl").read_bytes())
    for path in root.glob("*/*.*"):
        path.rename(flat_root / path.name)
    same(one, next(iter(module(flat_root, tmp_path / "kept").train_dataloader())))


def test_the_digest_is_in_the_resume_state_and_tells_other_records(tmp_path):
    root = write_lines(tmp_path / "set", entries(20))
    plain, kept = module(root, None).train_dataloader(), module(root, tmp_path / "kept").train_dataloader()
    state = kept.state_dict()
    assert len(state["records"]) == 64 and {**plain.state_dict(), "records": state["records"]} == state
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loader in (plain, kept):  # a run may begin with records in memory and go on with a table, or the reverse
            for one in (plain.state_dict(), state):
                loader.load_state_dict(one)
    changed = entries(20)
    changed[7]["caption"] += " again"
    write_lines(tmp_path / "set", changed)
    with pytest.warns(UserWarning, match=r"\(records [0-9a-f]{12} -> [0-9a-f]{12}\)"):
        module(root, tmp_path / "kept").train_dataloader().load_state_dict(state)


def test_a_set_is_converted_once_and_again_if_its_file_changes(tmp_path, monkeypatch, capsys, caplog):
    root = write_lines(tmp_path / "set", entries(20))
    with caplog.at_level("INFO"):
        first = module(root, tmp_path / "kept").read_training()
    assert "data.records: converting" in capsys.readouterr().err + caplog.text
    monkeypatch.setattr(ManifestReader, "training_stream", lambda *_: pytest.fail("converted again"))
    again = module(root, tmp_path / "kept").read_training()
    assert tuple(again.records) == tuple(first.records)
    monkeypatch.undo()
    write_lines(tmp_path / "set", entries(21))
    assert len(module(root, tmp_path / "kept").read_training().records) == 21


def test_auto_converts_large_files_only_beside_them(tmp_path, monkeypatch):
    root = write_lines(tmp_path / "set", entries(20))
    assert isinstance(Manifest(root, records="auto").read_training().records, tuple)
    data = Manifest(root, records="auto")
    data.records = RecordsSetting("auto", small=100)
    assert isinstance(data.read_training().records, RecordTable)
    assert len(list((root / setting_module.FOLDER).iterdir())) == 1


def test_large_sets_in_memory_are_told_of_the_setting(tmp_path, caplog, capsys):
    data = Manifest(write_lines(tmp_path / "set", entries(20)))
    data.records = RecordsSetting(None, small=100)
    with caplog.at_level("INFO"):
        assert isinstance(data.read_training().records, tuple)
    assert "auto keeps them in files that all processes share" in capsys.readouterr().err + caplog.text


def test_the_pixel_cache_stands_in_front_of_a_table(tmp_path):
    root = write_lines(tmp_path / "set", entries(20))
    options = {"preprocess": clip_preprocess(), "cache": str(tmp_path / "pixels")}
    loaders = [module(root, kept, **options).train_dataloader() for kept in (None, tmp_path / "kept")]
    for one, other in zip(*loaders, strict=True):
        same(one, other)
    assert len(list((tmp_path / "pixels").iterdir())) == 1, "both kinds of records share their pixels"


def test_small_sets_need_no_pyarrow_and_others_say_so(tmp_path, monkeypatch):
    root = write_lines(tmp_path / "set", entries(20))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for kept in (None, "auto"):
        assert isinstance(Manifest(root, records=kept).read_training().records, tuple)
    with pytest.raises(InputError, match=r"need the extra parquet: .*or take null \(data.records\)"):
        Manifest(root, records=str(tmp_path / "kept")).read_training()
    assert not (tmp_path / "kept").exists()


def captions_of(table: RecordTable, number: int, queue: Any) -> None:
    queue.put((number, [table[index].caption for index in range(number, len(table), 4)]))


def test_processes_share_a_table_that_is_open(tmp_path):
    reader = ManifestReader(write_lines(tmp_path / "set", entries(30)))
    table = table_of(reader, tmp_path / "kept")
    captions = [record.caption for record in table]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=captions_of, args=(table, number, queue)) for number in range(2)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    assert found == {number: captions[number::4] for number in range(2)}


def test_other_sets_of_one_file_are_converted_and_the_rest_stays_in_memory(tmp_path):
    captions = [
        {"query-image": [n, f"a/{n}.jpg"], "query-text": f"c {n}", "target-image": [n + 1, f"a/{n + 1}.jpg"]}
        for n in range(9)
    ]
    (tmp_path / "lasco_train.json").write_text(json.dumps(captions))
    old, new = (LaSCo(tmp_path, records=kept).read_training() for kept in (None, str(tmp_path / "kept")))
    assert isinstance(new.records, RecordTable) and tuple(new.records) == old.records
    assert list(new.image_paths.items()) == list(old.image_paths.items())


def test_every_order_of_the_project_has_columns_for_its_groups(tmp_path):
    table = table_of(ManifestReader(write_lines(tmp_path / "set", entries(30))), tmp_path / "kept")
    for order in ORDERS:
        assert isinstance(order.groups(table), GroupColumn), type(order)
    assert isinstance(ByCaption().groups(table), list) and issubclass(ByCaption, TrainingOrder)
    assert isinstance(TrainingSet(table, {}, "").records, RecordTable)
