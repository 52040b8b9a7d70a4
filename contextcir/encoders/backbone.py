"""The two encoders: an open_clip model read token by token.

open_clip is imported only by the functions that build models: with timm, torchvision and wandb it takes seconds.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from contextcir import checks
from contextcir.devices import to_device
from contextcir.encoders.features import ImageFeatures, PseudoWords, RowFeatures, TextFeatures, TokenBatch
from contextcir.encoders.padding import FewSizes
from contextcir.encoders.pixels import divide
from contextcir.encoders.pretrained import MODEL, Source, are_postponed, preprocess_of, source_of
from contextcir.encoders.text import Tokenizer, open_clip_name
from contextcir.encoders.towers import ClipModel, TextTower, check_towers, freeze_all_but_last
from contextcir.errors import InputError, one_line, shown

MOST_PIXELS = 8192  # of the side of an image
BUCKETS = 4  # groups of texts of similar length: more save little, and each has fixed costs


class Widths(NamedTuple):
    """Widths of the vision tokens, of the text tokens, and of the space that both are projected to."""

    vision: int
    text: int
    embed: int


class OpenCLIPBackbone(nn.Module):
    """An open_clip model with a ViT image tower and a causal text tower.

    A file of weights rarely says which activation it was trained with: weights of OpenAI, and all that were fine-tuned
    from them, need a model whose name ends in ``-quickgelu``.

    Args:
        model: a name that open_clip knows, ``local-dir:FOLDER``, ``hf-hub:OWNER/NAME``, or that of the embedded model.
        pretrained: a tag, a weights file, or ``random``; None for those that folders and the embedded model bring.
        trainable_image_blocks: of the image tower: None trains all of it, 0 freezes it with its projection, n trains
            the last n blocks, the final norm and the projection.
        trainable_text_blocks: the same of the text tower.
        gradient_checkpointing: compute activations again in backward, for less memory and more time.
        image_size: side of an image in pixels, to use another one than the model's own.
        channels_last: store the patch-embedding convolution, and hence its output, in channels-last format.

    Raises:
        InputError: for an unknown model or tag (with close matches), for weights that can't be had, are broken, of
            another model or trained with another activation, for none at all, and for towers of another kind.
        MissingFileError: for a folder that does not exist.
    """

    clip: ClipModel
    pretrained: str | None
    stored: RowFeatures | None  # features of a frozen image tower, for rows in place of images
    sizes: FewSizes | None  # that texts are padded to, for compiled towers; None for no padding
    _source: Source | None  # of weights that are not loaded yet

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
        name = open_clip_name(model)
        if image_size is not None:
            checks.whole(image_size, 1, "model.backbone.image_size", MOST_PIXELS)
        source = source_of(model, name, pretrained, image_size)
        if source is not None and not are_postponed():
            source.find()  # before seconds of building a model that nothing fills
        self._adopt(build_clip(model, name, pretrained, image_size), tokenizer, model)
        if image_size is not None and image_size % self.clip.visual.conv1.kernel_size[0]:
            problem = f"expected a multiple of the patches' {self.clip.visual.conv1.kernel_size[0]} pixels"
            raise InputError(f"{problem}, got {image_size}", setting="model.backbone.image_size")
        self.pretrained = pretrained
        freeze_all_but_last(self._image_parts(), trainable_image_blocks, "trainable_image_blocks")
        freeze_all_but_last(self._text_parts(), trainable_text_blocks, "trainable_text_blocks")
        self.clip.set_grad_checkpointing(gradient_checkpointing)
        if channels_last:
            self.clip.visual.conv1.to(memory_format=torch.channels_last)
        self._source = source
        if not are_postponed():
            self.load_weights()

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
        self._source, self.stored, self.sizes = None, None, None
        self.register_load_state_dict_post_hook(_came)
        self.tokenizer = tokenizer
        visual = self.clip.visual
        self.widths = Widths(visual.conv1.out_channels, self._text.ln_final.weight.shape[0], visual.output_dim)
        self.image_size: int = visual.image_size[0]
        rows, columns = visual.grid_size
        self.grid: tuple[int, int] = (rows, columns)  # of patches
        settings = getattr(visual, "preprocess_cfg", {"size": self.image_size})
        try:
            self.preprocess: Callable[..., Tensor] = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        except Exception as error:  # assertions and type errors of open_clip
            raise InputError(f"can't prepare images as {shown(settings)} says", setting=MODEL) from error
        # The losses have a temperature of their own. CLIP's would never get a gradient, which DDP refuses.
        for scale in (self.clip.logit_scale, self.clip.logit_bias):
            if scale is not None:
                scale.requires_grad_(False)

    def load_weights(self) -> None:
        """Load the weights that were postponed, if any (`contextcir.encoders.pretrained.weights_postponed`)."""
        source, self._source = self._source, None
        if source is not None:
            source.fill(self.clip)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Preprocessed images (B, 3, S, S) -> tokens (B, V, D), CLS first, before the final norm; embeddings (B, E).

        In place of images there may be their pixels (B, 3, S, S) uint8, see `contextcir.encoders.pixels`, or rows
        (B, 2) int64 of the ``stored`` features.
        """
        if images.dtype == torch.uint8:
            _, normalise = divide(self.preprocess)
            images = normalise(images).to(self.clip.visual.conv1.weight.dtype)
        elif self.stored is not None and not images.is_floating_point():
            return self.stored.encode(self, images)
        if self._source is not None:
            self.load_weights()
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

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Vision tokens (B, V, D) before the final norm -> the image embedding (B, E) that the tower makes of them."""
        visual = self.clip.visual
        pooled, _ = visual._pool(tokens)  # (B, D) of CLS or the mean of the patches, with ln_post before or after
        return (pooled if visual.proj is None else pooled @ visual.proj).to(self._dtype)

    def encode_text(self, tokens: TokenBatch, words: PseudoWords | None = None) -> TextFeatures:
        """Token ids (B, T) -> tokens (B, T, D) after the final norm and embeddings (B, E).

        ``words``: vectors that stand in the place of words' own.

        The tower runs over T positions, not the full context length: it is causal, so the result is the same. On a CPU,
        texts of similar length go through it together, as padding costs as much there as words.
        """
        if self._source is not None:
            self.load_weights()
        ids, valid = to_device(tokens.ids, self._device), to_device(tokens.valid, self._device)
        if ids.device.type != "cpu" or len(ids) < 2 * BUCKETS:
            return self.encode_equally_long(ids, valid, words)
        order = valid.sum(dim=1).argsort(stable=True)  # (B,)
        parts = []
        for rows in order.tensor_split(BUCKETS):
            length = int(valid[rows].sum(dim=1).max())
            inserted = None if words is None else words.of(rows, length)
            part = self.encode_equally_long(ids[rows, :length], valid[rows, :length], inserted)
            parts.append(part._replace(tokens=functional.pad(part.tokens, (0, 0, 0, ids.shape[1] - length))))
        place = order.argsort()  # (B,)
        sides = [part.tokens for part in parts], [part.embedding for part in parts]
        hidden, embedding = (torch.cat(side)[place] for side in sides)
        return TextFeatures(hidden, valid, embedding)

    def encode_equally_long(self, ids: Tensor, valid: Tensor, words: PseudoWords | None = None) -> TextFeatures:
        """`encode_text` in one pass, with all positions of all texts."""
        rows, positions = ids.shape
        if self.sizes is None:
            return self._encode_texts(ids, valid, words)
        return self.sizes.cut(self._encode_texts(*self.sizes.pad(ids, valid, words)), rows, positions)

    def _encode_texts(self, ids: Tensor, valid: Tensor, words: PseudoWords | None) -> TextFeatures:
        tower = self._text
        length = ids.shape[1]
        with self._kernel(ids.device):
            cast_dtype = tower.transformer.get_cast_dtype()
            positions = tower.positional_embedding[:length].to(cast_dtype)
            embedded = tower.token_embedding(ids)  # (B, T, D)
            if words is not None:
                place = to_device(words.place, ids.device)[..., None]  # (B, T, 1)
                embedded = torch.where(place, words.vectors[:, None].to(embedded.dtype), embedded)
            hidden = embedded.to(cast_dtype) + positions  # (B, T, D)
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

    def parameter_groups(self) -> dict[str, set[str]]:
        """Return the names of parameters that an optimizer may give a rate of their own, by group: the two towers."""
        image = {id(parameter) for parameter in self.clip.visual.parameters()}
        names = {name: id(parameter) in image for name, parameter in self.named_parameters()}
        return {
            "image_tower": {name for name, of_image in names.items() if of_image},
            "text_tower": {name for name, of_image in names.items() if not of_image},
        }

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


def build_clip(model: str, name: str, pretrained: str | None, image_size: int | None) -> nn.Module:
    """Return the open_clip model with random weights, on torch's default device.

    ``name``: open_clip's name of the ``model``. Raises InputError if it can't be built.
    """
    import open_clip

    log = logging.getLogger()  # open_clip's own word that weights are random: they are loaded afterwards
    log.addFilter(_not_random)
    try:
        return open_clip.create_model(
            name,
            load_weights=False,
            device=torch.get_default_device(),
            force_image_size=image_size,
            force_patch_dropout=0.0,  # dropped patches would have no place in the attention maps
            force_preprocess_cfg=preprocess_of(name, pretrained),
            pretrained_text=False,
        )
    except Exception as error:  # settings that do not go together raise any of half a dozen kinds
        reason = one_line(str(error), 150) or type(error).__name__
        raise InputError(f"can't build the model {shown(model)}: {reason}", setting=MODEL) from error
    finally:
        log.removeFilter(_not_random)


def _not_random(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("No pretrained weights loaded")


def _came(backbone: Any, incompatible: Any) -> None:
    """Forget postponed weights once a checkpoint has brought all of them, and features of other weights."""
    if backbone.stored is not None:
        backbone.stored.close()
    if not any(".clip." in f".{name}" for name in incompatible.missing_keys):
        backbone._source = None
