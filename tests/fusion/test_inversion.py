"""Textual inversion against a naive reading: whole contexts, one row at a time, phi by hand, and published files."""

import math
from pathlib import Path

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from contextcir.batch import QueryBatch, phrases_of
from contextcir.encoders.pseudo_words import prompt_of
from contextcir.errors import InputError
from contextcir.fusion import SEARLE, LinCIR, Pic2Word
from contextcir.fusion.inversion import TextualInversion
from contextcir.training.module import ContextCIR
from tests.helpers import tiny

CAPTIONS = [
    "make the dog bigger",
    "costs $5 * and more",
    "",
    "very " * 90 + "red",
    "is not green & blue",
    "a",
    "b",
    "c",
]
TEMPLATES = {Pic2Word: "a photo of * , {}", SEARLE: "a photo of * that {}", LinCIR: "a photo of * that {}"}
KINDS = pytest.mark.parametrize("kind", TEMPLATES, ids=lambda kind: kind.__name__)


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def phi(state: dict[str, Tensor], embedding: Tensor) -> Tensor:
    """The network, without dropout, by the names of published files."""
    if "fc_out.weight" in state:
        for layer in range(sum(name.endswith(".0.weight") for name in state)):
            embedding = (embedding @ state[f"layers.{layer}.0.weight"].T + state[f"layers.{layer}.0.bias"]).clamp(min=0)
        return embedding @ state["fc_out.weight"].T + state["fc_out.bias"]
    for layer in (0, 3):
        embedding = embedding @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
        embedding = torch.tensor([[gelu(x) for x in row] for row in embedding.tolist()], dtype=embedding.dtype)
    return embedding @ state["layers.6.weight"].T + state["layers.6.bias"]


def naive(clip: torch.nn.Module, text: str, word: Tensor) -> Tensor:
    """One text through the tower with all 77 positions, the first star replaced, as OpenAI's CLIP does it."""
    ids = open_clip.get_tokenizer("ViT-B-32")([text])
    star = open_clip.get_tokenizer("ViT-B-32")(["*"])[0, 1]
    embedded = clip.token_embedding(ids).clone()
    embedded[0, int((ids[0] == star).nonzero()[0])] = word
    hidden = clip.transformer(embedded + clip.positional_embedding, attn_mask=clip.attn_mask)
    return clip.ln_final(hidden)[0, int(ids.argmax())] @ clip.text_projection


def model_of(kind: type[TextualInversion]) -> ContextCIR:
    torch.manual_seed(0)
    return ContextCIR(tiny.backbone(), fusion=kind).double().eval()


@KINDS
@torch.no_grad()
def test_the_image_is_a_word_of_the_template(kind: type[TextualInversion]) -> None:
    model = model_of(kind)
    images = torch.randn(len(CAPTIONS), 3, 32, 32).double()
    batch = QueryBatch(torch.arange(len(CAPTIONS)), images, CAPTIONS, phrases_of([[]] * len(CAPTIONS)))
    found = model.encode_query(batch).fused.embedding
    words = phi(model.fusion.phi.state_dict(), model.backbone.encode_image(images).embedding)
    for row, caption in enumerate(CAPTIONS):
        expected = naive(model.backbone.clip, TEMPLATES[kind].format(caption), words[row])
        torch.testing.assert_close(found[row], expected)


@KINDS
def test_what_the_template_has_behind_its_end_has_no_influence(kind: type[TextualInversion]) -> None:
    model = model_of(kind)
    image = model.backbone.encode_image(torch.randn(2, 3, 32, 32).double())
    text = model.fusion.encode_text(model.backbone, CAPTIONS[:2], None)
    tokens, place = text.prompt
    later = torch.full((2, 3), 1000)
    longer = tokens._replace(ids=torch.cat([tokens.ids, later], 1), valid=torch.cat([tokens.valid, later < 0], 1))
    padded = text.prompt._replace(tokens=longer, place=torch.cat([place, later < 0], 1))
    expected = model.fusion(image, text).embedding
    torch.testing.assert_close(model.fusion(image, text._replace(prompt=padded)).embedding, expected)


def test_captions_without_their_template_are_refused() -> None:
    model = model_of(Pic2Word)
    text = model.backbone.encode_text(tiny.tokenizer()(["a dog"]))
    with pytest.raises(ValueError, match="encode_text"):
        model.fusion(model.backbone.encode_image(torch.zeros(1, 3, 32, 32).double()), text)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=4))
def test_pieces_have_their_own_tokens_and_gaps_between_them(pieces: list[str]) -> None:
    tokenizer = tiny.tokenizer()
    tokens, place = prompt_of(tokenizer, [pieces])
    length = int(tokens.valid.sum())
    assert length <= tokenizer.context_length and tokens.ids.shape == place.shape
    found, gap = tokens.ids[0, 1 : length - 1].tolist(), place[0, 1 : length - 1].tolist()
    own = [tokenizer.parts(piece, ())[0][0][1:-1] for piece in pieces]
    expected = [(token, False) for token in own[0]]
    for part in own[1:]:
        expected += [(None, True), *((token, False) for token in part)]
    expected = expected[: tokenizer.context_length - 2]
    assert gap == [is_gap for _, is_gap in expected]
    assert all(token == wanted for token, (wanted, is_gap) in zip(found, expected, strict=True) if not is_gap)


def published_file(kind: type[TextualInversion], folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint as the published code writes it, of a phi with other weights."""
    torch.manual_seed(1)
    state = kind(tiny.backbone().widths).phi.state_dict()
    path = folder / "phi.pt"
    if kind is Pic2Word:
        wrapped = {f"module.{name}": value for name, value in state.items()}
        content = {"epoch": 3, "name": "x", "state_dict": {"logit_scale": torch.ones(())}, "optimizer": {"state": {}}}
        torch.save({**content, "state_dict_img2text": wrapped}, path)
    else:
        torch.save({"epoch": 3, "Phi": state}, path)
    return path, state


@KINDS
def test_a_published_file_is_read_as_it_is(kind: type[TextualInversion], tmp_path: Path) -> None:
    path, state = published_file(kind, tmp_path)
    phi = kind(tiny.backbone().widths, weights=path).phi
    assert phi.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in phi.state_dict().items())


def test_the_layout_is_that_of_the_published_files() -> None:
    widths = tiny.backbone().widths._replace(embed=768, text=768)
    shapes = {name: tuple(value.shape) for name, value in Pic2Word(widths).phi.state_dict().items()}
    assert shapes["layers.0.0.weight"] == (512, 768)
    assert shapes["layers.1.0.weight"] == (512, 512) and shapes["fc_out.weight"] == (768, 512) and len(shapes) == 6
    shapes = {name: tuple(value.shape) for name, value in SEARLE(widths).phi.state_dict().items()}
    assert shapes["layers.0.weight"] == (3072, 768) and shapes["layers.3.weight"] == (3072, 3072)
    assert shapes["layers.6.weight"] == (768, 3072) and len(shapes) == 6


def test_a_file_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    path, _ = published_file(Pic2Word, tmp_path)
    with pytest.raises(InputError, match=r"does not hold the network.*layers") as refused:
        SEARLE(tiny.backbone().widths, weights=path)
    assert refused.value.setting == "model.fusion.weights" and str(path) in str(refused.value)
    torch.save({"Phi": 3}, path)
    with pytest.raises(InputError, match="holds int, not weights by name"):
        SEARLE(tiny.backbone().widths, weights=path)
    with pytest.raises(InputError, match="no file"):
        SEARLE(tiny.backbone().widths, weights=tmp_path / "none.pt")


def test_dropout_is_as_published() -> None:
    widths = tiny.backbone().widths
    rates = {kind: [m.p for m in kind(widths).modules() if isinstance(m, torch.nn.Dropout)] for kind in TEMPLATES}
    assert rates == {Pic2Word: [0.1, 0.1], SEARLE: [0.5, 0.5], LinCIR: [0.5, 0.5]}
    order = [type(module).__name__ for module in Pic2Word(widths).phi.layers[0]]
    assert order == ["Linear", "Dropout", "ReLU"]
