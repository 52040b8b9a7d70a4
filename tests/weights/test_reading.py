"""What is read as weights, and what is refused in one line, without being run."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from contextcir.errors import InputError
from contextcir.weights import damage, local_file, read_weights, state_digest, state_of, under
from contextcir.weights.reading import DIGEST
from tests.helpers.weights_files import ADDRESSES, bad_files, flip, saved

STATE = {"visual.weight": torch.arange(6.0).reshape(2, 3), "scale": torch.tensor(2.0)}


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Linear(3, 4)
        self.half_scale = torch.nn.Parameter(torch.ones(2, 2).half())
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) * torch.sigmoid(1.702 * x.sum())


def test_no_file_is_run_and_each_is_refused_in_one_line(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for name, (file, word) in bad_files(tmp_path, STATE, trace).items():
        with pytest.raises(InputError) as caught:
            state_of(read_weights(file, "ckpt_path"), "ckpt_path")
        text = caught.value.describe()
        assert word in text and str(file) in text and "\n" not in text and len(text) - len(str(file)) < 220, (
            name,
            text,
        )
        assert caught.value.setting == "ckpt_path" and not trace.exists(), name


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_no_files(address: str) -> None:
    for given in (address, Path(address)) if "::" not in address else (address,):
        with pytest.raises(InputError, match=r"got the address .*: download it, and give the file"):
            local_file(given)


def test_a_name_with_a_colon_is_a_file_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("epoch:3.ckpt"), STATE)
    assert read_weights("epoch:3.ckpt").kind == "a file of torch.save"


@pytest.mark.parametrize("wrap", ["state_dict", "model", "model_state_dict", "module", "ema", "shadow"])
def test_wrappers_are_taken_off_and_plain_values_beside_weights_do_no_harm(wrap: str, tmp_path: Path) -> None:
    beside = {"args": argparse.Namespace(lr=1e-3), "best": np.float64(3), "list": np.arange(3), "epoch": 3}
    for content in ({wrap: STATE, **beside}, {"model": {wrap: STATE}, **beside}):
        for old in ({}, {"_use_new_zipfile_serialization": False}):
            found = state_of(read_weights(saved(tmp_path / "a.pt", content, **old)))
            assert found.keys() == STATE.keys() and torch.equal(found["visual.weight"], STATE["visual.weight"])


def test_the_weights_proper_win_over_their_average(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pt", {"ema": {"a": torch.zeros(1)}, "model": {"a": torch.ones(1)}})
    assert state_of(read_weights(file))["a"] == 1


def test_a_torchscript_archive_gives_its_tensors(tmp_path: Path) -> None:
    script = torch.jit.script(Scripted())
    script.save(tmp_path / "a.pt")
    found = read_weights(tmp_path / "a.pt")
    state, expected = state_of(found), script.state_dict()
    assert found.kind == "a TorchScript archive" and found.quick_gelu is True and state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in expected.items())
    assert damage(tmp_path / "a.pt") is None
    with pytest.raises(InputError, match="damaged"):
        read_weights(flip(tmp_path / "a.pt", 0.3))


def test_prefixes_are_found_by_a_weight_that_the_model_has(tmp_path: Path) -> None:
    found = read_weights(saved(tmp_path / "a.pt", STATE))
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod.model.", "backbone.clip."):
        named = {f"{prefix}{name}": value for name, value in STATE.items()} | (
            {"head.x": STATE["scale"]} if prefix else {}
        )
        state = state_of(read_weights(saved(tmp_path / "b.pt", named)))
        expected = (
            {*STATE, "head.x"} if prefix == "_orig_mod." else set(STATE)
        )  # compiled as a whole: no prefix is left
        assert set(under(state, "visual.weight", found)) == expected
    two = {"a.visual.weight": STATE["scale"], "b.visual.weight": STATE["scale"]}
    with pytest.raises(InputError, match="holds several models"):
        under(two, "visual.weight", found)


def test_a_checksum_in_the_header_of_safetensors_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file(STATE, file, {DIGEST: state_digest(STATE)})
    assert state_of(read_weights(file)).keys() == STATE.keys()
    content = file.read_bytes()
    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(InputError, match="its weights differ from its checksum"):
        read_weights(file)
