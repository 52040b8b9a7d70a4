"""Loading published ConText-CIR checkpoints (June 2026 and later) into this model."""

import json
import re
from collections.abc import Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.text import Tokenizer
from contextcir.errors import InputError, MissingFileError
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.losses.contrastive import InfoNCE
from contextcir.losses.text_cc import TextConceptConsistency
from contextcir.training.module import ContextCIR
from contextcir.training.optim import AdamWWarmupCosine

WEIGHTS, CASE = "state_dict.safetensors", "case.json"
ANCHOR = "query_projection.weight"  # a weight of all checkpoints of the corrected fusion, and of no others
HEAD_WIDTHS = {768: 64, 1024: 64, 1280: 80, 1408: 88, 1664: 104}  # image towers of CLIP B, L, H, g, bigG; text has 64
TEXT_PROJECTION = "clip.text_projection"

# Our names, as patterns, and those of a published checkpoint (Hugging Face's CLIP, the authors' fusion).
VISION, TEXT = "vision_encoder.model.", "text_encoder.model."
SHORT = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
NAMES: tuple[tuple[str, str], ...] = (
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
    *((rf"\b{ours}\.(weight|bias)$", rf"{theirs}.\1") for ours, theirs in SHORT.items()),
)
TRANSPOSED = ("clip.visual.proj", TEXT_PROJECTION)


class Settings(NamedTuple):
    """Settings of a model that can't be derived from the shapes of its weights."""

    image_head_width: int
    text_heads: int
    quick_gelu: bool
    fusion_heads: int = 8
    temperature: float = 0.07
    concept_weight: float = 0.08


def load(folder: str | Path) -> ContextCIR:
    """Return the model of a folder with ``state_dict.safetensors`` and ``case.json`` (tower settings), or of a file.

    Published checkpoints have no text projection, since the model does not use it. Then it is zero here, and the
    text-only baseline can't be computed.

    Raises:
        MissingFileError: for a missing file.
        InputError: for missing or unexpected weights, with their names.
    """
    path = Path(folder)
    return load_checkpoint(path / WEIGHTS if path.is_dir() else path)


def load_checkpoint(file: str | Path) -> ContextCIR:
    """Return the model of a published ``.ckpt`` file (or of bare weights in safetensors).

    Sizes follow from the shapes of the weights; heads and activation come from a ``case.json`` beside the file or,
    without one, are those of the published CLIP models of these widths. No code in the file is executed. Raises as
    `load` does.
    """
    path = Path(file)
    if not path.is_file():
        raise MissingFileError(f"no such file: expected a .ckpt file, or a folder with {WEIGHTS} and {CASE}", file=path)
    state = published_state(read_weights(path), path)
    case = path.with_name(CASE)
    return build(state, path, read_settings(case) if case.is_file() else published_settings(state, path))


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """Return all weights of a file, under their names in it; raise InputError for a file of another kind."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint raises any of half a dozen kinds
        message = " ".join(str(error).split())[:300]
        raise InputError(f"can't be read as a checkpoint of weights: {message}", file=file) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise InputError("has no 'state_dict': expected a published Lightning checkpoint", file=file)
    return content["state_dict"]


def read_settings(file: Path) -> Settings:
    """Return the settings in a ``case.json``; raise InputError for one that lacks a field."""
    case = json.loads(file.read_text(encoding="utf-8"))
    try:
        vision, text = case["vision"], case["text"]
        if vision["hidden_act"] != text["hidden_act"] or text["hidden_act"] not in ("gelu", "quick_gelu"):
            raise InputError("hidden_act must be gelu or quick_gelu, and the same in both towers", file=file)
        return Settings(
            vision["hidden_size"] // vision["num_attention_heads"],
            text["num_attention_heads"],
            text["hidden_act"] == "quick_gelu",
            case["fusion"]["heads"],
            case["temperature"],
            case["lambda_cc"],
        )
    except KeyError as error:
        raise InputError("is missing", file=file, field=str(error.args[0])) from error


def published_settings(state: Mapping[str, Tensor], source: Path) -> Settings:
    """Return the settings of the published CLIP of these widths: QuickGELU for OpenAI's B and L, GELU for others."""
    image_width = shape(state, f"{VISION}embeddings.class_embedding", source)[0]
    if image_width not in HEAD_WIDTHS:
        raise InputError(f"no published CLIP has an image width of {image_width}; put a {CASE} beside it", file=source)
    text_width = shape(state, f"{TEXT}final_layer_norm.bias", source)[0]
    return Settings(HEAD_WIDTHS[image_width], text_width // 64, quick_gelu=image_width <= 1024)


def build(state: Mapping[str, Tensor], source: Path, settings: Settings) -> ContextCIR:
    """Return a `ContextCIR` of these weights, with the published losses and optimizer settings (paper section 2)."""
    import open_clip  # here: it takes seconds to import

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
    """Copy the weights into the parts; raise InputError for missing or unexpected names, and for another shape."""
    unused, missing = set(state), list[str]()
    for prefix, part in parts.items():
        for name, value in part.state_dict().items():
            if name == "logit_scale":  # CLIP's own temperature is unused in both models
                continue
            theirs = published_names(f"{prefix}.{name}")
            weights = [state[key].to(value.dtype) for key in theirs if key in state]
            unused.difference_update(theirs)
            if f"{prefix}.{name}" == TEXT_PROJECTION and not weights:
                value.zero_()
                continue
            missing += [key for key in theirs if key not in state]
            if len(weights) == len(theirs):
                joined = torch.cat(weights) if len(weights) > 1 else weights[0]
                joined = joined.T if f"{prefix}.{name}" in TRANSPOSED else joined
                if joined.shape != value.shape:
                    given, wanted = tuple(joined.shape), tuple(value.shape)
                    raise InputError(f"{theirs[0]} has the shape {given}, expected {wanted}", file=source)
                value.copy_(joined)  # state_dict shares memory with the part
    if missing or unused:
        unexpected = listed(sorted(unused))
        raise InputError(f"missing weights: {listed(missing)}; unexpected weights: {unexpected}", file=source)


def published_names(name: str) -> list[str]:
    """Return the published name of our parameter ``clip.*`` or ``fusion.*``; three names where it joins q, k and v."""
    for pattern, theirs in NAMES:
        name = re.sub(pattern, theirs, name)
    joint = re.fullmatch(r"(.*)in_proj_(weight|bias)", name)
    return [f"{joint[1]}{part}_proj.{joint[2]}" for part in "qkv"] if joint else [name]


def published_state(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return the weights without the prefix of a wrapper, and without the parser's copy of the text tower.

    The further wrapper of each tower, and the indices, of older Hugging Face CLIPs are removed too. Raises InputError
    for another checkpoint.
    """
    anchors = [name for name in weights if name.endswith(ANCHOR)]
    if len(anchors) != 1:
        raise InputError(
            f"has no {ANCHOR}: only checkpoints of the corrected fusion (June 2026) can be loaded", file=source
        )
    state = {}
    for name, value in weights.items():
        name = name.removeprefix(anchors[0].removesuffix(ANCHOR))
        if not name.startswith("parser.") and not name.endswith(".position_ids"):
            state[re.sub(r"\.model\.(vision|text)_model\.", ".model.", name)] = value
    return state


def clip_config(state: Mapping[str, Tensor], settings: Settings, source: Path) -> dict[str, Any]:
    """Return the arguments of `open_clip.CLIP` for these weights."""
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


def depth(state: Mapping[str, Tensor], tower: str, width: int, source: Path) -> dict[str, Any]:
    """Return the number of layers of a tower, and the ratio of its feed-forward width to its width."""
    start = f"{tower}encoder.layers."
    layers = {name.removeprefix(start).split(".")[0] for name in state if name.startswith(start)}
    hidden = shape(state, f"{start}0.mlp.fc1.bias", source)[0]
    return {"layers": len(layers), "mlp_ratio": (hidden + 0.5) / width}  # open_clip multiplies and rounds down


def shape(state: Mapping[str, Tensor], name: str, source: Path) -> torch.Size:
    """Return the shape of a weight; raise InputError if there is none of the name."""
    if name not in state:
        raise InputError(f"missing weights: {name}", file=source)
    return state[name].shape


def listed(names: list[str]) -> str:
    """Return some names, for a message."""
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "none"
