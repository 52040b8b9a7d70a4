"""The record in the repository is the full one, without what no test reads."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers import golden as packing
from tests.helpers.paths import PROJECT

PACKED = PROJECT / "tests" / "data" / "golden"


@pytest.fixture(scope="module")
def full(shared):
    return shared / "golden" / "reference_tiny"


def test_the_packed_record_is_small():
    assert sum(file.stat().st_size for file in PACKED.rglob("*") if file.is_file()) < 1_000_000


def test_settings_and_images_are_those_of_the_full_record(full, golden):
    assert (golden / "case.json").read_bytes() == (full / "case.json").read_bytes()
    ours, theirs = (load_file(folder / "images.safetensors") for folder in (golden, full))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].tobytes() == theirs[name].tobytes(), name


def test_weights_are_those_of_the_full_record_but_for_unused_token_rows(full, golden):
    ours, theirs = (load_file(folder / "state_dict.safetensors") for folder in (golden, full))
    assert ours.keys() == theirs.keys()
    rows = packing.token_rows(full)
    unused = np.delete(ours[packing.TOKEN_ROWS], rows, axis=0)
    assert not unused.any() and len(unused) == len(ours[packing.TOKEN_ROWS]) - len(rows)
    for name, value in theirs.items():
        used = slice(None) if name != packing.TOKEN_ROWS else rows
        assert ours[name].shape == value.shape and ours[name][used].tobytes() == value[used].tobytes(), name


def test_results_are_those_of_the_full_record(full, golden):
    """To the last bit, or to half a step of the rounding; padding, which means nothing, is zero."""
    ours, theirs = (load_file(folder / "expected.safetensors") for folder in (golden, full))
    assert ours.keys() == theirs.keys()
    valid = theirs["text_mask"].astype(bool)
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
        index = packing.valid_entries(name, valid)
        if value.size <= packing.LONG:
            assert ours[name].tobytes() == value.tobytes(), name
        else:
            largest = np.abs(value[index]).max()
            error = np.abs(ours[name].astype(np.float64) - value)[index].max()
            assert error <= largest * (0.5 / packing.STEPS + 2**-24), name  # 2**-24: float32 of the product
        padding = ours[name].copy()
        padding[index] = 0
        assert not padding.any(), name
    assert not theirs["attention_per_layer"][..., ~valid.any(0)].any()


def test_packing_gives_the_record_again(full, golden, tmp_path):
    """So that the record can be made anew; the compressed bytes themselves may differ with the version of xz."""
    packing.pack(full, tmp_path / "packed")
    again = packing.unpack(tmp_path / "packed", tmp_path / "again")
    for file in golden.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
