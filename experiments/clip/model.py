"""The small CLIP in training: its vocabulary, embeddings of images, regions and texts, and zero-shot evaluations."""

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional

from contextcir import assets
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.features import ImageFeatures, TokenBatch
from contextcir.encoders.text import Tokenizer
from data_modules.scenes.graph import PLACES, Scene
from data_modules.scenes.groups import caption, draw_sets
from data_modules.scenes.wording import describe, describe_object
from experiments.clip.scenes import IMAGES_PER_BASE, STREAM, Pool, normalise
from experiments.command import has_fast_bfloat16

DRAWN = 3000  # groups of scenes, whose texts have every word


def vocabulary(seed: int, tokenizer: Tokenizer) -> list[int]:
    """Return the sorted token ids of all words in descriptions, edits and queries of scenes."""
    words = {"find a picture that also shows, but . ; : an the is has does not and or with"}
    for number in range(DRAWN):
        rng = np.random.default_rng([seed, STREAM, number])
        reference, sets = draw_sets(rng, 2, vague=0.3)
        words |= {caption(rng, reference, members[0].edits).text for members in sets}
        words |= {describe(rng, members[0].scene, omit=0.3) for members in sets}
    return sorted({i for text in words for i in tokenizer([text]).ids[0].tolist()})


class SmallCLIP:
    """The small CLIP in training: its token table holds the vocabulary only, not 49,408 rows."""

    def __init__(self, settings: dict, seed: int) -> None:
        tokenizer = Tokenizer("ViT-B-32")
        self.rows = vocabulary(seed, tokenizer)
        text = {**settings["text_cfg"], "vocab_size": len(self.rows)}
        self.clip = open_clip.CLIP(settings["embed_dim"], settings["vision_cfg"], text)
        self.backbone = OpenCLIPBackbone.wrap(self.clip, tokenizer, assets.EMBEDDED)
        self.clip.logit_scale.requires_grad_(True)
        self._position = torch.zeros(settings["text_cfg"]["vocab_size"], dtype=torch.long)
        self._position[self.rows] = torch.arange(len(self.rows))

    def encode_images(self, images: Tensor) -> ImageFeatures:
        """Encode preprocessed images (B, 3, S, S): tokens (B, V, D) and L2-normalised embeddings (B, E)."""
        with _autocast():
            tokens, embedding = self.backbone.encode_image(images)
        return ImageFeatures(tokens, functional.normalize(embedding.float(), dim=-1))

    def embed_regions(self, tokens: Tensor) -> Tensor:
        """Embed the cells of the layout from vision tokens (B, V, D): (B, 9, E), L2-normalised.

        A cell is the mean of its patches, followed by the norm and the projection of the image tower.
        """
        visual, side = self.clip.visual, round(len(PLACES) ** 0.5)
        rows, columns = (extent // side for extent in visual.grid_size)
        grid = tokens[:, 1:].unflatten(1, (side, rows, side, columns))  # (B, 3, rows, 3, columns, D)
        cells = grid.mean(dim=(2, 4)).flatten(1, 2)  # (B, 9, D)
        with _autocast():
            projected = visual.ln_post(cells) @ visual.proj  # (B, 9, E)
        return functional.normalize(projected.float(), dim=-1)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed texts: (B, E), L2-normalised."""
        tokens = self.backbone.tokenizer(texts)
        with _autocast():
            text = self.backbone.encode_text(TokenBatch(self._position[tokens.ids], tokens.valid))
        return functional.normalize(text.embedding.float(), dim=-1)


@torch.no_grad()
def retrieval(model: SmallCLIP, pool: Pool, seed: int) -> dict[str, float]:
    """Return zero-shot recall at 1 in percent over the pool: text to image, image to text, and within a base."""
    rng = np.random.default_rng(seed)
    texts = [describe(rng, scene, omit=0.0) for scene in pool.scenes]
    images = torch.cat([model.encode_images(normalise(chunk)).embedding for chunk in np.array_split(pool.images, 16)])
    text = torch.cat([model.embed_texts(texts[i : i + 256]) for i in range(0, len(texts), 256)])
    scores = text @ images.T  # (N, N)
    own = torch.arange(len(scores))
    base = own // IMAGES_PER_BASE
    within = scores.masked_fill(base[:, None] != base, -2)

    def at_1(values: Tensor) -> float:
        return round(100 * (values.argmax(-1) == own).float().mean().item(), 2)

    return {"text_to_image": at_1(scores), "image_to_text": at_1(scores.T), "within_base_of_11": at_1(within)}


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_fast_bfloat16())


def named_objects(scenes: list[Scene]) -> tuple[list[int], list[int], list[str], list[int]]:
    """Return all objects of B scenes: row, cell, the N different names, and each object's index in these."""
    objects = [(row, item) for row, scene in enumerate(scenes) for item in scene.objects]
    number: dict[str, int] = {}
    names = [number.setdefault(describe_object(item), len(number)) for _, item in objects]
    return [row for row, _ in objects], [item.cell for _, item in objects], list(number), names


def naming_logits(model: SmallCLIP, tokens: Tensor, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Return cosines of every object's cell and all names of the batch (O, N), and the right names' indices (O,)."""
    row, cell, names, right = named_objects(scenes)
    return model.embed_regions(tokens)[row, cell] @ model.embed_texts(names).T, torch.tensor(right)


@torch.no_grad()
def naming(model: SmallCLIP, pool: Pool) -> float:
    """Return the percentage of objects whose cell is closest to their own name among all names in the pool."""
    tokens = torch.cat([model.encode_images(normalise(chunk)).tokens for chunk in np.array_split(pool.images, 16)])
    logits, right = naming_logits(model, tokens, pool.scenes)
    return round(100 * (logits.argmax(dim=-1) == right).float().mean().item(), 2)
