"""Train the small CLIP of the embedded default on scenes and their full descriptions.

    python -m experiments.clip --out runs/train_clip

Contrastive training as CLIP's, on scenes drawn by the same generator as the scenes benchmark but from another seed. A
batch holds whole image sets, so that images that differ in one attribute of one object are each other's negatives.

Part of the descriptions are stories: first the reference is described, then how the image differs from it. CLIP was
trained on all kinds of sentences; a text tower trained on lists of objects only can't tell which object is to change.

A second phase adds bases whose images differ in the shape or fill of one object only. Without them, colours, sizes and
places distinguish nearly all images of a batch, and the image tower hardly learns shapes, which phrases name.

A third phase adds a contrastive loss between regions and names, as in RegionCLIP (Zhong et al., CVPR 2022): the patches
of an object against the names of all objects in the batch. It supervises every object separately, and so teaches in
minutes what CLIP has learned from hundreds of millions of images.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from contextcir import assets
from contextcir.checks import between, not_negative, positive, whole
from experiments.clip.model import SmallCLIP, naming, naming_logits, retrieval
from experiments.clip.scenes import IMAGES_PER_BASE, Pairs, Pool, draw_edited, draw_looks, make_pool
from experiments.command import command
from experiments.outputs import output_folder, runs_folder

HELD_OUT = 100  # bases at the beginning of the generator's that training never draws


@dataclass
class Phase:
    """A part of the training, with its own warm-up and cosine schedule.

    Args:
        steps: Optimizer steps, from 2 on; 0 leaves the phase out.
        lr: Peak learning rate of AdamW.
        warmup: Warm-up steps.
        naming: Weight of the loss between regions and names.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 200
    naming: float = 0.0

    def check(self, name: str) -> None:
        """Raise InputError for a number that can't be meant; ``name``: of the setting that is this phase."""
        whole(self.steps, 2, f"{name}.steps")
        positive(self.lr, f"{name}.lr")
        whole(self.warmup, 1, f"{name}.warmup", self.steps - 1)
        not_negative(self.naming, f"{name}.naming")


@dataclass
class Batches:
    """The composition of a batch.

    Args:
        size: Pairs of image and text.
        per_base: Pairs of one base (a reference with its image sets): hard negatives of each other.
        stories: Share of descriptions by the reference of the base and the difference from it.
    """

    size: int = 256
    per_base: int = 8
    stories: float = 0.5

    def check(self, bases: Sequence[int]) -> None:
        """Raise InputError for a number that can't be meant; ``bases``: their number in every pool."""
        whole(self.per_base, 1, "batches.per_base", IMAGES_PER_BASE)
        most = min(bases) * len(bases) * self.per_base
        whole(self.size, len(bases) * self.per_base, "batches.size", most)
        between(self.stories, 0, 1, "batches.stories")

    def draw(self, rng: np.random.Generator, pools: list[Pool]) -> Pairs:
        """Draw a batch, in equal parts from all pools."""
        parts = [pool.batch(rng, self.size // len(pools), self.per_base, self.stories) for pool in pools]
        images, texts, scenes = zip(*parts, strict=True)
        return Pairs(torch.cat(images), list(chain(*texts)), list(chain(*scenes)))


def optimizer_of(clip: torch.nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in clip.parameters() if p.ndim >= 2]
    others = [p for p in clip.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


def pair_loss(model: SmallCLIP, pairs: Pairs, weight: float) -> Tensor:
    """Return InfoNCE of images and texts, in both directions, plus ``weight`` times that from objects to names."""
    scale = model.clip.logit_scale.exp().clamp(max=100)
    image = model.encode_images(pairs.images)
    logits = scale * image.embedding @ model.embed_texts(pairs.texts).T  # (B, B)
    own = torch.arange(len(logits))
    loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    if weight:
        named, right = naming_logits(model, image.tokens, pairs.scenes)
        loss = loss + weight * functional.cross_entropy(scale * named, right)
    return loss


def run_phase(
    model: SmallCLIP, phase: Phase, batches: Batches, pools: list[Pool], seed: int, report: Callable[[int], None]
) -> None:
    """Train for the steps of a phase; ``report`` is called after each step."""
    clip, optimizer = model.clip, optimizer_of(model.clip, 0.05)
    rng = np.random.default_rng(seed)
    start, total = time.time(), 0.0
    for step in range(1, phase.steps + 1):
        progress = max(0, step - phase.warmup) / (phase.steps - phase.warmup)
        for group in optimizer.param_groups:
            group["lr"] = phase.lr * min(step / phase.warmup, 0.5 * (1 + math.cos(math.pi * progress)))
        loss = pair_loss(model, batches.draw(rng, pools), phase.naming)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if step % 50 == 0:
            speed = step * batches.size / (time.time() - start)
            print(
                f"step {step} loss {total / 50:.3f} scale {clip.logit_scale.exp().item():.1f} {speed:.0f} pairs/s",
                flush=True,
            )
            total = 0.0
        report(step)


def train_clip(
    edited: Phase = Phase(2800),  # noqa: B008  (a default of the command line)
    looks: Phase = Phase(1200, warmup=50),  # noqa: B008
    names: Phase = Phase(1500, lr=7e-4, warmup=50, naming=1.0),  # noqa: B008
    batches: Batches = Batches(),  # noqa: B008
    edited_bases: int = 10000,
    looks_bases: int = 4000,
    seed: int = 7,
    threads: int = 2,
    save_every: int = 200,
    held_out_bases: int = HELD_OUT,
    out: Path | None = None,
) -> None:
    """Train the small CLIP and write it, packed, to OUT.

    Each phase begins with the packed weights of the previous one, in half precision: an interrupted phase can be
    repeated by itself, with ``--edited.steps=0`` (and ``--looks.steps=0``).

    Args:
        edited: First phase, on image sets like the benchmark's.
        looks: Second phase, with half of each batch from scenes that differ in a shape or fill.
        names: Third phase, on the same scenes, with the loss between regions and names.
        batches: Composition of the batches.
        edited_bases: Bases rendered for all phases, of 11 images each.
        looks_bases: Bases rendered for the later phases, of 11 images each.
        seed: Seed of scenes, weights and batches.
        threads: CPU threads.
        save_every: Steps between checkpoints and evaluations.
        held_out_bases: Bases of an evaluation, which training never sees.
        out: Folder for the packed weights; runs/train_clip by default.
    """
    for name, phase in {"edited": edited, "looks": looks, "names": names}.items():
        if phase.steps:
            phase.check(name)
    whole(seed, 0, "seed", 2**32 - 1)
    for name, number in {"edited_bases": edited_bases, "threads": threads, "save_every": save_every}.items():
        whole(number, 1, name)
    whole(held_out_bases, 1, "held_out_bases", HELD_OUT)
    whole(looks_bases, 1, "looks_bases")
    if edited.steps:
        batches.check([edited_bases])
    if looks.steps or names.steps:
        batches.check([edited_bases, looks_bases])
    out = out or runs_folder("train_clip")
    output_folder(out, "out")
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    model = SmallCLIP(assets.config()["model_cfg"], seed)
    held_out = make_pool(draw_edited, seed, 0, held_out_bases, threads)
    held_out_looks = make_pool(draw_looks, seed, 0, held_out_bases, threads)
    pools = [make_pool(draw_edited, seed, HELD_OUT, edited_bases, threads)]
    phases = [("edited", edited, pools)]
    if looks.steps or names.steps:
        both = [*pools, make_pool(draw_looks, seed, HELD_OUT, looks_bases, threads)]
        phases += [("looks", looks, both), ("names", names, both)]
    print(f"{sum(len(pool.scenes) for pool in phases[-1][2])} scenes, {len(model.rows)} tokens", flush=True)
    for name, phase, given in phases:
        if name != "edited" and phase.steps:
            model.clip.load_state_dict(assets.packed_state(out)[0])

        def report(step: int, name: str = name, phase: Phase = phase) -> None:
            if step % save_every == 0 or step == phase.steps:
                assets.pack(model.clip.state_dict(), model.rows, out)
                figures = retrieval(model, held_out, seed)
                figures["within_looks_of_11"] = retrieval(model, held_out_looks, seed)["within_base_of_11"]
                figures["objects_named"] = naming(model, held_out)
                print(f"{name}: step {step} {figures}", flush=True)

        run_phase(model, phase, batches, given, seed, report)


if __name__ == "__main__":
    command(train_clip)
