"""Published ConText-CIR checkpoints (June 2026 and later), brought into this model."""

import json
import re
from collections.abc import Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor

from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.text import Tokenizer
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.losses.contrastive import InfoNCE
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.optim import AdamWWarmupCosine

if TYPE_CHECKING:
    from contextcir.training.module import ContextCIR

WEIGHTS, CASE = "state_dict.safetensors", "case.json"
ANCHOR = "query_projection.weight"  # found in every checkpoint of the corrected fusion, and in no other
HEAD_WIDTHS = {768: 64, 1024: 64, 1280: 80, 1408: 88, 1664: 104}  # image towers of CLIP B, L, H, g, bigG; text has 64
TEXT_PROJECTION = "clip.text_projection"

# Our names, as patterns, and what they are called in a published checkpoint (Hugging Face's CLIP, the authors' fusion).
VISION, TEXT = "vision_encoder.model.", "text_encoder.model."
NAMES = (
    (r"^clip\.visual\.transformer\.resblocks\.", f"{VISION}encoder.layers."),
    (r"^clip\.transformer\.resblocks\.", f"{TEXT}encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.(?=out_proj|in_proj)", ".self_attn."),
    (r"^clip\.visual\.class_embedding$", f"{VISION}embeddings.class_embedding"),
    (r"^clip\.visual\.conv1\.", f"{VISION}embeddings.patch_embedding."),
    (r"^clip\.visual\.positional_embedding$", f"{VISION}embeddings.position_embedding.weight"),
    (r"^clip\.visual\.ln_pre\.", f"{VISION}pre_layrnorm."),  # their spelling
    (r"^clip\.visual\.ln_post\.", f"{VISION}post_layernorm."),
    (r"^clip\.visual\.proj$", "visual_projection.weight"),
    (r"^clip\.token_embedding\.", f"{TEXT}embeddings.token_embedding."),
    (r"^clip\.positional_embedding$", f"{TEXT}embeddings.position_embedding.weight"),
    (r"^clip\.ln_final\.", f"{TEXT}final_layer_norm."),
    (r"^clip\.text_projection$", "text_projection.weight"),
    (r"^fusion\.blocks\.(\d+)\.attention\.", r"cross_attn_layers.\1."),
    (r"^fusion\.blocks\.(\d+)\.attention_norm\.", r"fusion_attn_norms.\1."),
    (r"^fusion\.blocks\.(\d+)\.feed_forward_norm\.", r"fusion_ffn_norms.\1."),
    (r"^fusion\.blocks\.(\d+)\.feed_forward\.", r"fusion_ffns.\1."),
    (r"^fusion\.pool\.query$", "attn_pooler.queries"),
    (r"^fusion\.pool\.", "attn_pooler."),
    (r"^fusion\.projection\.", "query_projection."),
    (r"\b(query|key|value|output)\.(weight|bias)$", lambda found: f"{SHORT[found[1]]}.{found[2]}"),
)
SHORT = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
TRANSPOSED = ("clip.visual.proj", TEXT_PROJECTION)


class Settings(NamedTuple):
    """What the shapes of the weights do not tell."""

    image_head_width: int
    text_heads: int
    quick_gelu: bool
    fusion_heads: int = 8
    temperature: float = 0.07
    concept_weight: float = 0.08


def load(folder: str | Path) -> "ContextCIR":
    """The model of a folder with ``state_dict.safetensors`` and ``case.json`` (tower settings), or of a single file.

    Published checkpoints hold no text projection, since the model does not use it: unless there is one it is zero here,
    and the text-only baseline has nothing to go by. Raises FileNotFoundError for a missing file, and ValueError for
    weights that are missing or left over, naming them.
    """
    path = Path(folder)
    return load_checkpoint(path / WEIGHTS if path.is_dir() else path)


def load_checkpoint(file: str | Path) -> "ContextCIR":
    """The model of a published ``.ckpt`` file (or of bare weights in safetensors).

    Sizes are read off the weights; heads and activation come from a ``case.json`` beside the file or, without one, are
    those of the published CLIP models of these widths. Nothing in the file is executed. Raises as `load` does.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected a .ckpt file, or a folder with {WEIGHTS} and {CASE}")
    state = published_state(read_weights(path), path)
    case = path.with_name(CASE)
    return build(state, path, read_settings(case) if case.is_file() else published_settings(state, path))


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """All weights of a file, under the names that they have there. Raises ValueError for a file of another kind."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint raises any of half a dozen kinds
        message = " ".join(str(error).split())[:300]
        raise ValueError(f"{file} can't be read as a checkpoint of weights: {message}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise ValueError(f"{file} holds no 'state_dict': expected a published Lightning checkpoint")
    return content["state_dict"]


def read_settings(file: Path) -> Settings:
    """Settings from a ``case.json``. Raises ValueError for one that lacks a field."""
    case = json.loads(file.read_text())
    try:
        vision, text = case["vision"], case["text"]
        if vision["hidden_act"] != text["hidden_act"] or text["hidden_act"] not in ("gelu", "quick_gelu"):
            raise ValueError(f"{file}: hidden_act must be gelu or quick_gelu, and the same in both towers")
        return Settings(
            vision["hidden_size"] // vision["num_attention_heads"],
            text["num_attention_heads"],
            text["hidden_act"] == "quick_gelu",
            case["fusion"]["heads"],
            case["temperature"],
            case["lambda_cc"],
        )
    except KeyError as error:
        raise ValueError(f"{file} has no field {error}") from error


def published_settings(state: Mapping[str, Tensor], source: Path) -> Settings:
    """Settings of the published CLIP model of these widths: QuickGELU for OpenAI's B and L, GELU for LAION's others."""
    image_width = shape(state, f"{VISION}embeddings.class_embedding", source)[0]
    if image_width not in HEAD_WIDTHS:
        raise ValueError(f"{source}: no published CLIP has an image width of {image_width}; put a {CASE} beside it")
    text_width = shape(state, f"{TEXT}final_layer_norm.bias", source)[0]
    return Settings(HEAD_WIDTHS[image_width], text_width // 64, quick_gelu=image_width <= 1024)


def build(state: Mapping[str, Tensor], source: Path, settings: Settings) -> "ContextCIR":
    """A `ContextCIR` of these weights, with the published losses and optimizer settings (paper section 2)."""
    from contextcir.training.module import (
        ContextCIR,  # here, so that names can be translated without all of the library
    )

    clip = open_clip.CLIP(**clip_config(state, settings, source))
    backbone = OpenCLIPBackbone.wrap(clip, Tokenizer("ViT-B-32"), str(source))
    layers = len({name.split(".")[1] for name in state if name.startswith("cross_attn_layers.")})
    model = ContextCIR(
        backbone,
        partial(CrossAttentionFusion, layers=layers, heads=settings.fusion_heads),
        InfoNCE(settings.temperature),
        TextConceptConsistency(settings.concept_weight),
        AdamWWarmupCosine(lr=1e-5, backbone_lr=1e-5, warmup_steps=500),
    )
    fill({"clip": clip, "fusion": model.fusion}, state, source)
    return model.eval()


def fill(parts: Mapping[str, torch.nn.Module], state: Mapping[str, Tensor], source: Path) -> None:
    """Copies the weights into the parts. Raises ValueError for names missing or left over, and for another shape."""
    unused, missing = set(state), []
    for prefix, part in parts.items():
        for name, value in part.state_dict().items():
            if name == "logit_scale":  # CLIP's own temperature, which neither model uses
                continue
            theirs = published_names(f"{prefix}.{name}")
            found = [state[key].to(value.dtype) for key in theirs if key in state]
            unused.difference_update(theirs)
            if f"{prefix}.{name}" == TEXT_PROJECTION and not found:
                value.zero_()
                continue
            missing += [key for key in theirs if key not in state]
            if len(found) == len(theirs):
                joined = torch.cat(found) if len(found) > 1 else found[0]
                joined = joined.T if f"{prefix}.{name}" in TRANSPOSED else joined
                if joined.shape != value.shape:
                    given, wanted = tuple(joined.shape), tuple(value.shape)
                    raise ValueError(f"{source}: {theirs[0]} has the shape {given}, expected {wanted}")
                value.copy_(joined)  # state_dict shares memory with the part
    if missing or unused:
        raise ValueError(f"{source}: missing weights: {listed(missing)}; unexpected weights: {listed(sorted(unused))}")


def published_names(name: str) -> list[str]:
    """What our parameter ``clip.*`` or ``fusion.*`` is called when published; three names where it joins q, k and v."""
    for pattern, theirs in NAMES:
        name = re.sub(pattern, theirs, name)
    joint = re.fullmatch(r"(.*)in_proj_(weight|bias)", name)
    return [f"{joint[1]}{part}_proj.{joint[2]}" for part in "qkv"] if joint else [name]


def published_state(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The weights under their published names: no prefix of a wrapper, no copy of the text tower in the parser.

    Older Hugging Face CLIPs wrap each tower once more, and hold indices. Raises ValueError for another checkpoint.
    """
    anchors = [name for name in weights if name.endswith(ANCHOR)]
    if len(anchors) != 1:
        raise ValueError(f"{source} holds no {ANCHOR}: only checkpoints of the corrected fusion (June 2026) will do")
    state = {}
    for name, value in weights.items():
        name = name.removeprefix(anchors[0].removesuffix(ANCHOR))
        if not name.startswith("parser.") and not name.endswith(".position_ids"):
            state[re.sub(r"\.model\.(vision|text)_model\.", ".model.", name)] = value
    return state


def clip_config(state: Mapping[str, Tensor], settings: Settings, source: Path) -> dict:
    """Arguments of `open_clip.CLIP` that fit these weights."""
    width, _, _, patch = shape(state, f"{VISION}embeddings.patch_embedding.weight", source)
    patches = shape(state, f"{VISION}embeddings.position_embedding.weight", source)[0] - 1
    vocabulary, text_width = shape(state, f"{TEXT}embeddings.token_embedding.weight", source)
    return {
        "embed_dim": shape(state, "visual_projection.weight", source)[0],
        "quick_gelu": settings.quick_gelu,
        "vision_cfg": {
            "image_size": isqrt(patches) * patch,
            "patch_size": patch,
            "width": width,
            "head_width": settings.image_head_width,
            **depth(state, VISION, width, source),
        },
        "text_cfg": {
            "context_length": shape(state, f"{TEXT}embeddings.position_embedding.weight", source)[0],
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": settings.text_heads,
            **depth(state, TEXT, text_width, source),
        },
    }


def depth(state: Mapping[str, Tensor], tower: str, width: int, source: Path) -> dict:
    """Number of layers of a tower, and how much wider its feed-forward is than the tower."""
    start = f"{tower}encoder.layers."
    layers = {name.removeprefix(start).split(".")[0] for name in state if name.startswith(start)}
    hidden = shape(state, f"{start}0.mlp.fc1.bias", source)[0]
    return {"layers": len(layers), "mlp_ratio": (hidden + 0.5) / width}  # open_clip multiplies and rounds down


def shape(state: Mapping[str, Tensor], name: str, source: Path) -> torch.Size:
    """Shape of a weight. Raises ValueError where there is none of the name."""
    if name not in state:
        raise ValueError(f"{source}: missing weights: {name}")
    return state[name].shape


def listed(names: list[str]) -> str:
    """Some names, for a message."""
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "none"
