"""The two encoders: an open_clip model read token by token."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contextcir.encoders.features import ImageFeatures, TextFeatures, TokenBatch
from contextcir.encoders.text import Tokenizer, open_clip_name


class Widths(NamedTuple):
    """Widths of the vision tokens, of the text tokens, and of the space that both are projected to."""

    vision: int
    text: int
    embed: int


class OpenCLIPBackbone(nn.Module):
    """An open_clip model with a ViT image tower and a causal text tower.

    ``model``: a name that open_clip knows, ``local-dir:FOLDER``, or the name of the embedded model. ``pretrained``: a
    tag or a weights file; None for random weights (or those of the folder). ``trainable_image_blocks`` and
    ``trainable_text_blocks``: None trains the whole tower, 0 freezes it with its projection, n trains the last n
    blocks, the final norm and the projection. ``image_size``: pixels, where it shall differ from the model's own.
    ``channels_last``: the convolution that reads images has its weights, and so its result, in this memory format.

    Raises ValueError for an unknown model, tag or file (with close matches), for weights whose activation is another
    one, and for towers of another kind; FileNotFoundError for a folder that is not there.
    """

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | None = None,
        trainable_image_blocks: int | None = None,
        trainable_text_blocks: int | None = None,
        gradient_checkpointing: bool = False,
        image_size: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        tokenizer = Tokenizer(model)
        self._adopt(load_clip(model, pretrained, image_size), tokenizer, model)
        self.pretrained = pretrained
        freeze_all_but_last(self._image_parts(), trainable_image_blocks, "trainable_image_blocks")
        freeze_all_but_last(self._text_parts(), trainable_text_blocks, "trainable_text_blocks")
        self.clip.set_grad_checkpointing(gradient_checkpointing)
        if channels_last:
            self.clip.visual.conv1.to(memory_format=torch.channels_last)

    @classmethod
    def wrap(cls, clip: nn.Module, tokenizer: Tokenizer, name: str) -> "OpenCLIPBackbone":
        """A backbone around an open_clip model that was built elsewhere; both towers train. ``name`` is for errors."""
        backbone = cls.__new__(cls)
        nn.Module.__init__(backbone)
        backbone._adopt(clip, tokenizer, name)
        return backbone

    def _adopt(self, clip: nn.Module, tokenizer: Tokenizer, name: str) -> None:
        check_towers(clip, name)
        self.clip = clip
        self.model_name, self.pretrained = name, None  # for result files
        self.tokenizer = tokenizer
        text_width = self._text.ln_final.weight.shape[0]
        self.widths = Widths(clip.visual.conv1.out_channels, text_width, clip.visual.output_dim)
        self.image_size: int = clip.visual.image_size[0]
        self.grid: tuple[int, int] = tuple(clip.visual.grid_size)  # (rows, columns) of patches
        settings = getattr(clip.visual, "preprocess_cfg", {"size": self.image_size})
        self.preprocess: Callable[..., Tensor] = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        for scale in (clip.logit_scale, clip.logit_bias):  # the losses have their own temperature; without a gradient
            if scale is not None:  # these would be unused parameters, which distributed training refuses
                scale.requires_grad_(False)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Preprocessed images (B, 3, S, S) -> tokens (B, V, D), CLS first, before the final norm; embeddings (B, E)."""
        with self._kernel(images.device):
            output = self.clip.forward_intermediates(
                image=images,
                image_indices=1,
                image_output_fmt="NLC",
                image_output_extra_tokens=True,
                normalize=False,
                normalize_intermediates=False,
            )
        class_token, patches = output["image_intermediates_prefix"][0], output["image_intermediates"][0]
        tokens = torch.cat([class_token, patches], dim=1)  # (B, V, D)
        return ImageFeatures(tokens.to(self._dtype), output["image_features"].to(self._dtype))

    def project_tokens(self, tokens: Tensor) -> Tensor:
        """Vision tokens (B, V, D) -> each of them where embeddings are, (B, V, E), not normalised.

        That is the norm and projection that a pooled token goes through; in a tower that pools its patches by their
        mean, the mean of theirs is the embedding of the image.
        """
        visual = self.clip.visual
        projected = visual.ln_post(tokens)  # (B, V, D)
        return projected if visual.proj is None else projected @ visual.proj  # (B, V, E)

    def encode_text(self, tokens: TokenBatch) -> TextFeatures:
        """Tokens (B, T, D) after the final norm and embeddings (B, E).

        The tower is run over the T tokens that are there and no further: it is causal, so the result is that of the
        full context length.
        """
        tower = self._text
        ids, valid = tokens.ids.to(self._device), tokens.valid.to(self._device)
        length = ids.shape[1]
        with self._kernel(ids.device):
            cast = tower.transformer.get_cast_dtype()
            hidden = tower.token_embedding(ids).to(cast) + tower.positional_embedding[:length].to(cast)  # (B, T, D)
            hidden = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length]))
            end = valid.sum(dim=1) - 1  # (B,) position of the end token
            pooled = hidden[torch.arange(len(ids), device=ids.device), end]  # (B, D)
            projection = tower.text_projection
            embedding = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection  # (B, E)
        return TextFeatures(hidden.to(self._dtype), valid, embedding.to(self._dtype))

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks of the image tower, then those of the text tower."""
        return [*self.clip.visual.transformer.resblocks, *self._text.transformer.resblocks]

    def freeze_text_projection(self) -> None:
        """For fusions that read text tokens only: a parameter without a gradient stops distributed training."""
        projection = self._text.text_projection
        for parameter in projection.parameters() if isinstance(projection, nn.Module) else [projection]:
            parameter.requires_grad_(False)

    @property
    def _text(self) -> nn.Module:
        return getattr(self.clip, "text", self.clip)  # CustomTextCLIP keeps its text tower in `.text`, CLIP in itself

    @property
    def _device(self) -> torch.device:
        return self._text.positional_embedding.device

    @property
    def _dtype(self) -> torch.dtype:
        # Under autocast open_clip returns image tokens in low precision and text tokens in full: both leave alike.
        return self._text.positional_embedding.dtype

    def _kernel(self, device: torch.device) -> AbstractContextManager:
        """On a CPU, the fused attention kernel trains up to ten times slower than plain matrix products.

        Not with gradient checkpointing: its second forward pass runs outside of this context, and has to be the same.
        """
        plain = device.type == "cpu" and not self.clip.visual.transformer.grad_checkpointing
        return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()

    def _image_parts(self) -> list[list[nn.Parameter]]:
        visual = self.clip.visual
        stem = [visual.class_embedding, visual.positional_embedding]
        stem += [*visual.conv1.parameters(), *visual.ln_pre.parameters()]
        head = [*visual.ln_post.parameters(), visual.proj]
        return [stem, *(list(block.parameters()) for block in visual.transformer.resblocks), head]

    def _text_parts(self) -> list[list[nn.Parameter]]:
        tower, projection = self._text, self._text.text_projection
        stem = [*tower.token_embedding.parameters(), tower.positional_embedding]
        project = list(projection.parameters()) if isinstance(projection, nn.Module) else [projection]
        blocks = (list(block.parameters()) for block in tower.transformer.resblocks)
        return [stem, *blocks, [*tower.ln_final.parameters(), *project]]


def freeze_all_but_last(parts: list[list[nn.Parameter]], blocks: int | None, flag: str) -> None:
    """Freezes a tower given as [stem, block, ..., block, head] but for its last `blocks` and its head."""
    count = len(parts) - 2
    if blocks is None:
        return
    if not 0 <= blocks <= count:
        raise ValueError(
            f"--model.backbone.{flag} is {blocks}, but the tower has {count} blocks: give 0 to {count}, or null for all"
        )
    for part in parts[: len(parts) - 1 - blocks] if blocks else parts:
        for parameter in part:
            parameter.requires_grad_(False)


def load_clip(model: str, pretrained: str | None, image_size: int | None) -> nn.Module:
    """The open_clip model, on torch's default device. Raises as described at `OpenCLIPBackbone`."""
    name = open_clip_name(model)
    if pretrained is not None:
        if ":" in name:
            raise ValueError(
                f"model '{model}' brings its own weights, got '{pretrained}' too: set --model.backbone.pretrained=null"
            )
        check_pretrained(name, pretrained)
    try:
        return open_clip.create_model(
            name,
            pretrained,
            device=torch.get_default_device(),
            force_image_size=image_size,
            force_patch_dropout=0.0,  # dropped patches would have no place in the attention maps
            require_pretrained=pretrained is not None or ":" in name,
        )
    except Exception as error:  # a file that is broken or of another model raises any of half a dozen kinds
        given = f"'{model}'" if pretrained is None else f"'{model}' with '{pretrained}'"
        raise ValueError(f"cannot load the weights of {given}: {' '.join(str(error).split())[:400]}") from error


def check_pretrained(name: str, pretrained: str) -> None:
    """ValueError unless `pretrained` is a file, or a tag of this model that was trained with the model's activation."""
    if Path(pretrained).is_file():
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        close = get_close_matches(pretrained, tags, n=5, cutoff=0.3) or tags
        raise ValueError(
            f"'{pretrained}' is neither a file nor a pretrained tag of {name} (--model.backbone.pretrained); "
            f"close to it: {', '.join(close) or 'none'}"
        )
    quick = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
    if quick != bool(open_clip.get_model_config(name).get("quick_gelu", False)):
        plain = name.removesuffix("-quickgelu")
        needed = f"{plain}-quickgelu" if quick else plain
        raise ValueError(
            f"weights '{pretrained}' were trained with {'QuickGELU' if quick else 'GELU'}, which {name} does not "
            f"compute: use --model.backbone.model={needed}"
        )


def check_towers(clip: nn.Module, name: str) -> None:
    """ValueError unless the image tower is a square ViT with class token, the text tower causal and read at its end."""
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
    raise ValueError(f"model '{name}' can't be used: {wrong}; choose a ViT such as ViT-B-32 (--model.backbone.model)")
