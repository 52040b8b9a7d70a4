"""A CLIP of two small layers with the real tokenizer, for tests that need a model but not what it has learned."""

import json
from functools import cache
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.text import Tokenizer

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer of all CLIP models, built once."""
    return Tokenizer("ViT-B-32")


def clip(custom_text: bool = False, seed: int = 0) -> torch.nn.Module:
    """An open_clip model with random weights, the same ones in either class."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**CONFIG)
        with torch.no_grad():  # norms and biases too: at their initial ones and zeros, much would hold trivially
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    if not custom_text:
        return model
    custom = open_clip.CustomTextCLIP(**CONFIG)
    in_text = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
    custom.load_state_dict({f"text.{k}" if k.startswith(in_text) else k: v for k, v in model.state_dict().items()})
    return custom


def clip_folder(folder: Path) -> Path:
    """Writes such a model into `folder`, for ``local-dir:``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    save_file({k: v.contiguous() for k, v in clip().state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def backbone(custom_text: bool = False, seed: int = 0) -> OpenCLIPBackbone:
    """A backbone around such a model, without going through files."""
    return OpenCLIPBackbone.wrap(clip(custom_text, seed), tokenizer(), "tiny")
