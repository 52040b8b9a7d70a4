"""Train a text tower on short descriptions only, for the image tower of the embedded default.

    python -m experiments.clip.short --out runs/train_clip_short

CLIPs from the web often mix up which attribute belongs to which object, since their captions are short and the other
images of a batch show other things: the words alone, in any order, tell which image is meant (Yuksekgonul et al., ICLR
2023, "When and why vision-language models behave like bags-of-words"). The embedded default is no such model: it was
trained on long descriptions and modification texts, with hard negatives. Here a text says one thing of an image, and
every image of a batch is a scene of its own. What came out does not mix up attributes more than the default (see
contextcir/assets/README.md): what it lacks is long texts and modification texts.

The image tower is locked, as in LiT (Zhai et al., CVPR 2022), so all images are encoded once.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from contextcir import assets
from contextcir.checks import whole
from experiments.clip.__main__ import HELD_OUT, Phase, optimizer_of
from experiments.clip.binding import binding
from experiments.clip.model import SmallCLIP, retrieval
from experiments.clip.plain import clause, draw_plain
from experiments.clip.scenes import Pool, draw_edited, make_pool, normalise
from experiments.command import command
from experiments.outputs import output_folder, runs_folder

CHUNK = 256  # images that are encoded at a time


def locked_clip(seed: int) -> SmallCLIP:
    """Return the small CLIP with the image tower of the embedded default, and a text tower with random weights."""
    model = SmallCLIP(assets.config()["model_cfg"], seed)
    shipped, _ = assets.packed_state()
    model.clip.visual.load_state_dict(
        {name.removeprefix("visual."): value for name, value in shipped.items() if name.startswith("visual.")}
    )
    model.clip.visual.requires_grad_(False)
    return model


@torch.no_grad()
def embed_pool(model: SmallCLIP, pool: Pool) -> Tensor:
    """Embed all images of a pool: (N, E), L2-normalised."""
    chunks = (pool.images[start : start + CHUNK] for start in range(0, len(pool.images), CHUNK))
    return torch.cat([model.encode_images(normalise(chunk)).embedding for chunk in chunks])


def train_text(model: SmallCLIP, images: Tensor, pool: Pool, phase: Phase, size: int, seed: int) -> None:
    """Train the text tower by InfoNCE, in both directions, between images (N, E) and new clauses about them."""
    clip, rng = model.clip, np.random.default_rng(seed)
    optimizer = optimizer_of(clip, 0.05)
    start, total = time.time(), 0.0
    for step in range(1, phase.steps + 1):
        progress = max(0, step - phase.warmup) / (phase.steps - phase.warmup)
        for group in optimizer.param_groups:
            group["lr"] = phase.lr * min(step / phase.warmup, 0.5 * (1 + math.cos(math.pi * progress)))
        rows = rng.choice(len(images), size, replace=False)
        text = model.embed_texts([clause(rng, pool.scenes[row]) for row in rows])  # (B, E)
        logits = clip.logit_scale.exp().clamp(max=100) * images[rows] @ text.T  # (B, B)
        own = torch.arange(size)
        loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if step % 50 == 0:
            speed = step * size / (time.time() - start)
            scale = clip.logit_scale.exp().item()
            print(f"step {step} loss {total / 50:.3f} scale {scale:.1f} {speed:.0f} pairs/s", flush=True)
            total = 0.0


def train_short(
    phase: Phase = Phase(1000, lr=2e-3, warmup=100),  # noqa: B008  (a default of the command line)
    size: int = 128,
    scenes: int = 12000,
    seed: int = 7,
    threads: int = 2,
    out: Path | None = None,
) -> None:
    """Train a text tower on short descriptions, and write it, packed, to OUT.

    Args:
        phase: Steps and learning rate; ``naming`` is not used.
        size: Pairs of a batch.
        scenes: Images, each of a scene of its own.
        seed: Seed of scenes, weights and batches.
        threads: CPU threads.
        out: Folder for the packed weights; runs/train_clip_short by default.
    """
    phase.check("phase")
    whole(seed, 0, "seed", 2**32 - 1)
    whole(scenes, 1, "scenes")
    whole(size, 2, "size", scenes)
    whole(threads, 1, "threads")
    out = out or runs_folder("train_clip_short")
    output_folder(out, "out")
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    model, begun = locked_clip(seed), time.process_time()
    held_out = make_pool(draw_edited, seed, 0, HELD_OUT, threads)
    pool = make_pool(draw_plain, seed, 0, scenes, threads, each=1)
    images = embed_pool(model, pool)
    print(f"{len(images)} scenes, {len(model.rows)} tokens, {time.process_time() - begun:.0f} s", flush=True)
    train_text(model, images, pool, phase, size, seed)
    file = assets.pack(model.clip.state_dict(), model.rows, out, assets.SHORT)
    print(f"{file}: {retrieval(model, held_out, seed)}, {time.process_time() - begun:.0f} s of CPU time")
    print(f"attributes bound, percent: {binding(model.encode_images, model.embed_texts, seed)}")


if __name__ == "__main__":
    command(train_short)
