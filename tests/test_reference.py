"""The recorded run of the published implementation, and the ways in which its weights may arrive."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextcir import reference
from contextcir.batch import Phrases, QueryBatch, TripletBatch
from contextcir.concept import TextConceptConsistency
from contextcir.text import Tokenizer

RELATIVE = 1e-5


@pytest.fixture(scope="module")
def folder(shared) -> Path:
    return shared / "golden" / "reference_tiny"


@cache
def load(folder: Path):
    return reference.load(folder)


def norm_wise(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).norm() / expected.norm()).item()


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5 as a whole, and nowhere off by more than that of the largest entry."""
    assert norm_wise(found, expected) < RELATIVE
    torch.testing.assert_close(found, expected, rtol=RELATIVE, atol=RELATIVE * expected.abs().max().item())


def find_phrases(case: dict, tokenizer: Tokenizer) -> Phrases:
    """Where each recorded phrase first occurs in its caption; those that don't are left out."""
    owner, spans = [], []
    for row, (caption, phrases) in enumerate(zip(case["captions"], case["noun_phrases"], strict=True)):
        for phrase in phrases:
            start = tokenizer.clean(caption).find(phrase.lower())
            if start >= 0:
                owner.append(row)
                spans.append([start, start + len(phrase)])
    return Phrases(torch.tensor(owner), torch.tensor(spans), torch.full((len(owner), 4), float("nan")))


@cache
def run(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that is recorded, computed by our model; gradients under the names of the record."""
    model = load(folder)
    case = json.loads((folder / "case.json").read_text())
    images = load_file(folder / "images.safetensors")
    tokenizer, captions = model.backbone.tokenizer, case["captions"]
    phrases = find_phrases(case, tokenizer)
    assert len(phrases.owner) == case["n_noun_phrases_used"] == 13

    batch = QueryBatch(torch.arange(6), images["reference"], captions, phrases)
    query = model.encode_query(batch)
    target = model.backbone.encode_image(images["target"])
    losses = model.losses(TripletBatch(batch, images["target"], torch.arange(6), torch.arange(6, 12)))
    model.zero_grad()
    losses["loss"].backward()
    gradients = {}
    for prefix, part in (("clip", model.backbone.clip), ("fusion", model.fusion)):
        for name, parameter in part.named_parameters():
            theirs = reference.published_names(f"{prefix}.{name}")
            if parameter.grad is not None and len(theirs) == 1:
                transposed = f"{prefix}.{name}" in reference.TRANSPOSED
                gradients[f"grad:{theirs[0]}"] = parameter.grad.T if transposed else parameter.grad
    return {
        "query": query.fused.embedding,
        "target": target.embedding,
        "reference": query.image.embedding,
        "vision_tokens": query.image.tokens,
        "text_tokens": query.text.tokens,
        "text_mask": query.text.valid,
        "attention_per_layer": torch.stack(query.fused.attention),
        "loss_infonce": losses["contrastive"],
        "loss_cc_eps0": losses["concept"],
        "loss_cc_eps0.05": TextConceptConsistency(epsilon=0.05)(model.concept_maps(batch, query)),
        "loss_total": losses["loss"],
        **gradients,
    }


VALUES = ("query", "target", "reference", "vision_tokens")
LOSSES = ("loss_infonce", "loss_cc_eps0", "loss_cc_eps0.05", "loss_total")
GRADIENTS = (
    "grad:attn_pooler.queries",
    "grad:cross_attn_layers.0.q_proj.weight",
    "grad:cross_attn_layers.3.k_proj.weight",
    "grad:query_projection.weight",
    "grad:vision_encoder.model.embeddings.patch_embedding.weight",
    "grad:visual_projection.weight",
)
CUT = ("text_tokens", "text_mask", "attention_per_layer")  # recorded at the full context length


@pytest.mark.parametrize("name", VALUES + LOSSES + GRADIENTS)
def test_recorded_values_are_reproduced(folder, name):
    check(run(folder)[name], load_file(folder / "expected.safetensors")[name])


def test_recorded_text_tokens_and_attention_are_reproduced(folder):
    found, expected = run(folder), load_file(folder / "expected.safetensors")
    length = found["text_mask"].shape[1]
    assert torch.equal(found["text_mask"], expected["text_mask"][:, :length].bool())
    assert expected["text_mask"][:, length:].sum() == expected["attention_per_layer"][..., length:].sum() == 0
    valid = found["text_mask"]
    check(found["text_tokens"][valid], expected["text_tokens"][:, :length][valid])
    for layer, recorded in zip(found["attention_per_layer"], expected["attention_per_layer"], strict=True):
        check(layer, recorded[..., :length])


def test_nothing_recorded_is_left_unchecked(folder):
    assert set(load_file(folder / "expected.safetensors")) == {*VALUES, *LOSSES, *GRADIENTS, *CUT}


def test_loss_settings_are_those_recorded(folder):
    model = load(folder)
    assert (model.contrastive.temperature, model.concept.weight, model.concept.epsilon) == (0.07, 0.08, 0.0)
    assert not model.training


def test_without_a_published_text_projection_it_is_zero_and_frozen(folder):
    projection = load(folder).backbone.clip.text_projection
    assert not projection.any() and not projection.requires_grad


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
    with pytest.raises(ValueError, match="evil.ckpt can't be read as a checkpoint of weights"):
        reference.load(tmp_path / "evil.ckpt")


def test_files_of_another_kind_are_refused_in_one_line(tmp_path):
    torch.save({"weights": {}}, tmp_path / "other.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    for name, message in (("other", "holds no 'state_dict'"), ("broken", "can't be read")):
        with pytest.raises(ValueError, match=f"{name}.ckpt {message}") as caught:
            reference.load(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no file .*state_dict.safetensors"):
        reference.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file .*nowhere.ckpt"):
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
    with pytest.raises(ValueError, match="case.json has no field 'num_attention_heads'"):
        reference.load(tmp_path)


def test_no_two_parameters_share_a_published_name(folder):
    model = load(folder)
    names = [f"clip.{name}" for name in model.backbone.clip.state_dict() if name != "logit_scale"]
    names += [f"fusion.{name}" for name in model.fusion.state_dict()]
    published = [theirs for name in names for theirs in reference.published_names(name)]
    assert len(published) == len(set(published))
    assert set(published) - {"text_projection.weight"} == set(load_file(folder / "state_dict.safetensors"))
