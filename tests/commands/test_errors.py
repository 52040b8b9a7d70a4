"""Errors carry where they are as data, survive a process border, and become one line."""

import pickle

import pytest
from torch.utils.data import DataLoader, Dataset

from contextcir.errors import InputError, MissingFileError
from experiments.command import read_shard, table
from experiments.failures import one_line_errors


def test_an_error_names_record_file_field_and_setting_in_this_order() -> None:
    error = InputError("is missing", file="a.json", record=3, identity="pairid 5", field="caption", setting="data.root")
    assert str(error) == "record 3 (pairid 5) of a.json: field caption is missing (data.root)"


def test_an_error_without_a_place_is_its_problem() -> None:
    assert str(InputError("no such thing")) == "no such thing"


@pytest.mark.parametrize("kind", [InputError, MissingFileError])
def test_an_error_of_another_process_keeps_its_place(kind: type[InputError]) -> None:
    error = kind("is broken", file="a.png", record=1, setting="data.root")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.file, copy.record, copy.setting) == (kind, str(error), "a.png", 1, "data.root")


def test_a_missing_file_is_an_error_of_the_system_and_of_the_input() -> None:
    error = MissingFileError("no such file", file="a.json")
    assert isinstance(error, FileNotFoundError) and isinstance(error, ValueError)


def test_an_owner_relocates_the_settings_of_its_part() -> None:
    error = InputError("no model 'x'", setting="model.backbone.model").relocate("model.backbone", "pairs.encoder")
    assert error.setting == "pairs.encoder.model"
    assert InputError("no", setting="model.backbones").relocate("model.backbone", "x").setting == "model.backbones"


def test_a_command_line_tells_the_setting_as_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, one_line_errors():
        raise InputError("must be positive, got 0", setting="model.fusion.heads")
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: must be positive, got 0 (--model.fusion.heads)\n"


@pytest.mark.parametrize("text", ["", "1", "3/3", "-1/3", "1/0", "a/2", "1/2/3"])
def test_a_shard_is_one_number_below_another(text: str) -> None:
    with pytest.raises(InputError, match="expected I/N"):
        read_shard(text)
    assert read_shard("2/3") == (2, 3) and read_shard(None) is None


def test_a_table_is_aligned_by_column() -> None:
    expected = "| query | R@1 |\n| --- | ---: |\n| sum | 3.5 |\n"
    assert table(["query", "R@1"], [["sum", "3.5"]]) == expected


class Broken(Dataset):
    """A data set whose items can't be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise InputError("is missing", file="a.json", record=index, field="caption", setting="data.root")


def test_an_error_of_a_loader_process_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_line_errors():
        list(DataLoader(Broken(), num_workers=1))
    assert capsys.readouterr().err == "error: record 0 of a.json: field caption is missing (--data.root)\n"
