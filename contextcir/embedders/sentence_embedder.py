"""Models of sentence-transformers in this process: Qwen3-VL-Embedding, GME, BGE-VL and others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from contextcir.checks import one_of, whole
from contextcir.embedders.base import Embedder, check_embeddings, check_queries, check_template
from contextcir.embedders.batches import Item, batches
from contextcir.embedders.rules import CompositionRule
from contextcir.errors import InputError, one_line
from contextcir.weights import state_digest

Precision = Literal["float32", "bfloat16", "float16"]
QUERY, DOCUMENT = "query", "document"


class SentenceTransformersEmbedder(Embedder):
    """A `SentenceTransformer` that takes ``{"image": ..., "text": ...}`` (sentence-transformers from 5.4 on).

    The model is loaded when it is first needed. Batches are made of items of the same parts and of like length.

    Args:
        model: name on the Hugging Face hub, or a folder.
        revision: of the model on the hub; null for the newest one, whose commit is then part of the result.
        licence: of the weights, for the result.
        instruction: of queries, as the library's ``prompt``; null for the model's own prompt of queries, if it has one.
        document_instruction: of images, likewise.
        template: the text of a query with ``{text}`` in it.
        rule: composes the query from image and text that are embedded alone, for models of two towers; null where the
            model takes both at once.
        batch_size: items at once.
        batch_tokens: most tokens at once, estimated; null for no limit.
        hand_over: items that are embedded before they are stored.
        precision: of the weights: bfloat16, float16 or float32.
        device: such as cuda:0 or cpu; null for a GPU where there is one.
        trust_remote_code: run the code that the model's repository brings. Read it first.
        model_options: more arguments of the model, such as {"attn_implementation": "flash_attention_2"}.
        processor_options: more arguments of the processor, such as {"max_pixels": 1003520}.
        encode_options: more arguments of ``encode``, such as {"task": "retrieval"}.

    Raises:
        InputError: if a setting can't be meant; on first use, if the library or the model can't be had.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        licence: str | None = None,
        instruction: str | None = None,
        document_instruction: str | None = None,
        template: str = "{text}",
        rule: CompositionRule | None = None,
        batch_size: int = 32,
        batch_tokens: int | None = 32_768,
        hand_over: int = 256,
        precision: Precision = "bfloat16",
        device: str | None = None,
        trust_remote_code: bool = False,
        model_options: dict[str, Any] | None = None,
        processor_options: dict[str, Any] | None = None,
        encode_options: dict[str, Any] | None = None,
    ) -> None:
        if not model.strip():
            raise InputError("expected the name of a model or a folder, got none", setting="embedder.model")
        self.model, self._revision, self.licence = model, revision, licence
        self.name = Path(model).name if Path(model).is_dir() else model
        self.instruction, self.document_instruction = instruction, document_instruction
        self.template = check_template(template, "embedder.template")
        self.rule = rule
        self.batch_size = whole(batch_size, 1, "embedder.batch_size")
        self.batch_tokens = None if batch_tokens is None else whole(batch_tokens, 1, "embedder.batch_tokens")
        self.batch = whole(hand_over, 1, "embedder.hand_over")
        self.precision = one_of(precision, get_args(Precision), "embedder.precision")
        self.device, self.trust_remote_code = device, trust_remote_code
        self.model_options = dict(model_options or {})
        self.processor_options = dict(processor_options or {})
        self.encode_options = dict(encode_options or {})
        self._model: Any = None

    @property
    def revision(self) -> str | None:  # type: ignore[override]
        """The given revision, else the commit of the loaded files, else the digest of the weights."""
        if self._revision is None:
            loaded = self._loaded()
            config = getattr(getattr(loaded[0], "auto_model", None), "config", None)
            commit = getattr(config, "_commit_hash", None)
            self._revision = commit or f"sha256:{state_digest(loaded.state_dict())}"
        return self._revision

    @property
    def parameters(self) -> int | None:  # type: ignore[override]
        """The number of weights."""
        return sum(weight.numel() for weight in self._loaded().parameters())

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        loaded = self._loaded()
        return loaded.get_embedding_dimension() or self._encode([(None, "a")], QUERY).shape[1]

    def settings(self) -> dict[str, Any]:
        """Return what else changes embeddings: prompts of the model's own among it."""
        prompts = self._loaded().prompts
        own = {name: prompts[name] for name in (QUERY, DOCUMENT) if prompts.get(name)}
        options = {"model": self.model_options, "processor": self.processor_options, "encode": self.encode_options}
        rule = {} if self.rule is None else self.rule.settings()
        return {"own_prompts": own, "precision": self.precision, "options": options, **rule}

    def embed_query(self, images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> Tensor:
        """Return the embeddings (B, E) of queries."""
        check_queries(images, texts)
        items: list[Item] = list(zip(images, self.query_texts(texts), strict=True))
        if self.rule is None:
            queries = self._encode(items, QUERY)
        else:
            queries = self._composed(items, self.rule)
        return check_embeddings(queries, len(items), self.dimension, self.name)

    def embed_image(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the embeddings (B, E) of candidates."""
        candidates = self._encode([(image, None) for image in images], DOCUMENT)
        return check_embeddings(candidates, len(images), self.dimension, self.name)

    def _composed(self, items: Sequence[Item], rule: CompositionRule) -> Tensor:
        alone = [(image, None) if text is None else (None, text) for image, text in items]
        queries = self._encode(alone, QUERY)
        both = [place for place, (image, text) in enumerate(items) if image is not None and text is not None]
        if both:
            of_images = self._encode([(items[place][0], None) for place in both], QUERY)
            queries[both] = rule(of_images, queries[both])
        return queries

    def _encode(self, items: Sequence[Item], task: str) -> Tensor:
        loaded = self._loaded()
        prompt = self.instruction if task == QUERY else self.document_instruction
        named = task if prompt is None and task in loaded.prompts else None
        options = {"task": task, **self.encode_options}
        rows: dict[int, Tensor] = {}
        for places in batches(items, self.batch_size, self.batch_tokens):
            inputs = [_input(*items[place]) for place in places]
            try:
                encoded = loaded.encode(
                    inputs, prompt=prompt, prompt_name=named, batch_size=len(places), show_progress_bar=False,
                    convert_to_tensor=True, **options,
                )  # fmt: skip
            except (ValueError, TypeError, KeyError) as error:
                told = one_line(str(error), 200)
                raise InputError(f"{self.name} can't embed this: {told}", setting="embedder.model") from None
            rows |= dict(zip(places, encoded.float().cpu(), strict=True))
        return torch.stack([rows[place] for place in range(len(items))])

    def _loaded(self) -> Any:
        if self._model is None:
            try:
                from sentence_transformers import SentenceTransformer  # of the extra `embedders`; takes seconds
            except ImportError:
                needed = "sentence-transformers needs the extra `embedders`: pip install -e '.[embedders]'"
                raise InputError(needed) from None
            try:
                self._model = SentenceTransformer(
                    self.model,
                    revision=self._revision,
                    device=self.device,
                    trust_remote_code=self.trust_remote_code,
                    model_kwargs={"dtype": getattr(torch, self.precision), **self.model_options},
                    processor_kwargs=self.processor_options or None,
                ).eval()
            except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError) as error:
                problem = f"{self.model} can't be loaded: {one_line(str(error), 180)}"
                raise InputError(problem, setting="embedder.model") from None
        return self._model


def _input(image: Image.Image | None, text: str | None) -> Any:
    """Return an item as the library takes it: a text or an image by itself, else a dictionary."""
    if image is None:
        return text
    return image if text is None else {"image": image, "text": text}
