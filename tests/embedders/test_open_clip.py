"""Models of open_clip without training: square ViTs, others, and towers as of SigLIP."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize

from contextcir.embedders import OpenCLIPEmbedder
from contextcir.embedders.rules import NormalisedSum
from contextcir.errors import InputError
from tests.helpers import tiny
from tests.helpers.photos import picture

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "square ViT": tiny.CONFIG,
    "wide ViT": {"embed_dim": 16, "vision_cfg": {**VISION, "image_size": [16, 48]}, "text_cfg": TEXT},
    "ResNet": {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT},
    "as SigLIP": {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_queries": 1, "attn_pooler_heads": 2},
        "text_cfg": {**TEXT, **SIGLIP},
    },
}


def write(folder: Path, config: dict[str, Any]) -> torch.nn.Module:
    """Write a model with random weights for ``local-dir:``, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name, load_weights=False).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return model


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_any_tower_gives_what_open_clip_gives(config: dict[str, Any], tmp_path: Path) -> None:
    model = write(tmp_path, config)
    embedder = OpenCLIPEmbedder(f"local-dir:{tmp_path}", template="a photo of {text}", batch_size=2, device="cpu")
    images, texts = [picture(seed) for seed in range(3)], ["a red cup", "two dogs", "a boat"]
    preprocess = open_clip.image_transform(model.visual.image_size, is_train=False)
    pixels = torch.stack([preprocess(image) for image in images])
    of_images = model.encode_image(pixels)
    of_texts = model.encode_text(open_clip.get_tokenizer("ViT-B-32")([f"a photo of {text}" for text in texts]))
    torch.testing.assert_close(embedder.embed_image(images), of_images)
    torch.testing.assert_close(embedder.embed_query([None] * 3, texts), of_texts)
    torch.testing.assert_close(embedder.embed_query(images, [None] * 3), of_images)
    expected = (normalize(of_images, dim=-1) + normalize(of_texts, dim=-1)) / 2
    torch.testing.assert_close(embedder.embed_query(images, texts), expected)
    mixed = embedder.embed_query([images[0], None, images[2]], [None, texts[1], texts[2]])
    torch.testing.assert_close(mixed, torch.stack([of_images[0], of_texts[1], expected[2]]))
    assert embedder.dimension == config["embed_dim"]


def test_the_rule_weighs_the_text() -> None:
    image, text = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    assert NormalisedSum(0.25)(image, text).tolist() == [[0.75, 0.25]]
    with pytest.raises(InputError, match="from 0 to 1"):
        NormalisedSum(1.5)


def test_a_result_says_of_which_weights_it_is(tmp_path: Path) -> None:
    write(tmp_path / "one", CONFIGS["wide ViT"])
    one = OpenCLIPEmbedder(f"local-dir:{tmp_path / 'one'}", device="cpu").describe()
    state = open_clip.create_model(f"local-dir:{tmp_path / 'one'}", load_weights=False).state_dict()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "open_clip_config.json").write_text((tmp_path / "one" / "open_clip_config.json").read_text())
    save_file({k: (v + 1).contiguous() for k, v in state.items()}, tmp_path / "two" / "open_clip_model.safetensors")
    two = OpenCLIPEmbedder(f"local-dir:{tmp_path / 'two'}", device="cpu").describe()
    assert one["revision"].startswith("sha256:") and one["revision"] != two["revision"]
    assert one["parameters"] == sum(value.numel() for value in state.values()) and one["licence"] is None
    assert (one["rule"], one["text_share"], one["template"]) == ("NormalisedSum", 0.5, "{text}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "ViT-B-32"}, "no weights of its own.*embedder.pretrained"),
        ({"model": "ViT-X"}, "no model 'ViT-X'.*embedder.model"),
        ({"model": "scenes-vit", "template": "no place"}, "expected a text with {text}"),
        ({"model": "scenes-vit", "batch_size": 0}, "embedder.batch_size"),
        ({"model": "scenes-vit", "precision": "int3"}, "expected one of float32"),
    ],
)
def test_a_mistake_is_one_line_with_its_setting(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        OpenCLIPEmbedder(**options).embed_query([None], ["a cup"])
    assert "\n" not in str(refused.value)


def test_queries_without_image_and_text_are_refused() -> None:
    embedder = OpenCLIPEmbedder("scenes-vit")
    with pytest.raises(InputError, match="query 1 has neither"):
        embedder.embed_query([Image.fromarray(np.zeros((8, 8, 3), np.uint8)), None], [None, None])
    with pytest.raises(InputError, match="1 images, 2 texts"):
        embedder.embed_query([None], ["a", "b"])
