"""The ways in which weights of the published implementation may arrive, and files that are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextcir.training import reference
from tests.training.test_reference import load


@pytest.fixture(scope="module")
def folder(golden) -> Path:
    return golden


def checkpoint(folder: Path, to: Path, change) -> Path:
    """A Lightning checkpoint of the recorded weights under names given by `change`, with tower settings beside it."""
    weights = load_file(folder / "state_dict.safetensors")
    to.mkdir(exist_ok=True)
    shutil.copy(folder / "case.json", to / "case.json")
    torch.save({"state_dict": change(weights), "epoch": 3, "hyper_parameters": {"lr": 1e-5}}, to / "last.ckpt")
    return to / "last.ckpt"


def as_published(weights: dict) -> dict:
    """With a wrapper's prefix, the parser's copy of the text tower, and one more level as older releases have it."""
    old = {
        name.replace("vision_encoder.model.", "vision_encoder.model.vision_model.").replace(
            "text_encoder.model.", "text_encoder.model.text_model."
        ): value
        for name, value in weights.items()
    }
    old["text_encoder.model.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    copies = {f"parser.{name}": value for name, value in old.items() if name.startswith("text_encoder.")}
    return {f"model.{name}": value for name, value in (old | copies).items()}


@pytest.mark.parametrize("change", [dict, as_published])
def test_a_checkpoint_gives_the_same_model(folder, tmp_path, change):
    expected, found = load(folder).state_dict(), reference.load(checkpoint(folder, tmp_path, change)).state_dict()
    assert expected.keys() == found.keys()
    for name in expected:
        if not name.endswith("logit_scale"):
            assert torch.equal(expected[name], found[name]), name


def test_a_text_projection_is_taken_transposed(folder, tmp_path):
    projection = torch.randn(32, 48)
    file = checkpoint(folder, tmp_path, lambda weights: weights | {"text_projection.weight": projection})
    found = reference.load_checkpoint(file).backbone.clip.text_projection
    assert torch.equal(found, projection.T)


def test_missing_and_unexpected_weights_are_named(folder, tmp_path):
    def change(weights: dict) -> dict:
        del weights["vision_encoder.model.encoder.layers.1.self_attn.k_proj.weight"], weights["attn_pooler.queries"]
        return weights | {"cross_attn_gate": torch.zeros(1)}

    with pytest.raises(ValueError, match="missing weights: .*") as caught:
        reference.load_checkpoint(checkpoint(folder, tmp_path, change))
    for name in ("vision_encoder.model.encoder.layers.1.self_attn.k_proj.weight", "attn_pooler.queries"):
        assert name in str(caught.value).split("; unexpected")[0]
    assert str(caught.value).endswith("unexpected weights: cross_attn_gate")


def test_weights_that_are_only_left_over_are_refused_too(folder, tmp_path):
    file = checkpoint(folder, tmp_path, lambda weights: weights | {"cross_attn_gate": torch.zeros(1)})
    with pytest.raises(ValueError, match="missing weights: none; unexpected weights: cross_attn_gate"):
        reference.load_checkpoint(file)


def test_a_weight_of_another_shape_is_named(folder, tmp_path):
    file = checkpoint(folder, tmp_path, lambda weights: weights | {"query_projection.bias": torch.zeros(31)})
    with pytest.raises(ValueError, match=r"query_projection.bias has the shape \(31,\), expected \(32,\)"):
        reference.load_checkpoint(file)


def test_a_checkpoint_of_the_first_release_is_refused(folder, tmp_path):
    def change(weights: dict) -> dict:
        return {name: value for name, value in weights.items() if not name.startswith("query_projection")}

    with pytest.raises(ValueError, match="corrected fusion"):
        reference.load_checkpoint(checkpoint(folder, tmp_path, change))


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    torch.save({"state_dict": {}, "callback": Path("x").joinpath}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="evil.ckpt: can't be read as a checkpoint of weights"):
        reference.load(tmp_path / "evil.ckpt")


def test_files_of_another_kind_are_refused_in_one_line(tmp_path):
    torch.save({"other": {}}, tmp_path / "other.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    for name, message in (
        ("other", "is a file of torch.save without weights: it has 'other'"),
        ("broken", "can't be read"),
    ):
        with pytest.raises(ValueError, match=f"{name}.ckpt: {message}") as caught:
            reference.load(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="state_dict.safetensors: no such file: expected a .ckpt"):
        reference.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.ckpt: no such file"):
        reference.load(tmp_path / "nowhere.ckpt")


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ((768, 512), (64, 8, True)),
        ((1024, 768), (64, 12, True)),
        ((1280, 1024), (80, 16, False)),
        ((1664, 1280), (104, 20, False)),
    ],
)
def test_heads_and_activation_of_published_towers_follow_from_their_widths(widths, expected):
    state = {
        "vision_encoder.model.embeddings.class_embedding": torch.empty(widths[0], device="meta"),
        "text_encoder.model.final_layer_norm.bias": torch.empty(widths[1], device="meta"),
    }
    assert reference.published_settings(state, Path("last.ckpt"))[:3] == expected


def test_towers_of_no_published_width_need_settings(folder, tmp_path):
    file = checkpoint(folder, tmp_path, dict)
    (tmp_path / "case.json").unlink()
    with pytest.raises(ValueError, match="no published CLIP has an image width of 64; put a case.json beside it"):
        reference.load_checkpoint(file)


def test_settings_without_a_field_are_refused(folder, tmp_path):
    case = json.loads((folder / "case.json").read_text())
    del case["text"]["num_attention_heads"]
    (tmp_path / "case.json").write_text(json.dumps(case))
    save_file({"query_projection.weight": torch.zeros(1)}, tmp_path / "state_dict.safetensors")
    with pytest.raises(ValueError, match="case.json: field num_attention_heads is missing"):
        reference.load(tmp_path)
