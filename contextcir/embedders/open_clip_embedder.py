"""Any model of open_clip, without training: SigLIP and towers that are no square ViT are welcome."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from contextcir.checks import one_of, whole
from contextcir.embedders.base import Embedder, check_embeddings, check_queries, check_template
from contextcir.embedders.rules import CompositionRule, NormalisedSum
from contextcir.encoders.pretrained import MODEL, PRETRAINED, source_of
from contextcir.encoders.text import open_clip_name
from contextcir.errors import InputError, one_line
from contextcir.weights import state_digest

Precision = Literal["float32", "bfloat16", "float16"]


class OpenCLIPEmbedder(Embedder):
    """The two towers of a CLIP, and a zero-shot rule that makes one query of both embeddings.

    The model is loaded when it is first needed. Its ``revision`` is the digest of its weights.

    Args:
        model: name of open_clip, of a shipped model (``scenes-vit``), ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.
        pretrained: tag of open_clip or a file of weights; null for models that bring their own; ``random`` for none.
        rule: composes the query.
        template: the text of a query with ``{text}`` in it, such as ``a photo of {text}``.
        licence: of the weights, for the result.
        batch_size: images or texts at once.
        precision: of weights and activations: float32, bfloat16 or float16.
        device: such as cuda:0 or cpu; null for a GPU where there is one.

    Raises:
        InputError: if a setting can't be meant, or (on first use) the model can't be had.
    """

    def __init__(
        self,
        model: str,
        pretrained: str | None = None,
        rule: CompositionRule = NormalisedSum(),  # noqa: B008  (it is not changed)
        template: str = "{text}",
        licence: str | None = None,
        batch_size: int = 64,
        precision: Precision = "float32",
        device: str | None = None,
    ) -> None:
        self.model, self.pretrained = model, pretrained
        self.name = model if pretrained is None else f"{model} ({pretrained})"
        self.rule = rule
        self.template = check_template(template, "embedder.template")
        self.licence = licence
        self.batch = whole(batch_size, 1, "embedder.batch_size")
        self.precision = one_of(precision, get_args(Precision), "embedder.precision")
        self.device = device
        self._clip: _Clip | None = None

    @property
    def revision(self) -> str | None:  # type: ignore[override]
        """The digest of the weights."""
        return self._loaded().digest

    @property
    def parameters(self) -> int | None:  # type: ignore[override]
        """The number of weights."""
        return sum(weight.numel() for weight in self._loaded().clip.parameters())

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        return self._loaded().dimension

    def settings(self) -> dict[str, Any]:
        """Return what else changes embeddings."""
        return {**self.rule.settings(), "precision": self.precision}

    def embed_query(self, images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> Tensor:
        """Return the queries (B, E) that the rule makes; one of an image or a text alone is that embedding."""
        check_queries(images, texts)
        given, clip = self.query_texts(texts), self._loaded()
        of_images = clip.images([image for image in images if image is not None], self.batch)
        of_texts = clip.texts([text for text in given if text is not None], self.batch)
        queries = torch.empty(len(texts), self.dimension)  # (B, E)
        has_image = torch.tensor([image is not None for image in images], dtype=torch.bool)
        has_text = torch.tensor([text is not None for text in texts], dtype=torch.bool)
        queries[has_image], both = of_images, has_image & has_text
        queries[has_text & ~has_image] = of_texts[~has_image[has_text]]
        queries[both] = self.rule(of_images[has_text[has_image]], of_texts[has_image[has_text]])
        return check_embeddings(queries, len(texts), self.dimension, self.name)

    def embed_image(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the embeddings (B, E) of images."""
        clip = self._loaded()
        return check_embeddings(clip.images(images, self.batch), len(images), self.dimension, self.name)

    def _loaded(self) -> "_Clip":
        if self._clip is None:
            try:
                self._clip = _Clip(self.model, self.pretrained, getattr(torch, self.precision), self.device)
            except InputError as error:
                raise error.relocate(MODEL, "embedder.model").relocate(PRETRAINED, "embedder.pretrained") from None
        return self._clip


class _Clip:
    """A loaded model; embeddings come back as float32 on the CPU, not normalised."""

    def __init__(self, model: str, pretrained: str | None, dtype: torch.dtype, device: str | None) -> None:
        import open_clip  # takes seconds

        name = open_clip_name(model)
        source = source_of(model, name, pretrained, None)
        file = None if source is None else source.find()
        self.dtype = dtype
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            with _quiet():
                clip, _, self.preprocess = open_clip.create_model_and_transforms(name, load_weights=False)
            if file is not None:
                open_clip.load_checkpoint(clip, str(file))
            self.tokenizer = open_clip.get_tokenizer(name)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
            problem = f"{model} can't be loaded: {one_line(str(error), 150)}"
            raise InputError(problem, file=file, setting="embedder.model") from None
        self.digest = f"sha256:{state_digest(clip.state_dict())}"
        self.clip = clip.eval().to(self.device, dtype)
        self.dimension = self.texts(["a"], 1).shape[1]

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image], batch: int) -> Tensor:
        """Return the embeddings (B, E) of images."""
        parts = [torch.empty(0, getattr(self, "dimension", 0))]
        for start in range(0, len(images), batch):
            pixels = torch.stack([self.preprocess(image) for image in images[start : start + batch]])  # (b, 3, S, S)
            parts.append(self.clip.encode_image(pixels.to(self.device, self.dtype)).float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, texts: Sequence[str], batch: int) -> Tensor:
        """Return the embeddings (B, E) of texts."""
        parts = []
        for start in range(0, len(texts), batch):
            tokens = self.tokenizer(list(texts[start : start + batch])).to(self.device)  # (b, T)
            parts.append(self.clip.encode_text(tokens).float().cpu())
        return torch.cat(parts) if parts else torch.empty(0, self.dimension)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from warning that it has loaded no weights: they are loaded afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
