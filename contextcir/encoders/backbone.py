"""The two encoders: an open_clip model read token by token.

open_clip is imported only by the functions that build models: with timm, torchvision and wandb it takes seconds.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contextcir.encoders.features import ImageFeatures, TextFeatures, TokenBatch
from contextcir.encoders.text import Tokenizer, open_clip_name
from contextcir.encoders.towers import ClipModel, TextTower, check_towers, freeze_all_but_last
from contextcir.errors import InputError


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
    blocks, the final norm and the projection. ``image_size``: pixels, to use another one than the model's own.
    ``channels_last``: store the patch-embedding convolution, and hence its output, in channels-last format.

    Raises:
        InputError: for an unknown model, tag or file (with close matches), for weights that were trained with another
            activation, and for towers of another kind.
        MissingFileError: for a folder that does not exist.
    """

    clip: ClipModel
    pretrained: str | None

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
        """Return a backbone around an open_clip model that was built elsewhere; both towers train.

        ``name``: that of the model in messages and result files.
        """
        backbone = cls.__new__(cls)
        nn.Module.__init__(backbone)
        backbone._adopt(clip, tokenizer, name)
        return backbone

    def _adopt(self, clip: nn.Module, tokenizer: Tokenizer, name: str) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        check_towers(clip, name)
        self.clip = cast(ClipModel, clip)
        self.model_name, self.pretrained = name, None  # for result files
        self.tokenizer = tokenizer
        visual = self.clip.visual
        self.widths = Widths(visual.conv1.out_channels, self._text.ln_final.weight.shape[0], visual.output_dim)
        self.image_size: int = visual.image_size[0]
        rows, columns = visual.grid_size
        self.grid: tuple[int, int] = (rows, columns)  # of patches
        settings = getattr(visual, "preprocess_cfg", {"size": self.image_size})
        self.preprocess: Callable[..., Tensor] = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        # The losses have a temperature of their own. CLIP's would never get a gradient, which DDP refuses.
        for scale in (self.clip.logit_scale, self.clip.logit_bias):
            if scale is not None:
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
        """Project vision tokens (B, V, D) into the space of the embeddings, (B, V, E), not normalised.

        These are the norm and projection of a pooled token; in a tower that averages its patches, the mean of the
        projected patches is the embedding of the image.
        """
        visual = self.clip.visual
        projected = visual.ln_post(tokens)  # (B, V, D)
        return projected if visual.proj is None else projected @ visual.proj  # (B, V, E)

    def encode_text(self, tokens: TokenBatch) -> TextFeatures:
        """Token ids (B, T) -> tokens (B, T, D) after the final norm and embeddings (B, E).

        The tower runs over T positions, not the full context length: it is causal, so the result is the same.
        """
        tower = self._text
        ids, valid = tokens.ids.to(self._device), tokens.valid.to(self._device)
        length = ids.shape[1]
        with self._kernel(ids.device):
            cast_dtype = tower.transformer.get_cast_dtype()
            positions = tower.positional_embedding[:length].to(cast_dtype)
            hidden = tower.token_embedding(ids).to(cast_dtype) + positions  # (B, T, D)
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
        """Freeze the projection for fusions that read text tokens only: DDP refuses parameters without a gradient."""
        for parameter in self._text_projection():
            parameter.requires_grad_(False)

    @property
    def _text(self) -> TextTower:
        # CustomTextCLIP keeps its text tower in `.text`, CLIP in itself.
        return cast(TextTower, getattr(self.clip, "text", self.clip))

    @property
    def _device(self) -> torch.device:
        return self._text.positional_embedding.device

    @property
    def _dtype(self) -> torch.dtype:
        # Under autocast open_clip returns image tokens in low precision and text tokens in full: both become equal.
        return self._text.positional_embedding.dtype

    def _kernel(self, device: torch.device) -> AbstractContextManager:
        """Choose plain matrix products on a CPU, where the fused attention kernel trains up to ten times slower.

        Not with gradient checkpointing: its second forward pass runs outside of this context, and has to be the same.
        """
        plain = device.type == "cpu" and not self.clip.visual.transformer.grad_checkpointing
        return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()

    def _image_parts(self) -> list[list[nn.Parameter]]:
        visual = self.clip.visual
        stem = [visual.class_embedding, visual.positional_embedding]
        stem += [*visual.conv1.parameters(), *visual.ln_pre.parameters()]
        head = [*visual.ln_post.parameters(), *([] if visual.proj is None else [visual.proj])]
        return [stem, *(list(block.parameters()) for block in visual.transformer.resblocks), head]

    def _text_parts(self) -> list[list[nn.Parameter]]:
        tower = self._text
        stem = [*tower.token_embedding.parameters(), tower.positional_embedding]
        blocks = (list(block.parameters()) for block in tower.transformer.resblocks)
        return [stem, *blocks, [*tower.ln_final.parameters(), *self._text_projection()]]

    def _text_projection(self) -> list[nn.Parameter]:
        projection = self._text.text_projection
        return list(projection.parameters()) if isinstance(projection, nn.Module) else [projection]


def load_clip(model: str, pretrained: str | None, image_size: int | None) -> nn.Module:
    """Return the open_clip model, on torch's default device; raises as described at `OpenCLIPBackbone`."""
    import open_clip

    name = open_clip_name(model)
    if pretrained is not None:
        if ":" in name:
            raise InputError(
                f"model '{model}' brings its own weights, got '{pretrained}' too: set it to null",
                setting="model.backbone.pretrained",
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
        raise InputError(
            f"cannot load the weights of {given}: {' '.join(str(error).split())[:400]}",
            setting=f"model.backbone.{'model' if pretrained is None else 'pretrained'}",
        ) from error


def check_pretrained(name: str, pretrained: str) -> None:
    """Check that ``pretrained`` is a file, or a tag of this model whose weights have the model's activation.

    Raises:
        InputError: with the closest tags, or with the name of the model to use instead.
    """
    import open_clip

    if Path(pretrained).is_file():
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        close = get_close_matches(pretrained, tags, n=5, cutoff=0.3) or tags
        raise InputError(
            f"'{pretrained}' is neither a file nor a pretrained tag of {name}; "
            f"close to it: {', '.join(close) or 'none'}",
            setting="model.backbone.pretrained",
        )
    quick = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
    if quick != bool(open_clip.get_model_config(name).get("quick_gelu", False)):
        plain = name.removesuffix("-quickgelu")
        raise InputError(
            f"weights '{pretrained}' were trained with {'QuickGELU' if quick else 'GELU'}, which {name} does not "
            f"compute: use the model {f'{plain}-quickgelu' if quick else plain}",
            setting="model.backbone.model",
        )
