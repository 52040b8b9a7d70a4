"""Train the small CLIP of the embedded default on scenes and their full descriptions.

    python -m experiments.train_clip --out runs/train_clip

Contrastive training as CLIP's, on scenes drawn by the same generator as the scenes benchmark but from another seed. A
batch holds whole image sets, so that images which differ in one attribute of one object are each other's negatives.
"""

import math
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import open_clip
import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn import functional

from contextcir import assets
from contextcir.backbone import OpenCLIPBackbone
from contextcir.batch import TokenBatch
from contextcir.text import Tokenizer
from data_modules.scenes.graph import Scene
from data_modules.scenes.groups import caption, draw_sets
from data_modules.scenes.render import SIDE, place, render
from data_modules.scenes.wording import describe

_STREAM = 9  # keeps these scenes apart from those of the benchmark, whose streams are numbered from 0
_IMAGES_PER_BASE = 11  # a reference and two sets of five


@dataclass
class Pool:
    """Rendered scenes: ``images`` uint8 (N, SIDE, SIDE, 3), the `_IMAGES_PER_BASE` rows of a base together."""

    images: np.ndarray
    scenes: list[Scene]

    def batch(self, rng: np.random.Generator, size: int, per_base: int) -> tuple[Tensor, list[str]]:
        """Draw images, ``per_base`` of each base, with new descriptions."""
        bases = rng.choice(len(self.scenes) // _IMAGES_PER_BASE, size // per_base, replace=False)
        rows = [b * _IMAGES_PER_BASE + i for b in bases for i in rng.permutation(_IMAGES_PER_BASE)[:per_base]]
        return normalise(self.images[rows]), [describe(rng, self.scenes[row]) for row in rows]


def normalise(images: np.ndarray) -> Tensor:
    """Turn uint8 (B, S, S, 3) into what the model's preprocessing makes of such images: float32 (B, 3, S, S)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(0.5).div_(0.25)  # (B, 3, S, S)


def _draw_base(arguments: tuple[int, int]) -> tuple[list[Scene], np.ndarray]:
    seed, number = arguments
    rng = np.random.default_rng([seed, _STREAM, number])
    reference, sets = draw_sets(rng, 2)
    scenes = [reference, *(member.scene for members in sets for member in members)]
    return scenes, np.stack([render(scene, place(scene, rng), rng) for scene in scenes])


def make_pool(seed: int, first: int, bases: int, workers: int) -> Pool:
    """Draw and render scenes in worker processes; the result does not depend on their number."""
    images = np.empty((bases * _IMAGES_PER_BASE, SIDE, SIDE, 3), np.uint8)
    scenes: list[Scene] = []
    with get_context("fork").Pool(workers) as pool:
        for drawn, pixels in pool.imap(_draw_base, ((seed, first + i) for i in range(bases)), chunksize=64):
            images[len(scenes) : len(scenes) + len(drawn)] = pixels
            scenes += drawn
    return Pool(images, scenes)


def vocabulary(seed: int, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of all words that scenes are described, edited and asked for with, in order."""
    words = {"find a picture that also shows, but . ; : an the is has does not and or with"}
    for number in range(3000):
        rng = np.random.default_rng([seed, _STREAM, number])
        reference, sets = draw_sets(rng, 2, vague=0.3)
        words |= {caption(rng, reference, members[0].edits).text for members in sets}
        words |= {describe(rng, members[0].scene, omit=0.3) for members in sets}
    return sorted({i for text in words for i in tokenizer([text]).ids[0].tolist()})


class SmallCLIP:
    """The small CLIP while it trains: its token table holds the vocabulary only, not 49,408 rows."""

    def __init__(self, settings: dict, seed: int) -> None:
        tokenizer = Tokenizer("ViT-B-32")
        self.rows = vocabulary(seed, tokenizer)
        text = {**settings["text_cfg"], "vocab_size": len(self.rows)}
        self.clip = open_clip.CLIP(settings["embed_dim"], settings["vision_cfg"], text)
        self.backbone = OpenCLIPBackbone.wrap(self.clip, tokenizer, assets.EMBEDDED)
        self.clip.logit_scale.requires_grad_(True)
        self._position = torch.zeros(settings["text_cfg"]["vocab_size"], dtype=torch.long)
        self._position[self.rows] = torch.arange(len(self.rows))

    def embed_images(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) -> (B, E), L2-normalised."""
        with _autocast():
            return functional.normalize(self.backbone.encode_image(images).embedding.float(), dim=-1)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Texts -> (B, E), L2-normalised."""
        tokens = self.backbone.tokenizer(texts)
        with _autocast():
            text = self.backbone.encode_text(TokenBatch(self._position[tokens.ids], tokens.valid))
        return functional.normalize(text.embedding.float(), dim=-1)


@torch.no_grad()
def retrieval(model: SmallCLIP, pool: Pool, seed: int) -> dict[str, float]:
    """Return zero-shot recall at 1 in percent over the whole pool: text to image, image to text, and inside a base."""
    rng = np.random.default_rng(seed)
    texts = [describe(rng, scene, omit=0.0) for scene in pool.scenes]
    images = torch.cat([model.embed_images(normalise(chunk)) for chunk in np.array_split(pool.images, 16)])
    text = torch.cat([model.embed_texts(texts[i : i + 256]) for i in range(0, len(texts), 256)])
    scores = text @ images.T  # (N, N)
    own = torch.arange(len(scores))
    base = own // _IMAGES_PER_BASE
    within = scores.masked_fill(base[:, None] != base, -2)

    def at_1(values: Tensor) -> float:
        return round(100 * (values.argmax(-1) == own).float().mean().item(), 2)

    return {"text_to_image": at_1(scores), "image_to_text": at_1(scores.T), "within_base_of_11": at_1(within)}


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def train_clip(
    steps: int = 3000,
    batch_size: int = 256,
    per_base: int = 8,
    bases: int = 10000,
    lr: float = 1e-3,
    warmup: int = 200,
    weight_decay: float = 0.05,
    seed: int = 7,
    threads: int = 2,
    save_every: int = 250,
    out: Path = Path("runs/train_clip"),
) -> None:
    """Train the small CLIP and write it, packed, to OUT.

    Args:
        steps: Optimizer steps.
        batch_size: Image and text pairs in a batch.
        per_base: Pairs of one base (a reference with its image sets) in a batch: hard negatives.
        bases: Bases rendered for training, of 11 images each.
        lr: Peak learning rate of AdamW; linear warm-up, then cosine to zero.
        warmup: Warm-up steps.
        weight_decay: Weight decay of the matrices.
        seed: Seed of scenes, weights and batches.
        threads: CPU threads.
        save_every: Steps between checkpoints and evaluations.
        out: Folder for the packed weights.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    model = SmallCLIP(assets.config()["model_cfg"], seed)
    clip = model.clip
    start = time.time()
    held_out = make_pool(seed, 0, 100, threads)
    pool = make_pool(seed, 100, bases, threads)
    print(f"{len(pool.scenes)} scenes in {time.time() - start:.0f} s, {len(model.rows)} tokens", flush=True)
    matrices = [p for p in clip.parameters() if p.ndim >= 2]
    others = [p for p in clip.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)
    rng = np.random.default_rng(seed)
    labels = torch.arange(batch_size)
    start, total = time.time(), 0.0
    for step in range(1, steps + 1):
        rate = min(step / warmup, 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / (steps - warmup))))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        images, texts = pool.batch(rng, batch_size, per_base)
        scale = clip.logit_scale.exp().clamp(max=100)
        logits = scale * model.embed_images(images) @ model.embed_texts(texts).T  # (B, B)
        loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if step % 50 == 0:
            speed = step * batch_size / (time.time() - start)
            print(f"step {step} loss {total / 50:.3f} scale {scale.item():.1f} {speed:.0f} pairs/s", flush=True)
            total = 0.0
        if step % save_every == 0 or step == steps:
            assets.pack(clip.state_dict(), model.rows, out)
            print(f"step {step} {retrieval(model, held_out, seed)}", flush=True)


if __name__ == "__main__":
    auto_cli(train_clip, as_positional=False)
