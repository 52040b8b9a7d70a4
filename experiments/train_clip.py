"""Train the small CLIP of the embedded default on scenes and their full descriptions.

    python -m experiments.train_clip --out runs/train_clip

Contrastive training as CLIP's, on scenes drawn by the same generator as the scenes benchmark but from another seed. A
batch holds whole image sets, so that images which differ in one attribute of one object are each other's negatives.

Part of the descriptions are told as a story: what was there, and then what is different now. CLIP has read all kinds of
sentences; a text tower that has read nothing but lists of objects can't tell who is meant to change.

A second phase adds bases whose images differ in the shape or fill of one object only. Without them colours, sizes and
places tell nearly all images of a batch apart, and the image tower hardly learns shapes, by which phrases name objects.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from data_modules.scenes.groups import caption, draw_sets
from data_modules.scenes.wording import describe
from experiments.clip_scenes import IMAGES_PER_BASE, STREAM, Pool, draw_edited, draw_looks, make_pool, normalise


def vocabulary(seed: int, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of all words that scenes are described, edited and asked for with, in order."""
    words = {"find a picture that also shows, but . ; : an the is has does not and or with"}
    for number in range(3000):
        rng = np.random.default_rng([seed, STREAM, number])
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
    base = own // IMAGES_PER_BASE
    within = scores.masked_fill(base[:, None] != base, -2)

    def at_1(values: Tensor) -> float:
        return round(100 * (values.argmax(-1) == own).float().mean().item(), 2)

    return {"text_to_image": at_1(scores), "image_to_text": at_1(scores.T), "within_base_of_11": at_1(within)}


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@dataclass
class Phase:
    """A part of the training, with its own warm-up and cosine.

    Args:
        steps: Optimizer steps; 0 leaves the phase out.
        lr: Peak learning rate of AdamW.
        warmup: Warm-up steps.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 200


@dataclass
class Batches:
    """What a batch is made of.

    Args:
        size: Image and text pairs.
        per_base: Pairs of one base (a reference with its image sets) in a batch: hard negatives.
        stories: Share of the descriptions that are told as a change of the base's reference.
    """

    size: int = 256
    per_base: int = 8
    stories: float = 0.5

    def draw(self, rng: np.random.Generator, pools: list[Pool]) -> tuple[Tensor, list[str]]:
        """Draw a batch, as much from one pool as from the other."""
        parts = [pool.batch(rng, self.size // len(pools), self.per_base, self.stories) for pool in pools]
        return torch.cat([images for images, _ in parts]), [text for _, texts in parts for text in texts]


def optimizer_of(clip: torch.nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    matrices = [p for p in clip.parameters() if p.ndim >= 2]
    others = [p for p in clip.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


def run_phase(
    model: SmallCLIP, phase: Phase, batches: Batches, pools: list[Pool], seed: int, report: Callable[[int], None]
) -> None:
    """Train for the steps of a phase; ``report`` is called after each."""
    clip, optimizer = model.clip, optimizer_of(model.clip, 0.05)
    rng, labels = np.random.default_rng(seed), torch.arange(batches.size)
    start, total = time.time(), 0.0
    for step in range(1, phase.steps + 1):
        progress = max(0, step - phase.warmup) / (phase.steps - phase.warmup)
        for group in optimizer.param_groups:
            group["lr"] = phase.lr * min(step / phase.warmup, 0.5 * (1 + math.cos(math.pi * progress)))
        images, texts = batches.draw(rng, pools)
        scale = clip.logit_scale.exp().clamp(max=100)
        logits = scale * model.embed_images(images) @ model.embed_texts(texts).T  # (B, B)
        loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if step % 50 == 0:
            speed = step * batches.size / (time.time() - start)
            print(f"step {step} loss {total / 50:.3f} scale {scale.item():.1f} {speed:.0f} pairs/s", flush=True)
            total = 0.0
        report(step)


def train_clip(
    edited: Phase = Phase(2800),  # noqa: B008  (a default of the command line)
    looks: Phase = Phase(1200, warmup=50),  # noqa: B008
    batches: Batches = Batches(),  # noqa: B008
    edited_bases: int = 10000,
    looks_bases: int = 4000,
    seed: int = 7,
    threads: int = 2,
    save_every: int = 200,
    out: Path = Path("runs/train_clip"),
) -> None:
    """Train the small CLIP and write it, packed, to OUT.

    Each phase begins with the packed weights of the one before it, in half precision: one that was interrupted can be
    done again alone, with ``--edited.steps=0``.

    Args:
        edited: Phase on image sets of the benchmark's kind.
        looks: Phase on these and, half of each batch, on scenes that differ in a shape or fill.
        batches: Batches.
        edited_bases: Bases rendered for both phases, of 11 images each.
        looks_bases: Bases rendered for the second phase, of 11 images each.
        seed: Seed of scenes, weights and batches.
        threads: CPU threads.
        save_every: Steps between checkpoints and evaluations.
        out: Folder for the packed weights.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    model = SmallCLIP(assets.config()["model_cfg"], seed)
    held_out = make_pool(draw_edited, seed, 0, 100, threads)
    held_out_looks = make_pool(draw_looks, seed, 0, 100, threads)
    pools = [make_pool(draw_edited, seed, 100, edited_bases, threads)]
    phases = [("edited", edited, pools)]
    if looks.steps:
        phases.append(("looks", looks, [*pools, make_pool(draw_looks, seed, 100, looks_bases, threads)]))
    print(f"{sum(len(pool.scenes) for pool in phases[-1][2])} scenes, {len(model.rows)} tokens", flush=True)
    for name, phase, given in phases:
        if name == "looks":
            model.clip.load_state_dict(assets.packed_state(out)[0])

        def report(step: int, name: str = name, phase: Phase = phase) -> None:
            if step % save_every == 0 or step == phase.steps:
                assets.pack(model.clip.state_dict(), model.rows, out)
                figures = retrieval(model, held_out, seed)
                figures["within_looks_of_11"] = retrieval(model, held_out_looks, seed)["within_base_of_11"]
                print(f"{name}: step {step} {figures}", flush=True)

        run_phase(model, phase, batches, given, seed, report)


if __name__ == "__main__":
    auto_cli(train_clip, as_positional=False)
