"""Training records in Arrow: what is wrong with a manifest or a table is told in one line, as from memory."""

import json

import pytest

from contextcir.errors import InputError
from data_modules.arrow.setting import RecordsSetting
from data_modules.arrow.table import ABOUT
from tests.data.test_record_tables import entries, module, write_lines

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("given", ["", "  ", 3, False])
def test_a_setting_that_is_no_folder_is_refused(given):
    with pytest.raises(InputError, match=r"expected null, auto or a folder, got .*\(data.records\)"):
        RecordsSetting(given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": 3}, "record 13 .*of .*field caption must be a string"),
        ({"target": None}, "field target is missing: there is nothing to train on"),
        ({"reference": "../x.png"}, "field reference must be a path below the folder of images"),
        ({"id": 5}, "field id is given, but other records have none"),
        ({"split": "val"}, "field split is missing, but other records have it"),
        ({"image_set": 2**63}, "field image_set has more than 64 bits"),
        ("{", "not valid JSON in line 14"),
        (b"\xff", "expected text in UTF-8, found byte 0xff"),
    ],
)
def test_broken_records_are_told_as_from_memory(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr("data_modules.reading.manifest_lines.BLOCK", 5)
    root = write_lines(tmp_path / "set", entries(20))
    lines = (root / "train.jsonl").read_bytes().splitlines()
    if isinstance(change, dict):
        lines[13] = json.dumps(json.loads(lines[13]) | change).encode()
    else:
        lines[13] = change if isinstance(change, bytes) else change.encode()
    (root / "train.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=message):
        module(root, tmp_path / "kept").read_training()
    if "64 bits" not in message:
        with pytest.raises(InputError, match=message.replace(" in a line", "")):
            module(root, None).read_training()


def test_ids_that_are_there_twice_and_splits_are_found_over_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("data_modules.reading.manifest_lines.BLOCK", 4)
    made = entries(20, numbered=True)
    root = write_lines(tmp_path / "set", [*made, made[2]])
    for kept in (None, tmp_path / "kept"):
        with pytest.raises(InputError, match=r"record 20 \(id 11\) .*field id is 11, as in record 2: every record"):
            module(root, kept).read_training()
    named = [record | {"split": "train" if n % 5 else "val"} for n, record in enumerate(made)]
    root = write_lines(tmp_path / "named", named)
    old, new = (module(root, kept).read_training().records for kept in (None, tmp_path / "kept"))
    assert tuple(new) == old and len(old) == 16
    with pytest.raises(InputError, match="no record has split 'test'"):
        module(root, tmp_path / "kept", file="train.jsonl", train_split="test").read_training()


@pytest.mark.parametrize("damage", ["bit", "cut", "numbers", "gone", "about"])
def test_damage_is_told_and_never_trained_on(tmp_path, damage):
    root = write_lines(tmp_path / "set", entries(20))
    data = module(root, tmp_path / "kept")
    (folder,) = (data.read_training().records, (tmp_path / "kept").iterdir())[1]
    path = folder / {"numbers": "numbers.npy", "about": ABOUT}.get(damage, "records-00000.arrow")
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        place = content.find(b"green") if damage == "bit" else len(content) - 5
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        if damage in ("cut", "about"):
            path.write_bytes(content[:place])
    with pytest.raises(InputError, match=r"damaged|no file|Delete|delete"):
        list(module(root, tmp_path / "kept").train_dataloader())
