"""The parts of an open_clip model that this library reads, and which models have them.

open_clip has no type annotations: the classes here declare the attributes for type checkers and are never built.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from contextcir.errors import InputError


class Transformer(nn.Module):
    """A stack of transformer blocks."""

    resblocks: nn.ModuleList
    grad_checkpointing: bool
    get_cast_dtype: Callable[[], torch.dtype]


class ImageTower(nn.Module):
    """``open_clip.transformer.VisionTransformer``."""

    conv1: nn.Conv2d
    class_embedding: nn.Parameter
    positional_embedding: nn.Parameter
    ln_pre: nn.Module
    transformer: Transformer
    ln_post: nn.Module
    proj: nn.Parameter | None
    output_dim: int
    image_size: tuple[int, int]
    grid_size: tuple[int, int]
    attn_pool: nn.Module | None
    _pool: Callable[[Tensor], tuple[Tensor, Tensor]]


class TextTower(nn.Module):
    """A causal text tower, read at the end token."""

    token_embedding: nn.Embedding
    positional_embedding: nn.Parameter
    transformer: Transformer
    attn_mask: Tensor
    ln_final: nn.LayerNorm
    text_projection: nn.Parameter | nn.Linear


class ClipModel(nn.Module):
    """``open_clip.CLIP`` or ``open_clip.CustomTextCLIP``."""

    visual: ImageTower
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None
    set_grad_checkpointing: Callable[[bool], None]
    forward_intermediates: Callable[..., dict[str, Any]]


def check_towers(clip: nn.Module, name: str) -> None:
    """Check that the image tower is a square ViT with a class token, and the text tower causal and read at its end.

    Raises:
        InputError: if one of them is not; ``name`` is that of the model in the message.
    """
    from open_clip.transformer import VisionTransformer  # here: open_clip takes seconds to import

    visual, text = clip.visual, getattr(clip, "text", clip)
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        wrong = f"its image tower is a {type(visual).__name__} and not a ViT with plain pooling"
    elif visual.image_size[0] != visual.image_size[1]:
        wrong = f"its images of {visual.image_size} pixels are not square"
    elif not hasattr(text, "token_embedding") or getattr(text, "attn_mask", None) is None or pool != "argmax":
        wrong = "its text tower is not a causal one that is read at the end token"
    elif getattr(text, "cls_emb", None) is not None or text.text_projection is None:
        wrong = "its text tower is not read at the end token through a projection"
    else:
        return
    raise InputError(
        f"model '{name}' can't be used: {wrong}; choose a ViT such as ViT-B-32", setting="model.backbone.model"
    )


def freeze_all_but_last(parts: list[list[nn.Parameter]], blocks: int | None, name: str) -> None:
    """Freeze a tower, given as [stem, block, ..., block, head], except for its last ``blocks`` and its head.

    ``blocks``: None freezes nothing, 0 the head as well. ``name``: that of the argument of the backbone.

    Raises:
        InputError: if the tower has fewer blocks.
    """
    count = len(parts) - 2
    if blocks is None:
        return
    if type(blocks) is not int or not 0 <= blocks <= count:
        raise InputError(
            f"{name} is {blocks}, but the tower has {count} blocks: give 0 to {count}, or null for all",
            setting=f"model.backbone.{name}",
        )
    for part in parts[: len(parts) - 1 - blocks] if blocks else parts:
        for parameter in part:
            parameter.requires_grad_(False)
