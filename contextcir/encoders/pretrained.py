"""Where the weights of a backbone come from: a tag, a file, a folder, or none at all (``random``)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from contextcir.encoders.downloads import hub_file
from contextcir.encoders.folders import CONFIG, ENDINGS, weights_file
from contextcir.errors import InputError, one_line, shown
from contextcir.files import parse_json, read_text
from contextcir.weights import WeightsFile, local_file, misfits, read_weights, state_of, under
from contextcir.weights.states import listed

MODEL, PRETRAINED = "model.backbone.model", "model.backbone.pretrained"
RANDOM = "random"
ANCHOR = "visual.conv1.weight"  # a weight of every CLIP whose image tower is a ViT
# Entries of published files that are no weights of the model; its own temperature is not used.
EXTRA = ("input_resolution", "context_length", "vocab_size", "logit_bias")
OPTIONAL = ("logit_scale", "logit_bias")

_postponed: ContextVar[bool] = ContextVar("postponed", default=False)


@contextmanager
def weights_postponed() -> Iterator[None]:
    """Let backbones that are built in this block load their weights later, or never.

    For whoever knows that a checkpoint may overwrite all of them: then they are neither downloaded nor read.
    `OpenCLIPBackbone.load_weights` loads them; so does the first image or text, should nobody have done it.
    """
    token = _postponed.set(True)
    try:
        yield
    finally:
        _postponed.reset(token)


def are_postponed() -> bool:
    """Tell whether this is within `weights_postponed`."""
    return _postponed.get()


class Source(NamedTuple):
    """The weights of a backbone. ``model``: as the user wrote it. ``name``: open_clip's. ``pretrained``: tag or file.

    ``resized``: another size of images than the model's was asked for.
    """

    model: str
    name: str
    pretrained: str | None
    resized: bool

    def fill(self, clip: nn.Module) -> None:
        """Find the file, downloading it where a tag needs it, and load it into a CLIP.

        Raises:
            MissingFileError: if there is no such file.
            InputError: if it can't be had, read or used.
        """
        setting = MODEL if self.pretrained is None else PRETRAINED
        found = read_weights(self.find(), setting)
        if self.pretrained is not None and not is_tag(self.name, self.pretrained):
            self._check_activation(found)
        fill(clip, found, self.model, setting, self.resized)

    def find(self) -> Path:
        """Return the file, downloaded if need be; raises as `fill` does."""
        setting = MODEL if self.pretrained is None else PRETRAINED
        if self.pretrained is None:
            folder = Path(self.name.removeprefix("local-dir:"))
            if self.model.startswith("hf-hub:"):
                return hub_file(self.model.removeprefix("hf-hub:"), *_HUB_WEIGHTS, setting)
            return weights_file(folder, setting)
        if not is_tag(self.name, self.pretrained):
            return local_file(self.pretrained, setting)
        import open_clip

        repository, _, name = open_clip.get_pretrained_cfg(self.name, self.pretrained)["hf_hub"].rpartition("/")
        names, wanted, way_out = _HUB_WEIGHTS
        if name:
            names = (*dict.fromkeys((f"{os.path.splitext(name)[0]}.safetensors", name)),)
        wanted = f"the weights '{self.pretrained}' of {self.model}"
        return hub_file(repository, names, wanted, way_out, setting)

    def _check_activation(self, found: WeightsFile) -> None:
        """Compare the activation with what the file, or one beside it, says; where nothing does, say which is taken."""
        import open_clip
        from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # here: encoders work without lightning

        quick = quick_gelu_of(found)
        if quick is None:
            taken = "QuickGELU" if _is_quick(open_clip.get_model_config(self.name)) else "GELU"
            rank_zero_warn(
                f"{found.path} does not say which activation its weights were trained with: {self.model} computes "
                f"{taken}. {_other(self.name)} is the model for the other one (OpenAI's weights, and what was "
                "fine-tuned from them, need QuickGELU)"
            )
        elif quick != _is_quick(open_clip.get_model_config(self.name)):
            raise InputError(_wrong_activation(f"weights {found.path}", self.name, quick), setting=MODEL)


_HUB_WEIGHTS = (
    ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
    "the weights",
    "give a file of weights",
)


def source_of(model: str, name: str, pretrained: str | None, image_size: int | None) -> Source | None:
    """Return where the weights of a model come from, None for random ones; no file is opened.

    ``name``: open_clip's name of the ``model``.

    Raises:
        InputError: if there is no such tag, weights were trained with another activation, or none are named.
    """
    own = ":" in name
    if pretrained == RANDOM:
        return None
    if own and pretrained is not None:
        raise InputError(
            f"model '{model}' brings its own weights, got '{pretrained}' too: set it to null", setting=PRETRAINED
        )
    if not own:
        if not pretrained:
            tags = _tags(name)
            some = ", ".join([*tags[:3], "..."] if tags[3:] else tags)
            raise InputError(
                f"model '{model}' has no weights of its own: give a tag ({some}), a file, or "
                f"'{RANDOM}' for random weights",
                setting=PRETRAINED,
            )
        check_pretrained(name, pretrained)
    return Source(model, name, pretrained, image_size is not None)


def check_pretrained(name: str, pretrained: str) -> None:
    """Check that ``pretrained`` looks like a file, or is a tag of this model whose weights have the model's activation.

    Raises:
        InputError: with the closest tags, or with the name of the model to use instead.
    """
    import open_clip

    if not is_tag(name, pretrained):
        if _is_path(pretrained):
            return
        tags = _tags(name)
        close = get_close_matches(pretrained, tags, n=5, cutoff=0.3) or tags[:5]
        raise InputError(
            f"{shown(pretrained)} is neither a file nor a pretrained tag of {name}; "
            f"close to it: {', '.join(close) or 'none'}",
            setting=PRETRAINED,
        )
    quick = _is_quick(open_clip.get_pretrained_cfg(name, pretrained))
    if quick != _is_quick(open_clip.get_model_config(name)):
        raise InputError(_wrong_activation(f"weights '{pretrained}'", name, quick), setting=MODEL)


def is_tag(name: str, pretrained: str) -> bool:
    """Tell whether this is one of open_clip's tags of a model."""
    return ":" not in name and pretrained in _tags(name)


def preprocess_of(name: str, pretrained: str | None) -> dict[str, Any]:
    """Return how images are prepared for the weights of a tag; empty for all others, which follow the model."""
    import open_clip

    tag = pretrained is not None and is_tag(name, pretrained)
    return dict(open_clip.get_pretrained_cfg(name, pretrained)) if tag else {}


def fill(clip: nn.Module, found: WeightsFile, model: str, setting: str, resized: bool) -> None:
    """Load the weights of a file into a CLIP; names may have the prefixes that training programs give them.

    Raises:
        InputError: if they are broken or of another model.
    """
    from lightning.pytorch.utilities.rank_zero import rank_zero_warn
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    own = clip.state_dict()
    whole = state_of(found, setting)
    state = under(whole, ANCHOR, found, setting)
    if "text.token_embedding.weight" in own and "text.token_embedding.weight" not in state:
        state = convert_to_custom_text_state_dict(state)
    for name in OPTIONAL:  # a number, or a list of one
        if name in own:
            state[name] = state[name].reshape(own[name].shape) if _is_one(state.get(name)) else own[name]
    state = {
        name: value
        for name, value in state.items()
        if name in own or (name not in EXTRA and not name.endswith(".position_ids"))
    }
    places = "visual.positional_embedding"
    before = state.get(places)
    try:
        resize_pos_embed(state, clip)
        resize_text_pos_embed(state, clip)
    except Exception:  # of another width, or of no square grid: told as a misfit
        state = {**state, **({} if before is None else {places: before})}
    odd = misfits(state, own)
    if odd:
        more = f" (and {len(odd) - 1:,} more)" if odd[1:] else ""
        expected = ANCHOR if ANCHOR in own else next(iter(own))
        problem = (
            f"cannot load the weights into '{model}': {one_line(odd[0], 80)}{more}; it is {found.kind} with "
            f"{listed(whole, 2)}; expected {expected}, ..."
        )
        raise InputError(problem, file=found.path, setting=setting)
    patches = len(state[places]) - 1
    if before is not None and len(before) - 1 != patches and not resized:
        rank_zero_warn(
            f"{found.path} was trained with {len(before) - 1} patches an image, '{model}' has {patches}: "
            "its position embeddings were resized; for figures as published, choose the model of its size of images"
        )
    clip.load_state_dict(state)


def quick_gelu_of(found: WeightsFile) -> bool | None:
    """Return whether weights were trained with QuickGELU, None where nothing says so.

    A TorchScript archive has the activation in its code; a file of the Hub's cache is known by its repository; a folder
    may have a configuration of open_clip or of transformers.
    """
    if found.quick_gelu is not None:
        return found.quick_gelu
    for part in found.path.absolute().parts:
        if part.startswith("models--") and part in (repositories := _repositories()):
            return repositories[part]
    for name in (CONFIG, "config.json"):
        file = found.path.with_name(name)
        if file.is_file():
            try:
                config = parse_json(read_text(file, most=1_000_000), file)
            except InputError:
                continue
            text = str(config)
            if name == CONFIG and isinstance(config, dict) and isinstance(config.get("model_cfg"), dict):
                return bool(config["model_cfg"].get("quick_gelu", False))
            if name != CONFIG and "'hidden_act'" in text:
                return "'hidden_act': 'quick_gelu'" in text
    return None


def _repositories() -> dict[str, bool]:
    """Return whether the weights of each repository that open_clip knows have QuickGELU, by its name in the cache."""
    import open_clip

    known = {}
    for model, tag in open_clip.list_pretrained():
        config = open_clip.get_pretrained_cfg(model, tag)
        owner, _, name = config.get("hf_hub", "").rpartition("/")[0].partition("/")
        known[f"models--{owner}--{name}"] = _is_quick(config)
    return known


def _is_one(value: torch.Tensor | None) -> bool:
    return value is not None and value.numel() == 1


def _is_quick(config: Any) -> bool:
    return bool(config.get("quick_gelu", False))


def _other(name: str) -> str:
    plain = name.removesuffix("-quickgelu")
    return plain if plain != name else f"{plain}-quickgelu"


def _wrong_activation(weights: str, name: str, quick: bool) -> str:
    plain = name.removesuffix("-quickgelu")
    return (
        f"{weights} were trained with {'QuickGELU' if quick else 'GELU'}, which {name} does not compute: "
        f"use the model {f'{plain}-quickgelu' if quick else plain}"
    )


def _tags(name: str) -> list[str]:
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(name))


def _is_path(text: str) -> bool:
    looks = os.sep in text or ":" in text or text.endswith((*ENDINGS, ".ckpt", ".npz", ".npy", ".h5"))
    return looks or os.path.lexists(text)
